"""The audit of classes: checks whether a generated image shows the class of its prompt.

The verifier is a classifier trained on the target's `audit` split, never the current DSTM, which
would reject hard images. Doubtful images are weighted down, not deleted.

The confidence of a classifier in the true class differs between classes, so images are compared
with real photographs of their class by class-conditional cross-conformal prediction (Vovk 2015):
each third of the photographs is scored by a model trained on the other two. Let p_k be the
probability of the image's class by model k, and n_k of the n photographs of the class be scored by
model k. The image is kept if 1 + sum_k #{i <= n_k: p_ki <= p_k} > alpha (n + 1). So about 1 - alpha
of further real photographs are kept in every class; at least 1 - 2 alpha, less a term of order 1/n,
for any models (Barber et al. 2021). Images of a class with fewer than `N_LEAST` photographs are all
kept.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memory.errors import DataError
from memory.files import write_json
from memory.records import digest
from tools import tasks
from tools.data.samples import Dense, Samples, content_digest
from tools.models.dstm_file import load_model, save_model
from tools.settings import AuditSettings, TrainSettings
from tools.targets import Target, with_flips
from tools.tasks import Model, Task
from tools.train_dstm import train_model

# Increased whenever the same settings would give another classifier.
_CACHE_VERSION = 1
N_FOLDS = 3
N_LEAST = 20
"""Minimum number of real photographs of a class for its images to be verified."""


AuditScores = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]
"""Confidence in the labels, 0..1, weight, 0..1, and whether an image is kept, (n,) each."""


class KeepAll:
    """A `LabelVerifier` that keeps every image at full weight, for generators with exact labels."""

    def verify(self, samples: Samples, confidence: Dense | None = None) -> AuditScores:
        """Return confidence 1, weight 1 and kept for every image."""
        n = len(samples)
        return np.ones(n), np.ones(n), np.ones(n, dtype=np.bool_)


@dataclass(frozen=True)
class AuditClassifier:
    """Trained classifiers with calibration scores; a `LabelVerifier`.

    Attributes:
        task: Task of the models.
        models: One model per fold; a single one if no class has `N_LEAST` photographs, or if the
            settings have a threshold.
        settings: Settings of the audit.
        class_names: Class names of the target.
        out_of_fold: Per model and class, the ascending probabilities of the true class for the
            photographs that the model was not trained on; () for a single model.
    """

    task: Task
    models: Sequence[Model]
    settings: AuditSettings
    class_names: Sequence[str]
    out_of_fold: Sequence[Sequence[Sequence[float]]] = ()

    @property
    def abstains(self) -> tuple[str, ...]:
        """Classes with too few photographs to verify, whose images are all kept."""
        if self.settings.threshold is not None:
            return ()
        needed = self._n_needed()
        return tuple(name for name, n in zip(self.class_names, needed, strict=True) if not n)

    def verify(self, samples: Samples, confidence: Dense | None = None) -> AuditScores:
        """Return the class probability, the weight and whether to keep each image, (n,) each.

        Kept images have weight 1. The weight of others is the number of real photographs that are
        at most as probable (with a threshold: the image's probability), divided by the required
        value; it is at least `floor`. The confidence of pixel labels has no effect.
        """
        by_model = [self.task.predict(model, samples.images) for model in self.models]
        own = [p[np.arange(len(samples)), samples.classes] for p in by_model]
        p_label: NDArray[np.float64] = np.mean(own, axis=0)
        if self.settings.threshold is not None:
            standing, needed = p_label, np.full(len(samples), self.settings.threshold)
        else:
            standing = np.zeros(len(samples))
            for p_own, real in zip(own, self.out_of_fold, strict=False):
                for number, photographs in enumerate(real):
                    rows = samples.classes == number
                    standing[rows] += np.searchsorted(photographs, p_own[rows], side="right")
            needed = self._n_needed()[samples.classes]
        kept = standing >= needed
        weights = np.clip(standing / np.where(kept, 1, needed), self.settings.floor, 1)
        return p_label, np.where(kept, 1, weights), kept

    def agreement(self, samples: Samples) -> float:
        """Return the share of images, 0..1, whose most probable class is that of their prompt."""
        by_model = [self.task.predict(model, samples.images) for model in self.models]
        return float((np.mean(by_model, axis=0).argmax(1) == samples.classes).mean())

    def _n_needed(self) -> NDArray[np.float64]:
        """Return, by class, how many photographs must be at most as probable as a kept image."""
        n_classes = len(self.class_names)
        n = np.array([sum(len(r[c]) for r in self.out_of_fold) for c in range(n_classes)])
        return np.where(n < N_LEAST, 0.0, np.floor(self.settings.real_rejected * (n + 1)))


def train_audit(
    target: Target,
    settings: AuditSettings,
    cache_dir: Path,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> AuditClassifier:
    """Train the classifiers on the target's audit split, or load them from `cache_dir`.

    Raises:
        DataError: The split is empty, e.g. if each class has three photographs.
    """
    samples, names = target.split("audit"), target.class_names
    if not len(samples):
        raise DataError(
            "The split audit has no photographs for an audit to learn from; a class with 4 gives "
            "it one. Add some, or go without: --set audit.method=none."
        )
    train = with_flips(settings.train, target)
    key = [_CACHE_VERSION, target.name, content_digest(samples), train.model_dump(mode="json")]
    folder = cache_dir / f"audit-{target.name}-{digest(key)}"
    task = tasks.build(train.task)
    counts = np.bincount(samples.classes, minlength=len(names))
    if settings.threshold is not None or counts.max() < N_LEAST:
        model = trained_once(folder, task, samples, names, train, device, progress)
        return AuditClassifier(task, [model], settings, names)
    folds = np.zeros(len(samples), dtype=np.int64)
    for number, n in enumerate(counts):
        folds[samples.classes == number] = np.arange(n) % N_FOLDS
    models, out_of_fold = [], []
    for fold in range(N_FOLDS):
        known, held = (
            samples.take(np.flatnonzero(rows)) for rows in (folds != fold, folds == fold)
        )
        fold_folder = folder / f"fold-{fold}"
        part = fold, N_FOLDS
        model = trained_once(fold_folder, task, known, names, train, device, progress, part)
        path = fold_folder / "out-of-fold.json"
        if not path.exists():
            p = task.predict(model, held.images)
            write_json(path, [np.sort(p[held.classes == i, i]).tolist() for i in range(len(names))])
        models.append(model)
        out_of_fold.append(json.loads(path.read_bytes()))
    return AuditClassifier(task, models, settings, names, out_of_fold)


def trained_once(
    folder: Path,
    task: Task,
    samples: Samples,
    class_names: Sequence[str],
    settings: TrainSettings,
    device: str,
    progress: Callable[[int, int], None],
    part: tuple[int, int] = (0, 1),
) -> Model:
    """Return the model in a folder; train and save it first if it is missing.

    `part` is the index of this training and the total number for `progress`.
    """
    number, n_parts = part

    def done(step: int, total: int) -> None:
        progress(number * total + step, n_parts * total)

    if (folder / "model.json").exists():
        return load_model(folder, device)[0]
    model, _ = train_model(samples, task, len(class_names), settings, device, done)
    save_model(folder, model, {"task": settings.task, "class_names": list(class_names)})
    return model
