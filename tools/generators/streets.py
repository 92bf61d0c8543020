"""The generator `streets`: renders the attributes of a prompt with exact pixel labels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

from memory.errors import SettingsError
from prompts.vocabulary import load_vocabulary
from tools.data.drawn import Drawn, ImageRequest
from tools.generators import CountsWords
from tools.streets import HEIGHT, WIDTH, Style, render, stack

# Increase it whenever the pixels of a prompt change.
_VERSION = 2


class StreetsGenerator(CountsWords):
    """Renderer of streets; words outside the vocabulary `streets` have no effect.

    Words for cyclists, which only the vocabulary `camvid` has, are an exception.
    """

    name = "streets"

    def __init__(self, image_shape: tuple[int, int, int], style: Style) -> None:
        channels, self._height, self._width = image_shape
        scale = self._width // WIDTH
        if channels != 3 or image_shape != (3, HEIGHT * scale, WIDTH * scale) or scale < 1:
            raise SettingsError(
                f"The generator 'streets' draws colour images of 96x64 pixels times a whole "
                f"number, but the target's have the shape {image_shape}. Use another generator, "
                "or the target 'streets'."
            )
        self._style = style
        self._vocabulary = load_vocabulary("streets")
        self._of_cyclists = load_vocabulary("camvid")

    @property
    def identity(self) -> str:
        """Return the style, and the version of the renderer."""
        return f"streets {self._style} {_VERSION}"

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        """Render all requests; attributes that a prompt does not name are random."""
        scenes = [
            render(self._attributes(r.text), _seed(r), self._width, self._height, self._style)
            for r in requests
        ]
        return Drawn(*stack(scenes))

    def _attributes(self, text: str) -> dict[str, str]:
        parsed = self._of_cyclists.parse(text)
        cyclists = {key: value for key, value in parsed.items() if key == "cyclists"}
        return self._vocabulary.parse(text) | cyclists


def _seed(request: ImageRequest) -> int:
    """Return a seed that no split of the target `streets` uses (those are below 2**32)."""
    key = json.dumps([request.seed, request.prompt_id, request.index]).encode()
    return int.from_bytes(hashlib.sha256(key).digest()[:6], "big") | 1 << 47


def build(
    image_shape: tuple[int, int, int], device: str = "cpu", style: Style = "plain", **_: object
) -> StreetsGenerator:
    """Build the renderer; options of other generators are ignored, so presets can be reused."""
    return StreetsGenerator(image_shape, style)
