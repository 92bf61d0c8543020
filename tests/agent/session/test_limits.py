from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest
from rich.console import Console
from transformers import ViTForImageClassification

from agent.autonomous import dry_run
from agent.autonomous.runner import run
from agent.config.settings import Settings, load_settings
from agent.session.folder import folder_of
from agent.session.limits import best_round, done_of, ending
from memory.errors import SettingsError
from memory.events import EndedEvent
from memory.journal import read_events
from memory.records import Batch, PromptQuality, Round
from tests.factories import estimate, report, training
from tests.tools.tiny_transformers import vit

MakeSettings = Callable[..., Settings]


def done(*scores: float, seconds: float = 60) -> list[Round]:
    return [
        Round(
            number=number,
            batch=Batch(
                round=number,
                job_id="j",
                shards=(),
                quality=(PromptQuality(prompt_id="p", n_made=100, n_kept=90, mean_weight=1),),
            ),
            training=training(number),
            report=report(number=number, metrics={"accuracy": estimate(score)}),
            seconds={"generate": seconds},
        )
        for number, score in enumerate(scores, 1)
    ]


def settings(**limits: object) -> Settings:
    assignments = [f"limits.{key}={value}" for key, value in limits.items()]
    return load_settings(
        "solar", ["session.rounds=9", "session.images_per_round=100", *assignments], {}
    )


@pytest.mark.parametrize(
    ("limits", "scores", "hours", "rule"),
    [
        ({}, (0.5, 0.6), 1, None),
        ({}, (0.5,) * 9, 1, "rounds"),
        ({"target_score": 0.6}, (0.5, 0.6), 1, "target_score"),
        ({"target_score": 0.6}, (0.6, 0.5), 1, "target_score"),
        ({"patience": 2}, (0.6, 0.5), 1, None),
        ({"patience": 2}, (0.6, 0.5, 0.6), 1, "patience"),
        ({"max_images": 300}, (0.5, 0.5), 1, None),
        ({"max_images": 299}, (0.5, 0.5), 1, "max_images"),
        ({"max_hours": 2}, (0.5,), 1.9, None),
        ({"max_hours": 2}, (0.5,), 1.99, "max_hours"),
        ({"max_gpu_hours": 1}, (0.5,), 5, "max_gpu_hours"),
        ({"max_hours": 1, "target_score": 0.4}, (0.5,), 5, "target_score"),
    ],
)
def test_the_first_rule_that_holds_ends_a_session(
    limits: dict[str, object], scores: tuple[float, ...], hours: float, rule: str | None
) -> None:
    past = [done_of(current) for current in done(*scores)]
    found = ending(settings(**limits), past, hours * 3600, hours * 3600)
    assert (found and found.rule) == rule


def test_small_limits_are_told_with_digits_that_differ() -> None:
    found = ending(settings(max_hours=0.004), [], 37, 0)
    assert found and found.message.startswith("0.0103 of 0.004 hours are spent")


def test_fewer_images_than_one_round_are_refused() -> None:
    with pytest.raises(SettingsError, match="fewer than the 100 images of one round"):
        ending(settings(max_images=99), [], 0, 0)


def test_the_earlier_of_equal_rounds_is_best() -> None:
    assert best_round(done(0.5, 0.7, 0.7)) == (2, 0.7)
    assert best_round([]) is None


def test_a_session_ends_by_a_limit_says_so_and_goes_on_with_a_higher_one(
    make_settings: MakeSettings,
) -> None:
    less = make_settings("session.name=less", "session.rounds=5", "limits.max_images=30")
    run(less, Console(quiet=True))
    path = folder_of(less.home, "less") / "journal.jsonl"
    last = read_events(path)[-1]
    assert isinstance(last, EndedEvent) and (last.rule, last.round) == ("max_images", 1)
    assert "would pass 30" in (path.parent / "report.html").read_text("utf-8")
    run(make_settings("session.name=less", "session.rounds=2"), Console(quiet=True))
    last = read_events(path)[-1]
    assert isinstance(last, EndedEvent) and last.rule == "rounds"


def test_a_dry_run_shows_plan_and_estimate_and_writes_no_session(
    make_settings: MakeSettings,
) -> None:
    console = Console(record=True, width=200, file=io.StringIO())
    dry_run.show(make_settings("limits.max_images=48"), console)
    text = console.export_text()
    assert "images_per_round: 24" in text
    assert "Round 1 as policy:audited_failure plans it: 24 images" in text
    assert "Estimate, by a short measurement" in text
    assert "2 rounds with 48 images" in text
    assert not (make_settings().home / "sessions").exists()


def test_a_dry_run_says_what_a_model_folder_does_not_give(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    ViTForImageClassification(vit(num_channels=3)).save_pretrained(tmp_path / "vit")
    console = Console(record=True, width=500, file=io.StringIO())
    dry_run.show(make_settings(f"dstm.model={tmp_path / 'vit'}"), console)
    assert "preprocessor_config.json gives no image_mean" in console.export_text()


def test_an_estimate_comes_from_the_last_session_like_it(make_settings: MakeSettings) -> None:
    run(make_settings("session.name=known", "session.rounds=1"), Console(quiet=True))
    speed = dry_run.earlier_speed(make_settings("session.images_per_round=99"))
    assert speed is not None
    assert speed.source == "the session 'known'"
    assert (speed.tokens, speed.usd) == (0, 0)
    assert dry_run.earlier_speed(make_settings("dstm.batch_size=8")) is None
