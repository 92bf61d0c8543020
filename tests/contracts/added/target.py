"""The target `halves`: gray squares of which one half is bright."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prompts.vocabulary import Phrases, Vocabulary
from tools.data.samples import Samples
from tools.targets import SPLITS, check_split

SIZE = 32
_N = 24


class Halves:
    name = "halves"
    task = "segmentation"
    image_shape = (1, SIZE, SIZE)
    class_names: Sequence[str] = ("left", "right")
    pixel_classes: Sequence[str] = ("dark", "bright")
    flips: tuple[str, ...] = ("horizontal",)
    notice = "Painted; nobody has a right to them."
    vocabulary = Vocabulary(
        name="halves",
        subjects=("square",),
        class_attribute="side",
        classes=("left", "right"),
        class_of={"left": "left", "right": "right"},
        attributes={
            "side": {side: Phrases(clause=(f"bright on the {side}",)) for side in ("left", "right")}
        },
    )

    def split(self, name: str) -> Samples:
        check_split(name)
        rng = np.random.default_rng(SPLITS.index(name))
        sides = [("left", "right")[i % 2] for i in range(_N)]
        masks = np.stack([mask_of(side) for side in sides])
        noise = rng.integers(0, 60, (_N, SIZE, SIZE))
        return Samples(
            images=(masks * 150 + noise).astype(np.uint8)[:, None],
            classes=np.array([self.class_names.index(side) for side in sides], np.int64),
            attributes=[{"side": side} for side in sides],
            ids=[f"{name}{i:02d}" for i in range(_N)],
            labels={"segmentation": masks},
        )

    def flip(self, attributes: dict[str, str], horizontal: bool, vertical: bool) -> dict[str, str]:
        other = {"left": "right", "right": "left"} if horizontal else {}
        return {key: other.get(value, value) for key, value in attributes.items()}

    def measure(self, image: NDArray[np.uint8], attributes: Mapping[str, str]) -> dict[str, str]:
        half = image.shape[-1] // 2
        return {"side": "left" if image[..., :half].mean() > image[..., half:].mean() else "right"}


def mask_of(side: str) -> NDArray[np.uint8]:
    mask = np.zeros((SIZE, SIZE), np.uint8)
    mask[:, : SIZE // 2] = 1
    return mask if side == "left" else mask[:, ::-1].copy()


def build(cache_dir: Path) -> Halves:
    return Halves()
