"""Generators of images from prompts. One file or folder per generator, found by its name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, Protocol, runtime_checkable

from memory.errors import WeightsError
from tools.data.drawn import Drawn, ImageRequest
from tools.plugins import load


@runtime_checkable
class Generator(Protocol):
    """Draws images from text.

    A generator file has a function `build(image_shape, device, **options) -> Generator`.

    Attributes:
        name: Name of the generator's file or folder.
        max_tokens: Largest number of tokens of a prompt.
    """

    name: str
    max_tokens: int

    @property
    def identity(self) -> str:
        """Identifier of everything that determines the pixels beside the request."""

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a prompt, which may exceed `max_tokens`."""

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        """Return one image per request, with its labels."""


class CountsWords:
    """Mixin for generators without a tokenizer: prompts have at most 64 words."""

    max_tokens = 64

    def count_tokens(self, text: str) -> int:
        """Return the number of words."""
        return len(text.split())


Feature = Literal["accepts_feedback", "accepts_guidance", "open_vocabulary"]


def supports(generator: Generator, feature: Feature) -> bool:
    """Return whether a generator has an attribute of this name that is True.

    Args:
        generator: Any generator.
        feature: `accepts_feedback`: a DSTM can guide it, see `tools.diffusion.guidance`;
            `accepts_guidance`: it follows the `guidance` of a request; `open_vocabulary`: it may
            follow any words of a prompt, not only those of captions.
    """
    return bool(getattr(generator, feature, False))


def undrawn(generator: Generator, text: str) -> Sequence[str]:
    """Return the words of a prompt that are known to have no effect on the image.

    Generators that ignore words, such as class-conditional ones, return them from a method
    `undrawn`; for others the result is empty.
    """
    method = getattr(generator, "undrawn", None)
    return method(text) if method else ()


class GeneratorWrapper:
    """Wrapper of the generator `inner`; subclasses change how images are drawn."""

    def __init__(self, inner: Generator) -> None:
        self.name = inner.name
        self.max_tokens = inner.max_tokens
        self.accepts_feedback = supports(inner, "accepts_feedback")
        self.accepts_guidance = supports(inner, "accepts_guidance")
        self.open_vocabulary = supports(inner, "open_vocabulary")
        self._inner = inner

    @property
    def identity(self) -> str:
        """Return the identity of `inner`."""
        return self._inner.identity

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens for `inner`."""
        return self._inner.count_tokens(text)

    def undrawn(self, text: str) -> Sequence[str]:
        """Return the words that `inner` cannot draw."""
        return undrawn(self._inner, text)


def check_shape(
    model: str, drawn: tuple[int, int, int], wanted: tuple[int, int, int], command: str
) -> None:
    """Raise WeightsError if a model draws images of another shape than the target's.

    Args:
        model: Name of the model in the message.
        drawn: Channels, height and width of its images.
        wanted: Channels, height and width of the target's images.
        command: Command that trains such a model for the target.
    """
    if drawn == tuple(wanted):
        return
    n_channels, height, width = drawn
    advice = f"Train one for this target with `{command}`."
    if n_channels == wanted[0]:
        advice = (
            f"Read photographs in its size with `--set target.options.size={width}x{height}`, "
            f"where the target has this option. {advice}"
        )
    raise WeightsError(
        f"The {model} draws images of shape {drawn}, but the target's are {tuple(wanted)}. {advice}"
    )


def build(
    name: str, image_shape: tuple[int, int, int], device: str = "cpu", **options: object
) -> Generator:
    """Build the generator `name`, or the one at the dotted path `package.module:build`."""
    generator: Generator = load("tools.generators", name)(
        image_shape=image_shape, device=device, **options
    )
    return generator
