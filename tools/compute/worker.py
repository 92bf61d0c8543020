"""What works on one device of a cluster: draws and audits shards, and predicts.

A worker is made of plain data and bytes, and loads what it needs when it is first used: it can be
started again on another machine at any time, where it makes the same.
"""

from __future__ import annotations

import io
import os
import socket
from collections.abc import Sequence
from contextlib import chdir, nullcontext
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from numpy.typing import NDArray

from memory.errors import ShapingError, WeightsError
from tools import tasks
from tools.compute.recipe import Recipe
from tools.compute.within_memory import WithinMemory
from tools.data.samples import Images
from tools.generate_batch import Judge, Order, make_shard
from tools.generators import Generator


class Made(NamedTuple):
    """A shard's number and parquet file; told: images drawn at once, each time it was halved."""

    number: int
    data: bytes
    told: Sequence[int]


@dataclass(frozen=True)
class Packed:
    """An order whose critic is packed, see `pack`."""

    order: Order
    critic: bytes | None


class Worker:
    """Makes shards and predictions on one torch device.

    judge: a packed `Judge`; identity: of the generator that the session has, which the one built
    here must have too; n_at_once: images drawn at once, None for a whole shard; n_threads: of
    arithmetic on the processor, None as torch chooses; folder: of the session's process, where
    relative paths of the recipe begin, if it is here too.
    """

    def __init__(
        self,
        recipe: Recipe,
        judge: bytes,
        identity: str,
        device: str = "cpu",
        n_at_once: int | None = None,
        n_threads: int | None = None,
        folder: Path = Path(),
    ) -> None:
        self._recipe, self._packed_judge, self._identity = recipe, judge, identity
        self._device, self._n_at_once, self._folder = device, n_at_once, folder
        self._halved: list[int] = []
        self._critic: tuple[bytes, Any] | None = None
        if n_threads is not None:
            torch.set_num_threads(n_threads)

    def make(self, packed: Packed, number: int) -> Made:
        """Make one shard of an order.

        Raises WeightsError when the generator is another one here than in the session.
        """
        order = replace(packed.order, critic=self._load_critic(packed.critic))
        data = make_shard(order, number, self._generator, self._judge)
        told, self._halved = self._halved, []
        return Made(number, data, told)

    def predict(
        self, task: str, model: bytes, images: Images, number: int
    ) -> tuple[int, NDArray[Any]]:
        """Return the number of a piece and what a packed DSTM says of its images."""
        return number, tasks.build(task).predict(unpack(model, self._device), images)

    @cached_property
    def _generator(self) -> Generator:
        try:
            with chdir(self._folder) if self._folder.is_dir() else nullcontext():
                found = self._recipe.build(self._device)
        except ShapingError as error:
            raise type(error)(f"{_here()}: {error}") from error
        if found.identity != self._identity:
            raise WeightsError(
                f"{_here()} has the generator {found.identity!r}, the session {self._identity!r}. "
                "Install the same version of this program, and the same weights at the same path, "
                "on every node of the cluster."
            )
        return WithinMemory(found, self._n_at_once, self._halved.append)

    @cached_property
    def _judge(self) -> Judge:
        found: Judge = unpack(self._packed_judge, self._device)
        return found

    def _load_critic(self, packed: bytes | None) -> Any:
        if packed is None:
            return None
        if self._critic is None or self._critic[0] != packed:
            self._critic = packed, unpack(packed, self._device)
        return self._critic[1]


def pack(what: object) -> bytes:
    """Return an object with torch modules inside as bytes, to be unpacked on another device."""
    file = io.BytesIO()
    torch.save(what, file)
    return file.getvalue()


def pack_order(order: Order) -> Packed:
    """Return an order that can be sent to a worker."""
    critic = None if order.critic is None else pack(order.critic)
    return Packed(replace(order, critic=None), critic)


def unpack(data: bytes, device: str) -> Any:
    """Invert `pack`, tensors going to a torch device; only for bytes of this program's own."""
    return torch.load(io.BytesIO(data), map_location=device, weights_only=False)


def _here() -> str:
    return f"The worker {os.getpid()} on {socket.gethostname()}"
