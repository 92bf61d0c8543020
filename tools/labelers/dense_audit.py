"""The audit of labels of pixels: are they what the picture shows?

An ensemble trained on the target's `audit` split judges, never the current DSTM, which would
delete what is hard. A fourth of that split is held out; on its photographs, with their true labels
and with labels made wrong (`eval.corruption`), the evidence of `eval.quality` is weighed so that it
predicts the score that labels have against the truth. Doubtful images are weighted down, not
deleted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.corruption import corrupt
from eval.quality import (
    Vector,
    collect,
    estimate_focal,
    excess,
    expected_scores,
    fit_scores,
    normal_evidence,
)
from eval.slices import slice_table
from memory.errors import DataError, SettingsError
from memory.files import write_json
from memory.records import Record, digest
from tools import tasks
from tools.data.samples import Dense, Samples, content_digest
from tools.models.dstm_file import load_model, save_model
from tools.settings import AuditSettings
from tools.targets import Target
from tools.tasks import Model, dense
from tools.tasks.dense import DenseTask
from tools.tasks.multi import Multi
from tools.train_dstm import train_model

# To be raised when the same settings would give another ensemble or another calibration.
_CACHE_VERSION = 2
_HELD_OUT = 4
_WRONG_VARIANTS = 4
_REAL_QUANTILE = 0.05
_N_MIN = 10

# What a mean confidence that is lower by 1 takes from the logarithm of a score's odds. Set by hand:
# labels that are made wrong carry no confidence to fit it on.
_DOUBT = 1.0


class Calibration(Record):
    """How evidence is weighed, from the photographs that were held out.

    normal: by kind of label, what is normal for real ones, see `eval.quality.normal_evidence`;
    weights: by kind, of 1 and of the excess of each measure, see `eval.quality.fit_scores`;
    limits: by slice ("light=night", "" for all), the score that all but a twentieth of the true
    labels reach; focal_px: with which geometry is judged, or not.
    """

    normal: dict[str, dict[str, float]]
    weights: dict[str, dict[str, float]]
    limits: dict[str, float]
    focal_px: float | None


@dataclass(frozen=True)
class DenseAudit:
    """A trained ensemble with its calibration."""

    task: Multi
    models: Sequence[Model]
    settings: AuditSettings
    calibration: Calibration

    def judge(
        self, samples: Samples, confidence: Dense
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Return the expected score of each image's labels, its weight, and whether it is kept.

        Each is (n,). An image is kept if its score reaches the threshold, or what real labels
        reach in the most difficult of its slices; otherwise its weight is score / that limit, at
        least `floor`. Raises DataError when the samples lack a kind of labels.
        """
        found = self.scores(self.evidence(samples, confidence))
        scores: NDArray[np.float64] = np.mean([*found.values()], axis=0)
        return scores, *self.weigh(scores, samples)

    def weigh(
        self, scores: NDArray[np.float64], samples: Samples
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the weights that images of these scores get, and whether they are kept."""
        limits = np.array([self._limit(attributes) for attributes in samples.attributes])
        weights = np.clip(scores / np.maximum(limits, 1e-9), self.settings.floor, 1)
        return weights, scores >= limits

    def scores(self, evidence: Mapping[str, Mapping[str, Vector]]) -> dict[str, Vector]:
        """Return the expected score of each image's labels by kind, 0..1, each (n,)."""
        found = {}
        for kind, measures in evidence.items():
            beyond = excess(measures, self.calibration.normal[kind])
            weights = np.array([*self.calibration.weights[kind].values()])
            against = _DOUBT * measures.get("doubt", 0.0)
            found[kind] = expected_scores(np.column_stack([*beyond.values()]), weights, against)
        return found

    def evidence(self, samples: Samples, confidence: Dense) -> dict[str, dict[str, Vector]]:
        """Return the measures of `eval.quality.collect` for each kind of label."""
        missing = [kind for kind in self.task.needs if kind not in samples.labels]
        if missing:
            raise DataError(
                f"The audit judges {', '.join(self.task.needs)}, but the images have no "
                f"{', '.join(missing)}. Set audit.train.task to what the generator draws, or "
                "audit.method=none."
            )
        labels = {kind: samples.labels[kind] for kind in self.task.needs}
        teachers = ask(self.task, self.models, samples.images)
        return collect(labels, teachers, confidence, self.calibration.focal_px)

    def _limit(self, attributes: Mapping[str, str]) -> float:
        slices = ["", *(f"{key}={value}" for key, value in attributes.items())]
        known = [self.calibration.limits[key] for key in slices if key in self.calibration.limits]
        return min(self.settings.threshold, *known)


def train_dense_audit(
    target: Target,
    settings: AuditSettings,
    cache_dir: Path,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> DenseAudit:
    """Train the ensemble on the target's audit split and calibrate it, or load both from the cache.

    Members are trained alike but for their seeds. Raises SettingsError when `settings.train.task`
    is not of pixels, DataError when the target lacks its labels.
    """
    task = tasks.build(settings.train.task)
    if isinstance(task, DenseTask):
        task = Multi([task.name])
    if not isinstance(task, Multi):
        raise SettingsError(
            f"audit.method=dense judges labels of pixels, but audit.train.task is "
            f"{settings.train.task!r}. Set it to segmentation, depth, normals, or several joined "
            "by +; or set audit.method=classifier."
        )
    samples = target.split("audit")
    key = [
        _CACHE_VERSION,
        target.name,
        content_digest(samples),
        settings.members,
        settings.focal_px,
    ]
    key.append(settings.train.model_dump(mode="json"))
    folder = cache_dir / f"audit-{target.name}-{digest(key)}"
    n_steps = settings.train.steps
    models = []
    held_out = np.arange(len(samples)) % _HELD_OUT == 0
    known = samples.take(np.flatnonzero(~held_out))
    for member in range(settings.members):
        own = folder / f"member-{member}"
        if not (own / "model.json").exists():
            train = settings.train.model_copy(update={"seed": settings.train.seed + member})

            def done(step: int, total: int, member: int = member) -> None:
                progress(member * n_steps + step, settings.members * n_steps)

            model, _, _ = train_model(known, task, len(target.pixel_classes), train, device, done)
            save_model(own, model, {"task": task.name, "class_names": list(target.pixel_classes)})
        models.append(load_model(own, device)[0])
    path = folder / "calibration.json"
    if not path.exists():
        held = samples.take(np.flatnonzero(held_out))
        found = calibrate(task, models, held, settings.focal_px)
        write_json(path, found.to_json())
    calibration = Calibration.model_validate(json.loads(path.read_bytes()))
    return DenseAudit(task, models, settings, calibration)


def calibrate(
    task: Multi, models: Sequence[Model], samples: Samples, focal_px: float | None
) -> Calibration:
    """Weigh evidence so that it predicts scores, on samples whose labels are true.

    focal_px: None to estimate it from depth and normals, where the samples have both.
    """
    labels = {kind: samples.labels[kind] for kind in task.needs}
    if focal_px is None and {"depth", "normals"} <= labels.keys():
        focal_px = estimate_focal(labels["depth"], labels["normals"])
    teachers = ask(task, models, samples.images)
    rng = np.random.default_rng(0)
    variants = [corrupt(labels, rng) for _ in range(_WRONG_VARIANTS)]
    evidence = [collect(variant, teachers, {}, focal_px) for variant in variants]
    real = collect(labels, teachers, {}, focal_px)
    normal, weights, expected = {}, {}, []
    for part in task.parts:
        kind = part.name
        normal[kind] = normal_evidence(real[kind])
        beyond = [excess(measures[kind], normal[kind]) for measures in evidence]
        x = np.concatenate([np.column_stack([*values.values()]) for values in beyond])
        y = np.concatenate([true_scores(part, variant[kind], samples) for variant in variants])
        known = np.isfinite(y)
        found = fit_scores(x[known], y[known])
        weights[kind] = dict(zip(["one", *beyond[0]], found.tolist(), strict=True))
        own = excess(real[kind], normal[kind])
        expected.append(expected_scores(np.column_stack([*own.values()]), found))
    reached = np.mean(expected, axis=0)
    single = [(name,) for name in {n for a in samples.attributes for n in a}]
    table = slice_table(samples.attributes, sorted(single), _N_MIN)
    limits = {key: float(np.quantile(reached[rows], _REAL_QUANTILE)) for key, rows in table.items()}
    limits[""] = float(np.quantile(reached, _REAL_QUANTILE))
    return Calibration(normal=normal, weights=weights, limits=limits, focal_px=focal_px)


def true_scores(part: DenseTask, labels: NDArray[Any], samples: Samples) -> Vector:
    """Return each image's score of labels against those of the samples, (n,), as a task has it."""
    # Unknown pixels are left out by the samples; a prediction must be a number everywhere.
    return part.scores(np.nan_to_num(labels), samples)


def ask(task: Multi, models: Sequence[Model], images: NDArray[np.uint8]) -> dict[str, NDArray[Any]]:
    """Return what each model says, (models, n, ...), by kind, of classes the probabilities."""
    said: dict[str, list[NDArray[Any]]] = {kind: [] for kind in task.needs}
    for model in models:
        outputs = [task.split_outputs(batch) for batch in dense.outputs_of(model, images)]
        for number, part in enumerate(task.parts):
            own = [parts[number] for parts in outputs]
            decode = _probabilities if part.n_outputs is None else part.decode
            said[part.name].append(np.concatenate([decode(batch) for batch in own]))
    return {kind: np.stack(values) for kind, values in said.items()}


def _probabilities(logits: Any) -> NDArray[np.float32]:
    found: NDArray[np.float32] = logits.softmax(1).float().cpu().numpy()
    return found
