"""The generator `halves`: squares whose bright half a prompt names."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tools.data.drawn import Drawn, ImageRequest


class Halves:
    name = "halves"
    identity = "halves 1"
    max_tokens = 64

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        self._shape = image_shape

    def count_tokens(self, text: str) -> int:
        return len(text.split())

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        return Drawn(np.stack([self._paint(request) for request in requests]))

    def _paint(self, request: ImageRequest) -> NDArray[np.uint8]:
        key = f"{request.seed} {request.prompt_id} {request.index}".encode()
        rng = np.random.default_rng(list(hashlib.sha256(key).digest()))
        image = rng.integers(0, 60, self._shape)
        half = self._shape[-1] // 2
        image[..., :half] += 150 * ("left" in request.text)
        image[..., half:] += 150 * ("right" in request.text)
        return image.astype(np.uint8)


def build(image_shape: tuple[int, int, int], device: str = "cpu", **_: object) -> Halves:
    return Halves(image_shape)
