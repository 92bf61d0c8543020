from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from prompts.vocabulary import Vocabulary, load_vocabulary
from tools.data.samples import Samples
from tools.settings import TrainSettings
from tools.targets import SPLITS


@dataclass(frozen=True)
class SquaresTarget:
    """Gray 16x16 noise; the class `square` has a bright square, faint where `light` is dim."""

    name: str = "squares"
    task: str = "classification"
    image_shape: tuple[int, int, int] = (1, 16, 16)
    class_names: Sequence[str] = ("plain", "square")
    vocabulary: Vocabulary = field(default_factory=partial(load_vocabulary, "elpv"))
    notice: str = ""
    pixel_classes: Sequence[str] = ()
    flips: tuple[str, ...] = ("horizontal", "vertical")
    n_images: int = 80

    def split(self, name: str) -> Samples:
        random = np.random.default_rng(SPLITS.index(name))
        images = random.integers(60, 100, (self.n_images, *self.image_shape), dtype=np.uint8)
        classes = np.arange(self.n_images) % 2
        dim = np.arange(self.n_images) % 4 >= 2
        for i in np.nonzero(classes)[0]:
            row, column = random.integers(2, 8, 2)
            images[i, :, row : row + 6, column : column + 6] += np.uint8(3 if dim[i] else 90)
        return Samples(
            images=images,
            classes=classes,
            attributes=[{"light": "dim" if d else "good"} for d in dim],
            ids=[f"{name}{i:03d}" for i in range(self.n_images)],
        )

    def flip(self, attributes: dict[str, str], horizontal: bool, vertical: bool) -> dict[str, str]:
        return attributes


@pytest.fixture(scope="session")
def target() -> SquaresTarget:
    return SquaresTarget()


@pytest.fixture(scope="session")
def quick() -> TrainSettings:
    return TrainSettings(steps=120, batch_size=16, learning_rate=0.005)


@pytest.fixture(scope="module")
def sd(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a tiny Stable Diffusion with random weights."""
    from tests.tools.tiny_diffusers import stable_diffusion

    folder = tmp_path_factory.mktemp("sd")
    stable_diffusion(folder)
    return folder
