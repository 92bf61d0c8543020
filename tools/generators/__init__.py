"""Generators: from prompts to images. One file per generator; `build` finds them by name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from tools.plugins import load


@dataclass(frozen=True)
class ImageRequest:
    """One image to draw; its noise is a function of (seed, prompt_id, index) alone."""

    text: str
    prompt_id: str
    index: int
    seed: int
    guidance: float | None = None


@runtime_checkable
class Generator(Protocol):
    """Draws images from text.

    A generator file has a function `build(image_shape, device, **options) -> Generator`.
    """

    name: str
    max_tokens: int

    @property
    def identity(self) -> str:
        """A name for all that decides the pixels beside the request: weights and sampling."""
        ...

    def count_tokens(self, text: str) -> int:
        """Return how many tokens of at most `max_tokens` a prompt needs."""
        ...

    def draw(self, requests: Sequence[ImageRequest]) -> NDArray[np.uint8]:
        """Return one image per request, (n, channels, height, width)."""
        ...


def build(
    name: str, image_shape: tuple[int, int, int], device: str = "cpu", **options: object
) -> Generator:
    """Build the generator `name`, or the one at the dotted path `package.module:build`."""
    generator: Generator = load("tools.generators", name)(
        image_shape=image_shape, device=device, **options
    )
    return generator
