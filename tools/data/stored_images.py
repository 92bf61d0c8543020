"""The images of many shards to sample from: only those in a batch are decoded.

Class, weight and selection, which decide how often an image is sampled, are read once per process
and shard. A training over all rounds of a long session thus reads no more pixels of earlier rounds
than its batches need.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from memory.errors import DataError
from memory.files import cached_until_changed, sha256_of
from tools.data.samples import Labels, Samples, concatenate
from tools.data.selected import left_out
from tools.data.shards import check_shapes, decode_png, explained, kinds_of, read_table, samples_of


class Contents(NamedTuple):
    """A shard without its pixels; kinds: kinds of labels of pixels that it has."""

    sha256: str
    image_shape: tuple[int, int, int]
    ids: tuple[str, ...]
    classes: Labels
    weights: NDArray[np.float64]
    kinds: frozenset[str]


def contents(path: Path) -> Contents:
    """Return what a shard holds; raises DataError for one that is missing or damaged."""
    with explained(path):
        return _contents(path)


@cached_until_changed
def _contents(path: Path) -> Contents:
    table = read_table(path)
    pictures = table["image"].combine_chunks()
    channels, height, width = decode_png(pictures[0].as_py()["bytes"]).shape
    return Contents(
        sha256=sha256_of(path),
        image_shape=(channels, height, width),
        ids=tuple(name.removesuffix(".png") for name in pictures.field("path").to_pylist()),
        classes=table["label"].to_numpy(),
        weights=table["weight"].to_numpy(),
        kinds=frozenset(kinds_of(table)),
    )


class StoredImages:
    """The images of shards, in order, without those that a selection left out: a `Pool`.

    Labels of pixels that not all shards have are left out.

    Args:
        shards: Of generated images.
        real: Shards of photographs, which come after them.

    Attributes:
        n_read: Number of shards that were read for their pixels.
        ids: Names of the images.
        is_real: Which images are photographs, (n,).

    Raises:
        DataError: There is no shard, or one is missing, damaged or of another image shape.
    """

    def __init__(self, shards: Sequence[Path], real: Sequence[Path] = ()) -> None:
        self._shards = [*shards, *real]
        if not self._shards:
            raise DataError("no samples to join")
        parts = [contents(path) for path in self._shards]
        for path, part in zip(self._shards, parts, strict=True):
            check_shapes(path, part.image_shape, self._shards[0], parts[0].image_shape)
        self.image_shape = parts[0].image_shape
        self.n_read = 0
        self._kinds = frozenset.intersection(*(part.kinds for part in parts))
        sizes = [len(part.ids) for part in parts]
        self._owner = np.repeat(np.arange(len(parts)), sizes)
        self._row = np.concatenate([np.arange(size) for size in sizes])
        self.classes: Labels = np.concatenate([part.classes for part in parts])
        self.weights: NDArray[np.float64] = np.concatenate([part.weights for part in parts])
        self.is_real: NDArray[np.bool_] = self._owner >= len(shards)
        self.ids: Sequence[str] = [name for part in parts for name in part.ids]
        if names := left_out(shards):
            is_chosen = np.array([name not in names for name in self.ids])
            kept = is_chosen | self.is_real
            self.ids = [name for name, is_kept in zip(self.ids, kept, strict=True) if is_kept]
            self._owner, self._row = self._owner[kept], self._row[kept]
            self.classes, self.weights = self.classes[kept], self.weights[kept]
            self.is_real = self.is_real[kept]
        self._tables: dict[int, pa.Table] = {}
        self._decoded: dict[int, Samples] = {}

    def __len__(self) -> int:
        return len(self.classes)

    def take(self, index: Sequence[int] | NDArray[np.int64]) -> Samples:
        """Return the samples at `index`, in that order; each is decoded once."""
        return concatenate([self._sample(int(i)) for i in index])

    def _sample(self, index: int) -> Samples:
        if index not in self._decoded:
            owner = int(self._owner[index])
            path = self._shards[owner]
            with explained(path):
                if owner not in self._tables:
                    self._tables[owner] = read_table(path)
                    self.n_read += 1
                one = samples_of(self._tables[owner].slice(int(self._row[index]), 1))
            labels = {kind: one.labels[kind] for kind in one.labels if kind in self._kinds}
            self._decoded[index] = replace(one, labels=labels)
        return self._decoded[index]
