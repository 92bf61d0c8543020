"""The audit: does a generated image show the class that its prompt asked for?

A classifier trained on the target's `audit` split judges, never the current DSTM, which would
delete what is hard. Doubtful images are weighted down, not deleted.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memory.records import digest
from tools import tasks
from tools.data.samples import Dense, Samples, content_digest
from tools.models.dstm_file import load_model, save_model
from tools.settings import AuditSettings
from tools.targets import Target
from tools.tasks import Model, Task
from tools.train_dstm import train_model

# To be raised when the same settings would give another classifier.
_CACHE_VERSION = 1


@dataclass(frozen=True)
class AuditClassifier:
    """A trained classifier with the thresholds of the audit."""

    task: Task
    model: Model
    settings: AuditSettings

    def judge(
        self, samples: Samples, confidence: Dense | None = None
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Return the probability of each image's own class, its weight, and whether it is kept.

        Each is (n,). The weight is probability / threshold, at least `floor` and at most 1; an
        image is kept if its probability is at least `threshold`. Confidence is in labels of
        pixels, which are not judged here.
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
    samples = target.split("audit")
    content = content_digest(samples)
    key = [_CACHE_VERSION, target.name, content, settings.train.model_dump(mode="json")]
    folder = cache_dir / f"audit-{target.name}-{digest(key)}"
    task = tasks.build(settings.train.task)
    if (folder / "model.json").exists():
        model, _ = load_model(folder, device)
        return AuditClassifier(task, model, settings)
    model, _, _ = train_model(
        samples, task, len(target.class_names), settings.train, device, progress
    )
    save_model(
        folder,
        model,
        {"task": settings.train.task, "class_names": list(target.class_names)},
    )
    return AuditClassifier(task, model, settings)
