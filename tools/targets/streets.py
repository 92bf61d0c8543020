"""The target `streets`: rendered scenes of a separate domain, with exact pixel labels.

A surrogate for real photographs: in the style `shifted`, colours, textures and camera differ from
those of the generator `streets`, conditions are as rare as in real traffic, and the truth of every
slice is known.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from memory.files import write_bytes
from prompts.vocabulary import load_vocabulary
from tools.data.samples import Samples
from tools.data.shards import read_shards, write_shard
from tools.streets import CLASS_NAMES, HEIGHT, WIDTH, Style, render, stack
from tools.targets import SPLITS, Target, check_split

# Increased whenever the renderer draws other pixels than before.
_CACHE_VERSION = 1
SIZES = {"generator": 1200, "audit": 400, "feedback": 400, "test": 800}


class Streets(Target):
    """Rendered streets; attributes light, weather, traffic, pedestrians and layout."""

    task = "segmentation"
    class_names: Sequence[str] = ("scene",)
    pixel_classes: Sequence[str] = CLASS_NAMES
    flips: tuple[str, ...] = ("horizontal",)
    notice = "The streets are rendered; they stand for photographs and are none."

    def __init__(self, cache_dir: Path, style: Style, scale: int, sizes: Mapping[str, int]) -> None:
        self.name = f"streets-{style}"
        self.image_shape = (3, HEIGHT * scale, WIDTH * scale)
        self.vocabulary = load_vocabulary("streets")
        self._cache_dir = cache_dir
        self._style = style
        self._sizes = sizes
        self._read = cache(self._load)

    def split(self, name: str) -> Samples:
        """Return a split, rendered at its first use and cached as a parquet file."""
        check_split(name)
        return self._read(name)

    def measure(self, image: NDArray[np.uint8], attributes: Mapping[str, str]) -> dict[str, str]:
        """Return {}: attributes are derived from labels, not from pixels."""
        return {}

    def _load(self, name: str) -> Samples:
        key = f"{_CACHE_VERSION} {self._style} {name} {self._sizes[name]} {self.image_shape}"
        digest = hashlib.sha256(key.encode()).hexdigest()[:16]
        path = self._cache_dir / f"{self.name}-{name}-{digest}.parquet"
        if not path.exists():
            samples = self._render(name)
            blank = [""] * len(samples)
            data = write_shard(samples, blank, blank, range(len(samples)), self.class_names)
            write_bytes(path, data)
        return read_shards([path])

    def _render(self, name: str) -> Samples:
        """Render a split; its seeds differ from those of other splits and of generators."""
        _, height, width = self.image_shape
        first = (SPLITS.index(name) + 1) * 1_000_000
        seeds = range(first, first + self._sizes[name])
        scenes = [render({}, seed, width, height, self._style) for seed in seeds]
        images, labels = stack(scenes)
        return Samples(
            images=images,
            classes=np.zeros(len(scenes), np.int64),
            attributes=[scene.attributes for scene in scenes],
            ids=[f"{name}-{seed}" for seed in seeds],
            labels=labels,
        )


def build(
    cache_dir: Path,
    style: Style = "shifted",
    scale: int = 1,
    sizes: Mapping[str, int] | None = None,
) -> Streets:
    """Build the target.

    Args:
        cache_dir: Folder for the parquet files of splits.
        style: "shifted", or "plain", the style of the generator.
        scale: Factor of the image size, 96x64.
        sizes: Number of scenes by split, overriding `SIZES`.

    Raises:
        DataError: A split is unknown.
    """
    for name in sizes or {}:
        check_split(name)
    return Streets(cache_dir, style, scale, {**SIZES, **(sizes or {})})
