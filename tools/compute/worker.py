"""A worker on one device of a cluster: draws and verifies shards, and predicts.

A worker is built from plain data and bytes, and loads its parts when they are first used: it can be
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
    """Name and options of a generator and of its labeler, as plain data.

    Attributes:
        name: Of the generator.
        image_shape: (channels, height, width).
        options: Of the generator.
        labeler: Its name; "none": no labeler.
        pixel_classes: Names of the class ids that the labeler's labels shall have.
        labeler_options: Of the labeler.
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
        number: Of the shard.
        data: Its parquet file.
        halved: Images drawn at once, each time the number was halved.
    """

    number: int
    data: bytes
    halved: Sequence[int]


@dataclass
class Worker:
    """Makes shards and predictions on one torch device.

    Attributes:
        recipe: Of the generator.
        verifier: A packed `LabelVerifier`.
        identity: Of the session's generator, which that of the worker must have too.
        device: A torch device.
        n_at_once: Images drawn at once; None: a whole shard.
        n_threads: Of arithmetic on the CPU; None: torch's default.
        folder: Working directory of the session, for relative paths of the recipe, if it exists.
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
        """Make one shard of a packed `ShardSpec`.

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
        """Return the number of a piece and a packed DSTM's predictions for its images."""
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
    """Serialise an object with torch modules inside, to be unpacked on another device."""
    file = io.BytesIO()
    torch.save(value, file)
    return file.getvalue()


@lru_cache(maxsize=3)
def unpack(data: bytes, device: str) -> Any:
    """Invert `pack`, with tensors on a torch device; for bytes of this program alone.

    What was unpacked last is kept, since all shards of a batch and all pieces of a split come with
    the same bytes.
    """
    return torch.load(io.BytesIO(data), map_location=device, weights_only=False)
