"""The audit of pixel labels: checks whether they match the image.

The verifier is an ensemble trained on the target's `audit` split, never the current DSTM, which
would reject hard images. A fourth of that split is held out. On its photographs, with true and with
corrupted labels (`eval.corruption`), the weights of the evidence of `eval.quality` are fitted to
predict the score of labels against the truth. Doubtful images are weighted down, not deleted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval import quality
from eval.corruption import corrupt
from eval.quality import Vector
from eval.slices import slice_table
from memory.errors import DataError, SettingsError
from memory.files import write_json
from memory.records import Record, digest
from tools import tasks
from tools.data.samples import Dense, Samples, content_digest
from tools.labelers.audit import AuditScores, trained_once
from tools.models.dstm_file import load_model
from tools.settings import AuditSettings
from tools.targets import Target, with_flips
from tools.tasks import Model, dense
from tools.tasks.dense import DenseTask
from tools.tasks.multi import Multi

# Increased whenever the same settings would give another ensemble or calibration.
_CACHE_VERSION = 2
_HELD_OUT = 4
_WRONG_VARIANTS = 4
_REAL_QUANTILE = 0.05
_N_MIN = 10
# Labels that reach this score are kept even if true labels score higher.
_THRESHOLD = 0.5

# Decrease of a score's log odds per unit of doubt (1 - mean confidence). Set by hand, as corrupted
# labels have no confidence to fit it to.
_DOUBT = 1.0


class AuditCalibration(Record):
    """Weights of the evidence, fitted to the held-out photographs.

    Attributes:
        normal: Evidence of true labels by kind, see `eval.quality.normal_evidence`.
        weights: By kind, the weights of the intercept and of the excess of each measure, see
            `eval.quality.fit_scores`.
        limits: Score that 95% of the true labels reach, by slice ("light=night"; "" for all).
        focal_px: Focal length in pixels for the evidence of geometry; None: no such evidence.
    """

    normal: dict[str, dict[str, float]]
    weights: dict[str, dict[str, float]]
    limits: dict[str, float]
    focal_px: float | None


@dataclass(frozen=True)
class DenseAudit:
    """A trained ensemble with its calibration; a `LabelVerifier`."""

    task: Multi
    models: Sequence[Model]
    settings: AuditSettings
    calibration: AuditCalibration

    def verify(self, samples: Samples, confidence: Dense) -> AuditScores:
        """Return the expected score, the weight and whether to keep each image, (n,) each.

        An image is kept if its score reaches the threshold, or the limit of true labels in the most
        difficult of its slices; otherwise its weight is score / that limit, at least `floor`.

        Raises:
            DataError: The samples lack a required kind of labels.
        """
        by_kind = self.scores(self.evidence(samples, confidence))
        scores: NDArray[np.float64] = np.mean([*by_kind.values()], axis=0)
        return scores, *self.weigh(scores, samples)

    def weigh(
        self, scores: NDArray[np.float64], samples: Samples
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the weights of images with these scores, (n,), and whether they are kept."""
        limits = np.array([self._limit(attributes) for attributes in samples.attributes])
        weights = np.clip(scores / np.maximum(limits, 1e-9), self.settings.floor, 1)
        return weights, scores >= limits

    def scores(self, evidence: Mapping[str, Mapping[str, Vector]]) -> dict[str, Vector]:
        """Return the expected score of each image's labels by kind, 0..1, each (n,)."""
        scores = {}
        for kind, measures in evidence.items():
            beyond = quality.excess(measures, self.calibration.normal[kind])
            weights = np.array([*self.calibration.weights[kind].values()])
            doubt = _DOUBT * measures.get("doubt", 0.0)
            scores[kind] = quality.expected_scores(
                np.column_stack([*beyond.values()]), weights, doubt
            )
        return scores

    def evidence(self, samples: Samples, confidence: Dense) -> dict[str, dict[str, Vector]]:
        """Return the measures of `eval.quality.collect` by kind of label."""
        missing = [kind for kind in self.task.needs if kind not in samples.labels]
        if missing:
            raise DataError(
                f"The audit verifies {', '.join(self.task.needs)}, but the images have no "
                f"{', '.join(missing)}. Set audit.train.task to what the generator draws, or "
                "audit.method=none."
            )
        labels = {kind: samples.labels[kind] for kind in self.task.needs}
        teachers = ensemble_outputs(self.task, self.models, samples.images)
        return quality.collect(labels, teachers, confidence, self.calibration.focal_px)

    def _limit(self, attributes: Mapping[str, str]) -> float:
        slices = ["", *(f"{key}={value}" for key, value in attributes.items())]
        limits = self.calibration.limits
        threshold = self.settings.threshold or _THRESHOLD
        return min(threshold, *(limits[key] for key in slices if key in limits))


def train_dense_audit(
    target: Target,
    settings: AuditSettings,
    cache_dir: Path,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> DenseAudit:
    """Train the ensemble on the target's audit split and calibrate it, or load both from the cache.

    Members of the ensemble differ only in their seeds.

    Raises:
        SettingsError: `settings.train.task` is not a pixel-wise task.
        DataError: The target lacks the labels of the task.
    """
    task = tasks.build(settings.train.task)
    if isinstance(task, DenseTask) and not isinstance(task, Multi):
        task = Multi([task.name])
    if not isinstance(task, Multi):
        raise SettingsError(
            f"audit.method=dense verifies labels of pixels, but audit.train.task is "
            f"{settings.train.task!r}. Set it to segmentation, depth, normals, or several joined "
            "by +; or set audit.method=classifier."
        )
    samples = target.split("audit")
    base = with_flips(settings.train, target)
    key = [
        _CACHE_VERSION,
        target.name,
        content_digest(samples),
        settings.members,
        settings.focal_px,
        base.model_dump(mode="json"),
    ]
    folder = cache_dir / f"audit-{target.name}-{digest(key)}"
    models = []
    held_out = np.arange(len(samples)) % _HELD_OUT == 0
    known, names = samples.take(np.flatnonzero(~held_out)), target.pixel_classes
    for member in range(settings.members):
        train = base.model_copy(update={"seed": base.seed + member})
        member_folder = folder / f"member-{member}"
        part = member, settings.members
        trained_once(member_folder, task, known, names, train, device, progress, part)
        # Reloaded, so that the first call computes with the same weights as later ones.
        models.append(load_model(member_folder, device)[0])
    path = folder / "calibration.json"
    if not path.exists():
        held = samples.take(np.flatnonzero(held_out))
        write_json(path, calibrate(task, models, held, settings.focal_px).to_json())
    calibration = AuditCalibration.model_validate(json.loads(path.read_bytes()))
    return DenseAudit(task, models, settings, calibration)


def calibrate(
    task: Multi, models: Sequence[Model], samples: Samples, focal_px: float | None
) -> AuditCalibration:
    """Fit the weights of the evidence to predict scores, on samples with true labels.

    Args:
        task: Task whose labels are verified.
        models: The ensemble.
        samples: Held-out photographs.
        focal_px: Focal length in pixels; None: estimated from depth and normals, if both exist.
    """
    labels = {kind: samples.labels[kind] for kind in task.needs}
    if focal_px is None and {"depth", "normals"} <= labels.keys():
        focal_px = quality.estimate_focal(labels["depth"], labels["normals"])
    teachers = ensemble_outputs(task, models, samples.images)
    rng = np.random.default_rng(0)
    variants = [corrupt(labels, rng) for _ in range(_WRONG_VARIANTS)]
    evidence = [quality.collect(variant, teachers, {}, focal_px) for variant in variants]
    real = quality.collect(labels, teachers, {}, focal_px)
    normal, weights, expected = {}, {}, []
    for part in task.parts:
        kind = part.name
        normal[kind] = quality.normal_evidence(real[kind])
        beyond = [quality.excess(measures[kind], normal[kind]) for measures in evidence]
        x = np.concatenate([np.column_stack([*values.values()]) for values in beyond])
        y = np.concatenate([true_scores(part, variant[kind], samples) for variant in variants])
        known = np.isfinite(y)
        fitted = quality.fit_scores(x[known], y[known])
        weights[kind] = dict(zip(["one", *beyond[0]], fitted.tolist(), strict=True))
        of_true = quality.excess(real[kind], normal[kind])
        expected.append(quality.expected_scores(np.column_stack([*of_true.values()]), fitted))
    reached = np.mean(expected, axis=0)
    single = [(name,) for name in {n for a in samples.attributes for n in a}]
    table = slice_table(samples.attributes, sorted(single), _N_MIN)
    limits = {key: float(np.quantile(reached[rows], _REAL_QUANTILE)) for key, rows in table.items()}
    limits[""] = float(np.quantile(reached, _REAL_QUANTILE))
    return AuditCalibration(normal=normal, weights=weights, limits=limits, focal_px=focal_px)


def true_scores(part: DenseTask, labels: NDArray[Any], samples: Samples) -> Vector:
    """Return the task's score of each image's labels, with the samples as ground truth, (n,)."""
    # The samples mask unknown pixels; a prediction must be finite everywhere.
    return part.scores(np.nan_to_num(labels), samples)


def ensemble_outputs(
    task: Multi, models: Sequence[Model], images: NDArray[np.uint8]
) -> dict[str, NDArray[Any]]:
    """Return each model's predictions by kind, (models, n, ...), probabilities for classes."""
    predictions: dict[str, list[NDArray[Any]]] = {kind: [] for kind in task.needs}
    for model in models:
        outputs = [task.split_outputs(batch) for batch in dense.outputs_of(model, images)]
        for number, part in enumerate(task.parts):
            decode = _probabilities if part.n_outputs is None else part.decode
            decoded = [decode(parts[number]) for parts in outputs]
            predictions[part.name].append(np.concatenate(decoded))
    return {kind: np.stack(values) for kind, values in predictions.items()}


def _probabilities(logits: Any) -> NDArray[np.float32]:
    probabilities: NDArray[np.float32] = logits.softmax(1).float().cpu().numpy()
    return probabilities
