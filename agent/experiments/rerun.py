"""Recomputes stages of a session from what is on disk, and compares with its journal."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.config.settings import Settings
from agent.loop.components import build_target, build_trainer, choose_device
from memory.errors import SettingsError, unknown
from memory.journal import read_events, rounds
from memory.records import Report, Round, Training
from tools import tasks
from tools.data.jobs import shards_of
from tools.data.stored_images import StoredImages
from tools.evaluate_real import evaluate
from tools.models.dstm_file import save_model
from tools.targets import Target, label_names
from tools.train_dstm import train_model

STAGES = ("train", "evaluate")
# Another processor or version of torch rounds otherwise: a report then may differ by some
# photographs, a loss by a little.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Rerun:
    """One stage computed again; difference: the largest of any figure, 0 when bit for bit."""

    round: int
    stage: str
    same: bool
    difference: float
    figures: int

    @property
    def ok(self) -> bool:
        """Whether it is the same, or within the tolerance."""
        return self.same or self.difference <= TOLERANCE


def rerun(
    folder: Path,
    home: Path,
    stages: Sequence[str],
    done: Callable[[Rerun], None] = lambda result: None,
) -> list[Rerun]:
    """Train and evaluate every round again; the session's own files are only read.

    Raises SettingsError for an unknown stage, DataError or WeightsError for files that are
    missing or damaged.
    """
    for stage in stages:
        if stage not in STAGES:
            raise SettingsError(unknown("stage to rerun", stage, STAGES))
    events = read_events(folder / "journal.jsonl")
    head = next(e for e in events if e["kind"] == "session")
    settings = Settings.model_validate({**head["settings"], "home": home})
    results = []
    for result in _results(folder, settings, rounds(events), stages):
        done(result)
        results.append(result)
    return results


def _results(
    folder: Path, settings: Settings, past: Sequence[Round], stages: Sequence[str]
) -> Iterator[Rerun]:
    target = build_target(settings)
    device = choose_device(settings)
    for current in past:
        if "train" in stages and current.training:
            shards = shards_of(folder, (r for r in past if r.number <= current.number))
            yield _train(current.training, shards, settings, target, device)
        if "evaluate" in stages and current.training and current.report:
            yield _evaluate(folder, current.training, current.report, settings, target, device)


def _train(
    recorded: Training, shards: Sequence[Path], settings: Settings, target: Target, device: str
) -> Rerun:
    own = settings.dstm.model_copy(update={"seed": settings.session.seed})
    task = tasks.build(own.task)
    n_classes = len(label_names(target, task))
    if trainer := build_trainer(settings, device):
        model, loss, _ = trainer.train(shards, n_classes, own, device)
    else:
        model, loss, _ = train_model(StoredImages(shards), task, n_classes, own, device)
    with tempfile.TemporaryDirectory() as scratch:
        sha256 = save_model(Path(scratch), model, {"task": own.task})
    same = sha256 == recorded.sha256 and loss == recorded.final_loss
    return Rerun(recorded.round, "train", same, abs(loss - recorded.final_loss), 1)


def _evaluate(
    folder: Path,
    training: Training,
    recorded: Report,
    settings: Settings,
    target: Target,
    device: str,
) -> Rerun:
    feedback = settings.feedback
    samples = target.split("feedback")
    report, _ = evaluate(
        folder / training.model,
        samples,
        "feedback",
        recorded.round,
        feedback.slices,
        feedback.n_min,
        device,
    )
    old, new = _figures(recorded), _figures(report)
    known = old.keys() & new.keys()
    difference = max((abs(old[name] - new[name]) for name in known), default=0.0)
    if old.keys() != new.keys():
        difference = 1.0
    return Rerun(recorded.round, "evaluate", old == new, difference, len(old))


def _figures(report: Report) -> dict[str, float]:
    values = {name: metric.value for name, metric in report.metrics.items()}
    return values | {f"slice {s.key}": s.accuracy.value for s in report.slices}
