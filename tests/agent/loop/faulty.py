"""The generator `toy` on a machine that goes wrong; draws the same pixels."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import torch

from tools.data.drawn import Drawn, ImageRequest
from tools.generators.toy import ToyGenerator


class FaultyGenerator(ToyGenerator):
    """Has memory for `max_batch` images at once; hangs once, when it finds the file `hang`."""

    def __init__(
        self, image_shape: tuple[int, int, int], max_batch: int = 10**9, hang: str = ""
    ) -> None:
        super().__init__(image_shape, 1.0)
        self._max_batch = max_batch
        self._hang = Path(hang) if hang else None

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        if len(requests) > self._max_batch:
            raise torch.OutOfMemoryError(f"CUDA out of memory with {len(requests)} images.")
        if self._hang and self._hang.exists():
            self._hang.unlink()
            time.sleep(10_000)
        return super().draw(requests)


def build(
    image_shape: tuple[int, int, int],
    device: str = "cpu",
    max_batch: int = 10**9,
    hang: str = "",
    **_: object,
) -> FaultyGenerator:
    return FaultyGenerator(image_shape, max_batch, hang)
