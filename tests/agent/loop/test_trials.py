"""Trials: what a plan asks for of slices of which little is known, and what comes of it."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
from rich.console import Console

from agent import planners
from agent.autonomous.runner import run
from agent.config.settings import Settings
from agent.loop.trials import with_trials
from agent.loop.validation import validate
from agent.planners import (
    AttributeCombination,
    AttributeDistribution,
    Observation,
    PlanDraft,
    PromptDraft,
)
from agent.replay.verify import verify
from agent.replay.viewer import open_recording, print_all
from agent.session.folder import folder_of
from agent.steering.preferences import Preference
from eval.fixable import evidence_from, fixable
from memory.journal import read_events, rounds
from memory.records import (
    Batch,
    Plan,
    PromptQuality,
    Round,
    slice_key,
)
from prompts.vocabulary import load_vocabulary
from tests.agent.invented import record
from tests.factories import failure, report, slice_score

MakeSettings = Callable[..., Settings]

VOCABULARY = load_vocabulary("streets")
PALETTE = AttributeDistribution(
    rows=tuple(
        AttributeCombination(
            attributes={"light": light, "weather": weather}, class_name="scene", n=20
        )
        for light in ("day", "night")
        for weather in ("clear", "rain", "fog", "snow")
    )
)

FOG, SNOW = {"weather": "fog"}, {"weather": "snow"}
# Snow and fog are as hard as one another, but the generator draws something else for snow, and a
# model that has seen fog is better on it.
CORRECT = {"clear": 95, "rain": 85, "fog": 40, "snow": 40}
FOG_SEEN = 60
NO_SNOW_DRAWN = {"clear": True, "rain": True, "fog": True, "snow": False}


def live(plan: Plan, past: Sequence[Round]) -> Round:
    """What becomes of a plan in a world where nothing that snow's prompts draw is snow."""
    quality = tuple(
        PromptQuality(
            prompt_id=p.id,
            n_made=p.count,
            n_kept=p.count * NO_SNOW_DRAWN[p.attributes["weather"]],
            mean_weight=1,
        )
        for p in plan.prompts
    )
    correct = CORRECT | ({"fog": FOG_SEEN} if n_images(plan, "fog") else {})
    scores = [slice_score({"weather": weather}, n / 100) for weather, n in correct.items()]
    number = plan.round
    done = Round(
        number=number,
        plan=plan,
        batch=Batch(round=number, job_id="j", shards=(), quality=quality),
        report=report(*scores, number=number),
    )
    pulls = {p.id: 1.0 if NO_SNOW_DRAWN[p.attributes["weather"]] else -1.0 for p in plan.prompts}
    failures = []
    for attributes in (FOG, SNOW):
        key = slice_key(attributes)
        evidence = evidence_from(attributes, key, [*past, done], [pulls])
        failures.append(failure(attributes).model_copy(update={"fixable": fixable(evidence)}))
    return done.model_copy(update={"failures": tuple(failures)})


def observe(past: Sequence[Round], n_images: int = 60) -> Observation:
    return Observation(
        round=len(past) + 1, n_images=n_images, images_per_prompt=4, seed=0, rounds=tuple(past)
    )


def checked(draft: PlanDraft, number: int, n_images: int = 60) -> Plan:
    return validate(draft, number, n_images, "test", VOCABULARY, lambda text: 3, 64)


def planned(past: Sequence[Round], n: int = 12, wanted: Sequence[Preference] = ()) -> Plan:
    observation = observe(past)
    draft = planners.build("audited_failure").plan(observation, PALETTE, VOCABULARY)
    draft = with_trials(draft, observation, PALETTE, VOCABULARY, n, wanted)
    return checked(draft, observation.round)


def n_images(plan: Plan, weather: str) -> int:
    return sum(p.count for p in plan.prompts if p.attributes["weather"] == weather)


def a_round_without(*weathers: str, n: int = 60) -> Round:
    """A first round that asked for none of some weathers."""
    rows = [row for row in PALETTE.rows if row.attributes["weather"] not in weathers]
    prompts = [
        PromptDraft(class_name="scene", attributes=row.attributes, count=n // len(rows))
        for row in rows
    ]
    return live(checked(PlanDraft(prompts=tuple(prompts)), 1), [])


def test_a_slice_that_cannot_be_drawn_is_told_from_one_that_can() -> None:
    first = a_round_without("fog", "snow")
    assert [f.fixable for f in first.failures] == [None, None]
    plan = planned([first])
    assert [(t.slice, t.n_images) for t in plan.trials] == [
        ("weather=fog", 12),
        ("weather=snow", 12),
    ]
    assert (n_images(plan, "fog"), n_images(plan, "snow"), plan.n_images) == (12, 12, 60)
    assert all(p.count == 1 for p in plan.prompts if p.attributes["weather"] in ("fog", "snow"))

    second = live(plan, [first])
    fog, snow = (f.fixable for f in second.failures)
    assert fog and snow
    assert (fog.verdict, snow.verdict) == ("fixable", "not drawable")
    assert fog.chance.low > 0.5 > snow.chance.high

    third = planned([first, second])
    assert third.trials == ()
    assert third.n_images == 60
    # A floor is spread evenly; the rest follows the verdicts.
    aimed = {
        name: sum(p.count for p in third.prompts if p.why.endswith(f"on weather={name}"))
        for name in ("fog", "snow")
    }
    assert aimed["fog"] > 3 * aimed["snow"] > 0


def test_a_trial_is_only_for_what_lacks_images() -> None:
    first = a_round_without("snow")
    plan = planned([first])
    assert [t.slice for t in plan.trials] == ["weather=snow"]
    assert n_images(plan, "fog") > 12 == n_images(plan, "snow")
    # Four of twelve images are known already.
    draft = PlanDraft(prompts=(PromptDraft(class_name="scene", attributes=SNOW, count=4),))
    fewer = live(checked(draft, 1), [])
    assert n_images(planned([fewer]), "snow") == 8
    assert planned([first], n=0).trials == ()
    assert planned([]).trials == ()


def test_what_is_not_significant_or_cannot_be_asked_for_is_not_tried() -> None:
    first = a_round_without("fog", "snow")
    failures = (
        failure(FOG, significant=False),
        failure({"light": "dusk"}),
        failure({}).model_copy(update={"slice": "cluster 1"}),
    )
    assert planned([first.model_copy(update={"failures": failures})]).trials == ()


def test_trials_take_at_most_half_of_the_images() -> None:
    first = a_round_without("fog", "snow")
    plan = planned([first], n=20)
    (trial,) = plan.trials
    assert (trial.n_images, plan.n_images) == (20, 60)
    assert planned([first], n=31).trials == ()


def test_trials_keep_what_a_person_rules_out() -> None:
    first = a_round_without("fog", "snow")
    no_fog = Preference(id="w1", attributes={"weather": ("fog",)}, max_share=0)
    assert [t.slice for t in planned([first], wanted=[no_fog]).trials] == ["weather=snow"]
    by_day = Preference(id="w2", attributes={"light": ("day",)}, min_share=1)
    plan = planned([first], wanted=[by_day])
    tried = [p for p in plan.prompts if p.attributes["weather"] in ("fog", "snow")]
    assert {p.attributes["light"] for p in tried} == {"day"}


def test_prompts_that_name_a_slice_in_words_wait_for_its_trial() -> None:
    first = a_round_without("fog", "snow")
    said = PromptDraft(text="a foggy urban scene", class_name="scene", count=40)
    other = PromptDraft(class_name="scene", attributes={"weather": "rain"}, count=20)
    assert VOCABULARY.parse(said.text)["weather"] == "fog"
    draft = with_trials(PlanDraft(prompts=(said, other)), observe([first]), PALETTE, VOCABULARY, 12)
    plan = checked(draft, 2)
    assert (n_images(plan, "fog"), n_images(plan, "rain"), plan.n_images) == (12, 36, 60)


def test_a_plan_of_trials_alone_keeps_its_images() -> None:
    first = a_round_without("fog", "snow")
    draft = PlanDraft(prompts=(PromptDraft(class_name="scene", attributes=FOG, count=60),))
    plan = checked(with_trials(draft, observe([first]), PALETTE, VOCABULARY, 12), 2)
    assert (plan.n_images, n_images(plan, "snow")) == (60, 12)


@pytest.mark.parametrize("count", [-1, 0, 61, 10**4000])
def test_a_draft_that_cannot_be_a_plan_is_left_as_it_is(count: int) -> None:
    first = a_round_without("fog", "snow")
    draft = PlanDraft(prompts=(PromptDraft(class_name="scene", attributes=FOG, count=count),))
    assert with_trials(draft, observe([first]), PALETTE, VOCABULARY, 12) is draft


@pytest.mark.parametrize("stage", [None, "generate", "train"])
def test_a_session_with_trials_survives_a_crash_and_replays(
    tmp_path: Path, stage: str | None
) -> None:
    options = ["feedback.trial=12", "session.rounds=3", "brain=policy:audited_failure"]
    plain = record(tmp_path, "plain", *options)
    folder = record(tmp_path, "other", *options, crash_in=(2, stage) if stage else None)
    found = [r.plan for r in rounds(read_events(folder / "journal.jsonl"))]
    assert found == [r.plan for r in rounds(read_events(plain / "journal.jsonl"))]
    plans = [plan for plan in found if plan]
    assert [plan.n_images for plan in plans] == [24] * 3
    assert not plans[0].trials
    (trial,) = plans[1].trials
    own = [p for p in plans[1].prompts if p.attributes == trial.attributes]
    assert sum(p.count for p in own) == trial.n_images <= 12
    assert verify(folder / "journal.jsonl").findings == ()
    shown = Console(file=io.StringIO(), record=True, width=200)
    print_all(open_recording(folder), shown)
    assert f"{trial.n_images} images of {trial.slice}" in shown.export_text()


KILLED = """
import sys
from rich.console import Console
from agent.autonomous.runner import run
from agent.config.settings import Settings
run(Settings.model_validate_json(sys.argv[1]), Console())
"""


def test_kill_9_in_a_trial_loses_no_image(make_settings: MakeSettings) -> None:
    overrides = [
        "session.name=trial",
        "session.images_per_prompt=1",
        "session.shard_size=2",
        "feedback.trial=12",
        "feedback.alpha=0.9",
        "feedback.n_min=5",
        "brain=policy:audited_failure",
    ]
    settings = make_settings(*overrides, home="killed")
    folder = folder_of(settings.home, "trial")
    command = [sys.executable, "-c", KILLED, settings.model_dump_json()]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 120
        while not (folder / "rounds/002/data-00003.parquet").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
    made = {p: p.stat().st_mtime_ns for p in folder.glob("rounds/*/data-*.parquet")}
    run(settings, Console(quiet=True))
    assert all(p.stat().st_mtime_ns == mtime for p, mtime in made.items())
    undisturbed = make_settings(*overrides, home="undisturbed")
    run(undisturbed, Console(quiet=True))
    both = [
        rounds(read_events(folder_of(s.home, "trial") / "journal.jsonl"))
        for s in (settings, undisturbed)
    ]
    one, two = ([(r.plan, r.batch, r.report, r.failures) for r in found] for found in both)
    assert one == two
    plan, batch = one[1][0], one[1][1]
    assert plan and batch and plan.trials
    assert plan.n_images == batch.n_made == 24
    assert verify(folder / "journal.jsonl").findings == ()
