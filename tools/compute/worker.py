"""A worker on one device of a cluster, which draws and verifies shards, and predicts.

A worker is built from plain data and bytes, and loads its components on first use: it can be
restarted on another machine at any time, with the same results.
"""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Mapping, Sequence
from contextlib import chdir, nullcontext
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

from memory.errors import ShapingError, WeightsError
from tools import generators, labelers, tasks
from tools.compute.within_memory import WithinMemory
from tools.data.samples import Images
from tools.generate_batch import LabelVerifier, ShardSpec, make_shard
from tools.generators import Generator
from tools.labelers.labelled import Labelled


@dataclass(frozen=True)
class Recipe:
    """Names and options of a generator and its labeler, as plain data.

    Attributes:
        name: Name of the generator.
        image_shape: (channels, height, width).
        options: Options of the generator.
        labeler: Name of the labeler; "none": no labeler.
        pixel_classes: Class names of the ids in the labeler's output.
        labeler_options: Options of the labeler.
    """

    name: str
    image_shape: tuple[int, int, int]
    options: Mapping[str, object]
    labeler: str = "none"
    pixel_classes: Sequence[str] = ()
    labeler_options: Mapping[str, object] = field(default_factory=dict)

    def build(self, device: str) -> Generator:
        """Build the generator on a torch device."""
        generator = generators.build(self.name, self.image_shape, device, **self.options)
        if self.labeler == "none":
            return generator
        labeler = labelers.build(
            self.labeler, generator, self.pixel_classes, device, **self.labeler_options
        )
        return Labelled(generator, labeler)


class ShardResult(NamedTuple):
    """A finished shard.

    Attributes:
        number: Index of the shard.
        data: Bytes of its parquet file.
        halved: Batch sizes after each halving.
    """

    number: int
    data: bytes
    halved: Sequence[int]


@dataclass
class Worker:
    """Creates shards and predictions on one torch device.

    Attributes:
        recipe: Recipe of the generator.
        verifier: A packed `LabelVerifier`.
        identity: Identity of the session's generator, which the worker's must equal.
        device: Torch device.
        n_at_once: Images drawn at once; None: a whole shard.
        n_threads: Number of CPU threads; None: torch's default.
        folder: Working directory of the session, for relative paths of the recipe; ignored where it
            does not exist.
    """

    recipe: Recipe
    verifier: bytes
    identity: str
    device: str = "cpu"
    n_at_once: int | None = None
    n_threads: int | None = None
    folder: Path = Path()

    def __post_init__(self) -> None:
        self._halved: list[int] = []
        if self.n_threads is not None:
            torch.set_num_threads(self.n_threads)

    def make(self, packed: bytes, number: int) -> ShardResult:
        """Create one shard of a packed `ShardSpec`.

        Raises:
            WeightsError: The generator differs from the session's.
        """
        spec: ShardSpec = unpack(packed, self.device)
        verifier: LabelVerifier = unpack(self.verifier, self.device)
        data = make_shard(spec, number, self._generator, verifier)
        halved, self._halved = self._halved, []
        return ShardResult(number, data, halved)

    def predict(
        self, task: str, model: bytes, images: Images, number: int
    ) -> tuple[int, NDArray[Any]]:
        """Return the number of a piece of images and a packed DSTM's predictions for it."""
        dstm = unpack(model, self.device)
        return number, tasks.build(task).predict(dstm, images)

    @cached_property
    def _generator(self) -> Generator:
        worker = f"The worker {os.getpid()} on {socket.gethostname()}"
        try:
            with chdir(self.folder) if self.folder.is_dir() else nullcontext():
                generator = self.recipe.build(self.device)
        except ShapingError as error:
            raise type(error)(f"{worker}: {error}") from error
        if generator.identity != self.identity:
            raise WeightsError(
                f"{worker} has the generator {generator.identity!r}, the session "
                f"{self.identity!r}. Install the same version of this program, and the same "
                "weights at the same path, on every node of the cluster."
            )
        return WithinMemory(generator, self.n_at_once, self._halved.append)


def pack(value: object) -> bytes:
    """Serialise an object that contains torch modules."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@lru_cache(maxsize=3)
def unpack(data: bytes, device: str) -> Any:
    """Invert `pack`, with tensors on a torch device; only for bytes of this program.

    Recent results are cached, since all shards of a batch and all pieces of a split come with the
    same bytes.
    """
    return torch.load(io.BytesIO(data), map_location=device, weights_only=False)
