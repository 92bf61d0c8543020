"""The audit of classes: does a generated image show the class of its prompt?

A classifier trained on the target's `audit` split verifies, never the current DSTM, which would
delete hard images. Doubtful images are weighted down, not deleted.

How sure a classifier is of the true class differs by class, so images are compared with the real
photographs of their class, by cross-conformal prediction (Vovk 2015) within classes: a third of the
photographs at a time is scored by a model of the other two thirds. With p_k the probability of its
class by model k, an image of a class with n photographs, n_k of them scored by k, is kept if
1 + sum_k #{i <= n_k: p_ki <= p_k} > alpha (n + 1). So about 1 - alpha of further real photographs
are kept, of every class alike; at least 1 - 2 alpha, less a term of the order of 1/n, whatever the
models (Barber et al. 2021). Of a class with fewer than `N_LEAST` photographs too little is known:
its images are kept.
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

# To be raised when the same settings would give another classifier.
_CACHE_VERSION = 1
N_FOLDS = 3
N_LEAST = 20
"""Real photographs of a class from which on its images are judged."""


AuditScores = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]
"""How sure the labels are, 0..1, the weight, 0..1, and whether an image is kept, (n,) each."""


class KeepAll:
    """A verifier that keeps every image at full weight, for generators with exact labels."""

    def verify(self, samples: Samples, confidence: Dense | None = None) -> AuditScores:
        """Return 1, weight 1 and kept for every image."""
        n = len(samples)
        return np.ones(n), np.ones(n), np.ones(n, dtype=np.bool_)


@dataclass(frozen=True)
class AuditClassifier:
    """Trained classifiers with the limits of the audit; a `LabelVerifier`.

    Attributes:
        task: Of the models.
        models: One per fold; a single one where no class has `N_LEAST` photographs, and where the
            settings have a threshold.
        settings: Of the audit.
        class_names: Of the target.
        out_of_fold: Per model and class, the probabilities of the class of those real photographs
            of it that the model was not trained on, ascending; () for a single model.
    """

    task: Task
    models: Sequence[Model]
    settings: AuditSettings
    class_names: Sequence[str]
    out_of_fold: Sequence[Sequence[Sequence[float]]] = ()

    @property
    def abstains(self) -> tuple[str, ...]:
        """The classes of which too little is known, so that all of their images are kept."""
        if self.settings.threshold is not None:
            return ()
        needed = self._n_needed()
        return tuple(name for name, n in zip(self.class_names, needed, strict=True) if not n)

    def verify(self, samples: Samples, confidence: Dense | None = None) -> AuditScores:
        """Return the probability of each image's own class, its weight, and whether it is kept.

        Each is (n,). Kept images have weight 1. The weight of others is the number of real
        photographs that are as doubtful, or with a threshold the probability, over that which
        suffices; it is at least `floor`. Confidence in labels of pixels has no effect.
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
        """Return the share of images, 0..1, whose most probable class is their own."""
        by_model = [self.task.predict(model, samples.images) for model in self.models]
        return float((np.mean(by_model, axis=0).argmax(1) == samples.classes).mean())

    def _n_needed(self) -> NDArray[np.float64]:
        """Return how many photographs of its class must be as doubtful as a kept image."""
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
        DataError: The split is empty, as where classes have three photographs each.
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
        own_folder = folder / f"fold-{fold}"
        part = fold, N_FOLDS
        model = trained_once(own_folder, task, known, names, train, device, progress, part)
        path = own_folder / "out-of-fold.json"
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
    """Return the model in a folder, trained and saved there first where it is missing.

    part: number of this training, and how many `progress` is about.
    """
    number, n_parts = part

    def done(step: int, total: int) -> None:
        progress(number * total + step, n_parts * total)

    if (folder / "model.json").exists():
        return load_model(folder, device)[0]
    model, _ = train_model(samples, task, len(class_names), settings, device, done)
    save_model(folder, model, {"task": settings.task, "class_names": list(class_names)})
    return model
