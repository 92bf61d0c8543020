"""The labeler `halves`: pixels above a threshold are of the second class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tools.data.samples import Dense, Images
from tools.generators import Generator


class Halves:
    kinds: Sequence[str] = ("segmentation",)
    identity = "halves 1"

    def label(self, images: Images) -> tuple[Dense, Dense]:
        return {"segmentation": (images.mean(1) > 100).astype(np.uint8)}, {}


def build(generator: Generator, pixel_classes: Sequence[str], device: str) -> Halves:
    return Halves()
