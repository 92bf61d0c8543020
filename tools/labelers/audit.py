"""The audit of classes: does a generated image show the class of its prompt?

A classifier trained on the target's `audit` split verifies, never the current DSTM, which would
delete hard images. Doubtful images are weighted down, not deleted.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memory.records import digest
from tools import tasks
from tools.data.samples import Dense, Samples, content_digest
from tools.models.dstm_file import load_model, save_model
from tools.settings import AuditSettings, TrainSettings
from tools.targets import Target
from tools.tasks import Model, Task
from tools.train_dstm import train_model

# To be raised when the same settings would give another classifier.
_CACHE_VERSION = 1


Verdict = tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]
"""How sure the labels are, 0..1, the weight, 0..1, and whether an image is kept, (n,) each."""


class KeepAll:
    """A verifier that keeps every image at full weight, for generators with exact labels."""

    def verify(self, samples: Samples, confidence: Dense | None = None) -> Verdict:
        """Return 1, weight 1 and kept for every image."""
        n = len(samples)
        return np.ones(n), np.ones(n), np.ones(n, dtype=np.bool_)


@dataclass(frozen=True)
class AuditClassifier:
    """A trained classifier with the thresholds of the audit; a `LabelVerifier`."""

    task: Task
    model: Model
    settings: AuditSettings

    def verify(self, samples: Samples, confidence: Dense | None = None) -> Verdict:
        """Return the probability of each image's own class, its weight, and whether it is kept.

        Each is (n,). The weight is probability / threshold, at least `floor` and at most 1; an
        image is kept if its probability is at least `threshold`. Confidence in labels of pixels has
        no effect.
        """
        probabilities = self.task.predict(self.model, samples.images)
        p_label = probabilities[np.arange(len(samples)), samples.classes]
        threshold = self.settings.threshold
        weights = np.clip(p_label / threshold, self.settings.floor, 1)
        return p_label, weights, p_label >= threshold

    def agreement(self, samples: Samples) -> float:
        """Return the share of images, 0..1, whose most probable class is their own."""
        predictions = self.task.predict(self.model, samples.images).argmax(1)
        return float((predictions == samples.classes).mean())


def train_audit(
    target: Target,
    settings: AuditSettings,
    cache_dir: Path,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> AuditClassifier:
    """Train the classifier on the target's audit split, or load it from `cache_dir`."""
    samples, train, names = target.split("audit"), settings.train, target.class_names
    key = [_CACHE_VERSION, target.name, content_digest(samples), train.model_dump(mode="json")]
    folder = cache_dir / f"audit-{target.name}-{digest(key)}"
    task = tasks.build(train.task)
    model = trained_once(folder, task, samples, names, train, device, progress)
    return AuditClassifier(task, model, settings)


def trained_once(
    folder: Path,
    task: Task,
    samples: Samples,
    class_names: Sequence[str],
    settings: TrainSettings,
    device: str,
    progress: Callable[[int, int], None],
) -> Model:
    """Return the model in a folder, trained and saved there first where it is missing."""
    if (folder / "model.json").exists():
        return load_model(folder, device)[0]
    model, _, _ = train_model(samples, task, len(class_names), settings, device, progress)
    save_model(folder, model, {"task": settings.task, "class_names": list(class_names)})
    return model
