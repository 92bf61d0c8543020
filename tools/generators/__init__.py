"""Generators: from prompts to images. One file per generator; `build` finds them by name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, runtime_checkable

from tools.data.drawn import Drawn, ImageRequest
from tools.plugins import load


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

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        """Return one image per request, with its labels."""
        ...


def can_be_pulled(generator: Generator) -> bool:
    """Tell whether a DSTM can pull the generator's images, see `tools.diffusion.guidance`.

    Such a generator has an attribute `can_be_pulled` that says so.
    """
    return bool(getattr(generator, "can_be_pulled", False))


def undrawn(generator: Generator, text: str) -> Sequence[str]:
    """Return the words of a prompt that surely have no effect on what the generator draws.

    A generator that cannot follow words, as one that knows classes alone, has a method `undrawn`
    that names them; of others nothing is known.
    """
    named = getattr(generator, "undrawn", None)
    words: Sequence[str] = named(text) if named else ()
    return words


def build(
    name: str, image_shape: tuple[int, int, int], device: str = "cpu", **options: object
) -> Generator:
    """Build the generator `name`, or the one at the dotted path `package.module:build`."""
    generator: Generator = load("tools.generators", name)(
        image_shape=image_shape, device=device, **options
    )
    return generator
