"""Round 0: the model of the photographs alone, which sessions begin with and are compared with."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from html import unescape
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import save

from agent.autonomous.delivery import chosen_round
from agent.autonomous.dry_run import show
from agent.autonomous.report import write_report
from agent.autonomous.runner import run, run_rounds
from agent.autonomous.status import read_delivery, read_status
from agent.chat.conversation import Conversation
from agent.chat.live import LiveSession
from agent.config.settings import Settings
from agent.experiments.rerun import rerun
from agent.loop.components import Components
from agent.loop.live_effects import LiveEffects
from agent.loop.observer import Observer
from agent.replay.counterfactual import counterfactual
from agent.replay.diff import compare_sessions
from agent.replay.verify import verify
from agent.session.folder import folder_of, list_sessions, memory_of, open_session
from agent.session.fork import fork
from agent.session.undo import undo
from eval.report.blocks import plain_text
from eval.report.delivery import delivery_line
from memory.errors import SettingsError
from memory.events import Event, RoundDoneEvent
from memory.items import items_from_events
from memory.journal import read_events, rounds
from tests.agent.quick import toy_settings
from tools.data.jobs import round_folder
from tools.evaluate_real import read_sealed

BASELINE = (
    "dstm.train_on=real+synthetic",
    "feedback.discovery='off'",
    "feedback.slices=[[brightness],[severity]]",
    "session.shard_size=8",
    "limits.disk_reserve_gb=0",
)


def settings_of(home: Path, name: str, *overrides: str) -> Settings:
    return toy_settings(home, *BASELINE, f"session.name={name}", *overrides)


def finished(settings: Settings) -> Path:
    run(settings, Console(quiet=True))
    return folder_of(settings.home, str(settings.session.name))


def keys(folder: Path) -> list[str]:
    return [event.key for event in read_events(folder / "journal.jsonl") if event.key]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def folder(home: Path) -> Path:
    """A session of round 0 and two rounds with images."""
    return finished(settings_of(home, "whole"))


@pytest.fixture(scope="module")
def events(folder: Path) -> list[Event]:
    return read_events(folder / "journal.jsonl")


def test_a_session_begins_with_the_model_of_the_photographs(
    folder: Path, events: list[Event]
) -> None:
    zero, one, two = rounds(events)
    assert zero.number == 0
    assert zero.label == "0 (real only)"
    assert zero.plan is None
    assert zero.batch is None
    assert zero.training and zero.report and zero.failures
    assert set(zero.seconds) == {"train", "evaluate", "inspect"}
    assert [e.key for e in events if e.round_number in (0, 1) and e.key][:7] == [
        "stage/0/train",
        "training/0",
        "stage/0/evaluate",
        "report/0",
        "stage/0/inspect",
        "failures/0",
        "opening/1",
    ]
    assert [report.round for report in read_sealed(folder)] == [0, 1, 2]
    # It is no round of the budget, and all of that is spent on images.
    assert sum(isinstance(e, RoundDoneEvent) for e in events) == 2
    assert one.batch and two.batch and one.batch.n_made == two.batch.n_made == 16


def test_its_failures_are_what_the_first_plan_goes_by(events: list[Event]) -> None:
    zero, one, _ = rounds(events)
    assert zero.report and one.plan and one.plan.hypothesis and one.verdict
    before = {score.key: score.accuracy for score in zero.report.slices}
    assert one.plan.hypothesis.slice in before
    assert one.verdict.before == before[one.plan.hypothesis.slice]
    assert {credit.slice for credit in one.credits} <= before.keys()
    (opening,) = (e for e in events if e.key == "opening/1")
    assert opening.content()["facts"]["reports"] == [0]
    (second,) = (e for e in events if e.key == "opening/2")
    metric = zero.report.main_metric
    assert second.content()["facts"]["baseline"] == zero.report.metrics[metric].value


def test_all_that_reads_sessions_knows_it(home: Path, folder: Path, events: list[Event]) -> None:
    assert verify(folder / "journal.jsonl").findings == ()
    assert "0 (real only)" in write_report(home, "whole").read_text("utf-8")
    (info,) = list_sessions(home)
    assert (info.rounds_done, info.rounds, info.state) == (2, 2, "finished")
    assert [row[0] for row in compare_sessions(home, "whole", "whole").rows] == ["0", "1", "2"]
    decisions = list(
        counterfactual(read_events(folder / "journal.jsonl", undone=True), "policy:count")
    )
    assert [(d.round, d.plan is not None) for d in decisions] == [(1, True), (2, True)]
    remembered = items_from_events(events)
    known = {item.round for item in remembered if item.kind == "failure"}
    zero = rounds(events)[0]
    assert (0 in known) == any(failure.significant for failure in zero.failures)


def test_what_images_changed_is_said_where_the_session_ends(home: Path, folder: Path) -> None:
    delivery = read_delivery(folder)
    assert delivery
    sealed = {report.round: report for report in read_sealed(folder)}
    main = delivery.changes[0]
    metric = sealed[0].main_metric
    assert main.before == pytest.approx(sealed[0].metrics[metric].value)
    assert main.after == pytest.approx(sealed[delivery.compared].metrics[metric].value)
    assert delivery.n_images == 16 * delivery.compared
    sentence = delivery_line(delivery).text
    assert read_status(home, "whole").delivery == delivery
    card = (folder / "best" / "README.md").read_text("utf-8")
    page = (folder / "report.html").read_text("utf-8")
    for text in (card, page):
        assert sentence in unescape(text)
        assert "Your 140 photographs alone" in text
    assert f"round {delivery.round}" in card
    assert page.index("Your 140 photographs alone") < page.index("Headline figures")


def test_of_rounds_as_good_within_noise_the_one_with_fewer_images_is_delivered(
    home: Path, folder: Path, tmp_path: Path
) -> None:
    settings = settings_of(home, "whole")
    target = Components(settings).target
    zero, one, two = rounds(read_events(folder / "journal.jsonl"))
    assert two.report
    metric = two.report.main_metric
    best = two.report.metrics[metric].model_copy(update={"value": 0.99})
    report = two.report.model_copy(update={"metrics": {**two.report.metrics, metric: best}})
    past = [zero, one, two.model_copy(update={"report": report})]
    for number in range(3):
        place = round_folder(tmp_path, number)
        place.mkdir(parents=True)
        for name in ("feedback.safetensors", "sealed.safetensors"):
            shutil.copy(round_folder(folder, 0) / name, place / name)
    chosen = chosen_round(tmp_path, settings, target, past)
    assert chosen and chosen.number == 0
    feedback = target.split("feedback")
    truth = np.eye(len(target.class_names))[feedback.classes]
    metadata = {"ids": json.dumps(list(feedback.ids)), "task": "classification"}
    path = round_folder(tmp_path, 2) / "feedback.safetensors"
    path.write_bytes(save({"predictions": truth}, metadata=metadata))
    chosen = chosen_round(tmp_path, settings, target, past)
    assert chosen and chosen.number == 2


def test_a_chat_answers_whether_images_help(home: Path, folder: Path) -> None:
    with open_session(settings_of(home, "whole"), "whole") as session:
        live = LiveSession(session)
        try:
            answer = plain_text(Conversation(live).say("Is it better than my photographs alone?"))
            changed = plain_text(Conversation(live).say("what has changed?"))
        finally:
            live.close()
    past = rounds(read_events(folder / "journal.jsonl"))
    assert past[2].training
    for text in (
        "round 0 (real only)",
        "round 2, 32 images made",
        "33% of the draws of a class are generated images",
        f"{past[2].training.n_real} photographs, 32 generated images",
    ):
        assert text in answer
    assert "round 0 (real only) | round 2" in changed


def test_forks_and_undone_sessions_keep_it(home: Path, folder: Path) -> None:
    shared = folder_of(home, fork(home, "whole", 2, "forked", ["brain=policy:count"]))
    assert (round_folder(shared, 0) / "model.json").exists()
    finished(settings_of(home, "forked", "brain=policy:count"))
    assert [r.number for r in rounds(read_events(shared / "journal.jsonl"))] == [0, 1, 2]
    assert verify(shared / "journal.jsonl").findings == ()
    settings = settings_of(home, "forked", "brain=policy:count")
    with open_session(settings, "forked") as session:
        assert undo(session, memory_of(home)) == 2
        assert undo(session, memory_of(home)) == 1
        assert [r.number for r in session.rounds()] == [0]
        with pytest.raises(Exception, match="no plan"):
            undo(session, memory_of(home))
    finished(settings)
    assert verify(shared / "journal.jsonl").findings == ()
    assert sum(key == "training/0" for key in keys(shared)) == 1


def test_a_model_that_is_good_enough_needs_no_image(home: Path) -> None:
    folder = finished(settings_of(home, "enough", "limits.target_score=0.01"))
    events = read_events(folder / "journal.jsonl")
    assert [r.number for r in rounds(events)] == [0]
    assert events[-1].content()["rule"] == "target_score"
    assert (folder / "best" / "predict.py").exists()
    assert verify(folder / "journal.jsonl").findings == ()


def test_a_session_ends_when_its_rounds_bring_nothing_beyond_noise(home: Path) -> None:
    settings = settings_of(home, "noise", "session.rounds=9", "limits.no_gain=1")
    events = read_events(finished(settings) / "journal.jsonl")
    assert [r.number for r in rounds(events)] == [0, 1]
    assert events[-1].content()["rule"] == "no_gain"
    assert "round 0 (real only)" in events[-1].content()["told"]


def test_a_dry_run_says_what_round_0_is(home: Path) -> None:
    console = Console(width=200, record=True, quiet=False, file=StringIO())
    show(settings_of(home, "dry"), console)
    text = console.export_text()
    assert "Round 0 trains on 140 photographs alone" in text
    assert "round 0: " in text


def test_where_only_images_are_trained_on_there_is_none(home: Path) -> None:
    folder = finished(settings_of(home, "images", "dstm.train_on=synthetic", "session.rounds=1"))
    assert [r.number for r in rounds(read_events(folder / "journal.jsonl"))] == [1]
    assert not round_folder(folder, 0).exists()


class Interrupted(LiveEffects):
    """Ends with an error where a stage's work is done, but not journaled yet."""

    def __init__(self, components: Components, stage: str) -> None:
        super().__init__(components)
        self._at = stage

    @contextmanager
    def stage(self, name: str, round_number: int) -> Iterator[None]:
        with super().stage(name, round_number):
            yield
            if name == self._at:
                raise KeyboardInterrupt


@pytest.mark.parametrize("stage", ["train", "evaluate", "inspect"])
def test_a_session_that_is_ended_in_it_goes_on(
    home: Path, folder: Path, tmp_path: Path, stage: str
) -> None:
    (tmp_path / "cache").symlink_to(home / "cache")
    settings = settings_of(tmp_path, "whole", "limits.target_score=0.01")
    with open_session(settings, "whole") as session:
        components = Components.of_session(session, Observer())
        with pytest.raises(KeyboardInterrupt):
            run_rounds(components, Interrupted(components, stage))
        assert f"stage/0/{stage}" not in keys(session.folder)
    (resumed,) = rounds(read_events(finished(settings) / "journal.jsonl"))
    whole = rounds(read_events(folder / "journal.jsonl"))[0]
    assert resumed.training == whole.training
    assert resumed.report == whole.report
    assert resumed.failures == whole.failures


def test_the_users_own_model_is_measured_as_it_is(home: Path, folder: Path) -> None:
    given = folder / "best"
    own = finished(settings_of(home, "own", f"session.baseline={given}", "session.rounds=1"))
    zero, one = rounds(read_events(own / "journal.jsonl"))
    best = json.loads((given / "model.json").read_bytes())
    assert zero.training and zero.report and one.plan
    assert zero.label == "0 (your model)"
    assert zero.training.n_steps == zero.training.n_images == 0
    assert zero.training.sha256 == best["sha256"]
    measured = [r for r in rounds(read_events(folder / "journal.jsonl")) if r.training]
    (same,) = (r for r in measured if r.training and r.training.sha256 == best["sha256"])
    assert same.report and zero.report.metrics == same.report.metrics
    assert verify(own / "journal.jsonl").findings == ()
    assert next(rerun(own, home, ["evaluate"])).same


def test_a_classifier_of_transformers_can_be_given(home: Path, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    place = tmp_path / "resnet"
    names = {0: "functional", 1: "defective"}
    config = transformers.ResNetConfig(
        num_channels=1,
        embedding_size=4,
        hidden_sizes=[4, 8],
        depths=[1, 1],
        id2label=names,
    )
    transformers.AutoModelForImageClassification.from_config(config).save_pretrained(place)
    settings = settings_of(home, "hub", f"session.baseline={place}", "limits.target_score=0.01")
    (zero,) = rounds(read_events(finished(settings) / "journal.jsonl"))
    assert zero.label == "0 (your model)"
    config.id2label = {0: "cat", 1: "dog"}
    config.save_pretrained(place)
    with pytest.raises(SettingsError, match=r"cat, dog.*functional, defective"):
        finished(settings_of(home, "cats", f"session.baseline={place}"))
    with pytest.raises(SettingsError, match="neither"):
        finished(settings_of(home, "none", f"session.baseline={tmp_path}"))
