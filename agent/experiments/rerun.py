"""Recomputation of stages of a session from its files, compared with its journal."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from agent.config.settings import Settings
from agent.config.stored import read_stored
from agent.loop.components import Components
from agent.loop.photographs import folds_of
from agent.session import trust
from memory.errors import SettingsError, unknown
from memory.journal import find_head, head_of, read_events, rounds
from memory.records import Report, Round, Training
from tools.data.jobs import shards_of
from tools.evaluate_real import evaluate
from tools.models.dstm_file import save_model
from tools.tasks import Slicing

STAGES = ("train", "evaluate")
# Largest accepted difference: rounding depends on the processor and the version of torch, and may
# change the predictions of a few photographs.
TOLERANCE = 0.02


@dataclass(frozen=True)
class Rerun:
    """The result of a recomputed stage.

    Attributes:
        round: Number of the round.
        stage: One of STAGES.
        same: Whether the results are identical to the last bit.
        difference: Largest difference of a figure.
        figures: Number of compared figures.
    """

    round: int
    stage: str
    same: bool
    difference: float
    figures: int

    @property
    def ok(self) -> bool:
        """Whether the results are identical or within the tolerance."""
        return self.same or self.difference <= TOLERANCE


def rerun(folder: Path, home: Path, stages: Sequence[str]) -> Iterator[Rerun]:
    """Train and evaluate every round again; the files of the session are not changed.

    Args:
        folder: Folder of the session.
        home: Home folder with the cache of the target.
        stages: Stages to recompute, of STAGES.

    Raises:
        SettingsError: A stage is unknown.
        DataError: Images are missing or damaged.
        WeightsError: A model is missing or damaged.
        UntrustedSession: The record names code that was not given on this machine.
    """
    for stage in stages:
        if stage not in STAGES:
            raise SettingsError(unknown("stage to rerun", stage, STAGES))
    settings = recorded_settings(folder, home)
    trust.check(settings, settings, folder.name)
    trust.trust(settings)
    return _results(folder, settings, rounds(read_events(folder / "journal.jsonl")), stages)


def recorded_settings(folder: Path, home: Path) -> Settings:
    """Return the settings from the journal of a session."""
    events = read_events(folder / "journal.jsonl")
    # `head_of` would also refuse records of other versions, whose settings can still be read.
    head = find_head(events) or head_of(events)
    return read_stored({**head.settings, "home": home})


def _results(
    folder: Path, settings: Settings, past: Sequence[Round], stages: Sequence[str]
) -> Iterator[Rerun]:
    components = Components(settings)
    for current in past:
        if "train" in stages and current.training:
            shards = shards_of(folder, (r for r in past if r.number <= current.number))
            yield _train(current.training, shards, components)
        if "evaluate" in stages and current.training and current.report:
            yield _evaluate(folder, current.training, current.report, components)


def _train(recorded: Training, shards: Sequence[Path], components: Components) -> Rerun:
    settings = components.settings
    dstm = components.dstm_of(recorded, settings.session.seed)
    shards, real = components.learnt_from(shards)
    n_classes = len(components.label_names)
    model, loss = components.trainer.train(shards, n_classes, dstm, real=real)
    with tempfile.TemporaryDirectory() as scratch:
        sha256 = save_model(Path(scratch), model, {"task": dstm.task})
    same = sha256 == recorded.sha256 and loss == recorded.final_loss
    return Rerun(recorded.round, "train", same, abs(loss - recorded.final_loss), 1)


def _evaluate(folder: Path, training: Training, recorded: Report, components: Components) -> Rerun:
    settings = components.settings.feedback
    folds = folds_of(components) if training.folds else []
    report, _ = evaluate(
        folder / training.model,
        components.target.split("feedback"),
        "feedback",
        recorded.round,
        Slicing(settings.slices, settings.n_min),
        components.device,
        judges=[(folder / training.model / fold.name, fold.judged) for fold in folds],
    )
    before, after = _figures(recorded), _figures(report)
    shared = before.keys() & after.keys()
    difference = max((abs(before[name] - after[name]) for name in shared), default=0.0)
    if before.keys() != after.keys():
        difference = 1.0
    return Rerun(recorded.round, "evaluate", before == after, difference, len(before))


def _figures(report: Report) -> dict[str, float]:
    values = {name: metric.value for name, metric in report.metrics.items()}
    return values | {f"slice {s.key}": s.accuracy.value for s in report.slices}
