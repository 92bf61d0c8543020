"""Where a mirrored image is of another class, `flips` keeps it from training and prediction."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tools import tasks
from tools.data.samples import Samples
from tools.labelers.audit import train_audit
from tools.models.dstm_file import load_model, save_model
from tools.settings import AuditSettings, TrainSettings
from tools.targets import with_flips
from tools.targets.user.loading import ReadOptions
from tools.tasks import Minibatch
from tools.train_dstm import train_model

QUICK = TrainSettings(steps=40, batch_size=32, learning_rate=0.01)
TASK = tasks.build("classification")


@dataclass(frozen=True)
class Letters:
    """b, d, p and q: a bar with a square at its right or left, below or above."""

    name: str = "letters"
    class_names: tuple[str, ...] = ("b", "d", "p", "q")
    flips: tuple[str, ...] = ()

    def split(self, name: str, n: int = 80) -> Samples:
        rng = np.random.default_rng(len(name))
        images = rng.integers(0, 60, (n, 1, 16, 16), dtype=np.uint8)
        classes = np.arange(n) % 4
        for image, letter in zip(images, classes, strict=True):
            image[0, 2:14, 7:9] += 180
            across = slice(8, 13) if letter in (0, 2) else slice(3, 8)
            down = slice(9, 14) if letter in (0, 1) else slice(2, 7)
            image[0, down, across] += 60
        return Samples(images, classes, [{}] * n, [f"{name}{i}" for i in range(n)])


def accuracy(model: Any, samples: Samples) -> float:
    return float(TASK.scores(TASK.predict(model, samples.images), samples).mean())


@pytest.mark.parametrize(
    ("flips", "low", "high"),
    [((), 0.95, 1), (("horizontal",), 0.3, 0.7), (("horizontal", "vertical"), 0.1, 0.5)],
)
def test_letters_are_learnt_without_mirror_images_alone(
    flips: tuple[str, ...], low: float, high: float, tmp_path: Path
) -> None:
    letters: Any = Letters(flips=flips)
    settings = with_flips(QUICK, letters)
    model, _ = train_model(letters.split("generator"), TASK, 4, settings)
    unseen = letters.split("test")
    assert low <= accuracy(model, unseen) <= high
    save_model(tmp_path, model, {"task": "classification"})
    restored, _ = load_model(tmp_path)
    predicted = TASK.predict(model, unseen.images)
    assert np.array_equal(TASK.predict(restored, unseen.images), predicted)


def test_the_audit_tells_letters_apart(tmp_path: Path) -> None:
    letters: Any = Letters()
    audit = train_audit(letters, AuditSettings(train=QUICK, threshold=0.5), tmp_path)
    unseen = letters.split("test")
    assert audit.agreement(unseen) >= 0.95
    mirrored = replace(unseen, classes=unseen.classes ^ 1)
    assert audit.verify(mirrored)[2].mean() <= 0.05


def test_without_augmentation_no_views_are_averaged() -> None:
    settings = QUICK.model_copy(update={"augment": False})
    model, _ = train_model(Letters().split("generator"), TASK, 4, settings)
    assert accuracy(model, Letters().split("test")) >= 0.95


def test_labels_of_pixels_are_mirrored_only_where_images_may_be() -> None:
    task = tasks.build("segmentation")
    images, labels = torch.rand(8, 1, 4, 4), torch.arange(16).view(1, 4, 4).repeat(8, 1, 1)
    kept = task.augment(Minibatch(images, labels, flips=()), torch.Generator().manual_seed(0))
    assert torch.equal(kept.labels, labels)
    turned = task.augment(Minibatch(images, labels), torch.Generator().manual_seed(0))
    assert not torch.equal(turned.labels, labels)


def test_what_the_training_says_has_precedence() -> None:
    letters: Any = Letters()
    assert with_flips(QUICK, letters).flips == ()
    chosen = QUICK.model_copy(update={"flips": ("vertical",)})
    assert with_flips(chosen, letters) == chosen
    both: Any = Letters(flips=("horizontal", "vertical"))
    assert with_flips(QUICK, both) == QUICK


@pytest.mark.parametrize(
    ("given", "flips"),
    [("none", ()), ([], ()), ("both", ("horizontal", "vertical")), ("vertical", ("vertical",))],
)
def test_flips_of_own_data(given: object, flips: tuple[str, ...]) -> None:
    assert ReadOptions.parse("folder", {"flips": given}).flips == flips
    assert ReadOptions.parse("folder", {}).flips == ("horizontal",)
