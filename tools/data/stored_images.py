"""Images of many shards, decoded on demand and cached within a memory limit.

Class, weight and selection, which determine the sampling probabilities, are read once per process
and shard, about 200 bytes an image. A training over all rounds of a long session thus reads only
the pixels that its batches need, and holds at most `KEPT_BYTES` of them.
"""

from __future__ import annotations

import copy
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from memory.errors import DataError
from memory.files import cached_until_changed, sha256_of
from tools.data.last_used import LastUsed
from tools.data.samples import Labels, Samples, concatenate
from tools.data.selected import left_out
from tools.data.shards import (
    check_shapes,
    decode_png,
    kinds_of,
    read_table,
    reading_shard,
    samples_of,
)

KEPT_BYTES = 2**28
"""Size limit of the cache of file contents, and of the cache of decoded images."""

# Memory overhead of a decoded image beside its pixels.
_OBJECT_BYTES = 3000


class Contents(NamedTuple):
    """Columns of a shard without pixels; `kinds` are the kinds of pixel labels that it has."""

    sha256: str
    image_shape: tuple[int, int, int]
    ids: tuple[str, ...]
    prompt_ids: tuple[str, ...]
    classes: Labels
    weights: NDArray[np.float64]
    kinds: frozenset[str]


def contents(path: Path) -> Contents:
    """Return the columns of a shard; raises DataError if it is missing or damaged."""
    with reading_shard(path):
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
        prompt_ids=tuple(sys.intern(name) for name in table["prompt_id"].to_pylist()),
        classes=table["label"].to_numpy(),
        weights=table["weight"].to_numpy(),
        kinds=frozenset(kinds_of(table)),
    )


class StoredImages:
    """Images of shards, in order; a `Pool`.

    Pixel labels that are missing in subset shard are dropped.

    Args:
        shards: Shards of generated images.
        real: Shards of photographs, which follow the generated images.
        chosen: Whether to exclude images that a selection left out.

    Attributes:
        n_read: Number of times that the pixels of a shard were read.
        ids: Names of the images.
        prompt_ids: Prompt ids of the images.
        is_real: Mask of the photographs, (n,).

    Raises:
        DataError: There are no shards, or one is missing, damaged or of another image shape.
    """

    def __init__(
        self, shards: Sequence[Path], real: Sequence[Path] = (), chosen: bool = True
    ) -> None:
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
        self.prompt_ids: Sequence[str] = [name for part in parts for name in part.prompt_ids]
        if chosen and (names := left_out(shards)):
            is_chosen = np.array([name not in names for name in self.ids])
            self._keep(np.flatnonzero(is_chosen | self.is_real))
        self._tables = LastUsed[int, pa.Table](KEPT_BYTES, lambda table: int(table.nbytes))
        self._decoded = LastUsed[int, Samples](KEPT_BYTES, _n_bytes)

    def __len__(self) -> int:
        return len(self.classes)

    def only(self, rows: Sequence[int] | NDArray[np.int64]) -> StoredImages:
        """Return the images at `rows`, in that order."""
        subset = copy.copy(self)
        subset._keep(np.asarray(rows, dtype=np.int64))
        subset._decoded = LastUsed[int, Samples](KEPT_BYTES, _n_bytes)
        return subset

    def _keep(self, rows: NDArray[np.int64]) -> None:
        self.ids, self.prompt_ids = (
            [names[row] for row in rows] for names in (self.ids, self.prompt_ids)
        )
        self._owner, self._row = self._owner[rows], self._row[rows]
        self.classes, self.weights = self.classes[rows], self.weights[rows]
        self.is_real = self.is_real[rows]

    def take(self, index: Sequence[int] | NDArray[np.int64]) -> Samples:
        """Return the samples at `index`, in that order."""
        return concatenate([self._decoded.get(int(i), self._decode) for i in index])

    def _decode(self, index: int) -> Samples:
        owner, row = int(self._owner[index]), int(self._row[index])
        with reading_shard(self._shards[owner]):
            one = samples_of(self._tables.get(owner, self._read).slice(row, 1))
        labels = {kind: one.labels[kind] for kind in one.labels if kind in self._kinds}
        return replace(one, labels=labels)

    def _read(self, owner: int) -> pa.Table:
        self.n_read += 1
        return read_table(self._shards[owner])


def _n_bytes(one: Samples) -> int:
    return one.images.nbytes + sum(v.nbytes for v in one.labels.values()) + _OBJECT_BYTES
