"""The generator `toy` for tests and dry runs: no weights, thousands of images a second.

It paints attributes of the vocabulary `elpv`: brightness, contrast, busbars, and a dark patch for
dark areas and defects. It is an ordinary plug-in; its images are not realistic.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from prompts.vocabulary import load_vocabulary
from tools.data.drawn import Drawn, ImageRequest
from tools.generators import CountsWords

_CENTRES = {"left": (32, 12), "right": (32, 52), "top": (12, 32), "bottom": (52, 32)}


class ToyGenerator(CountsWords):
    """The generator `toy`.

    Args:
        faithful: Probability that a requested dark area or defect is painted.
        open_vocabulary: Whether it claims to follow any words; it only follows those of elpv.
    """

    name = "toy"

    def __init__(
        self, image_shape: tuple[int, int, int], faithful: float, open_vocabulary: bool = False
    ) -> None:
        self.open_vocabulary = open_vocabulary
        self._shape = image_shape
        self._faithful = faithful
        self._vocabulary = load_vocabulary("elpv")

    @property
    def identity(self) -> str:
        """Return the name with `faithful`, the only option that affects pixels."""
        return f"toy {self._faithful}"

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        """Paint all requests."""
        return Drawn(np.stack([self._paint(request) for request in requests]))

    def _paint(self, request: ImageRequest) -> NDArray[np.uint8]:
        key = json.dumps([request.seed, request.prompt_id, request.index]).encode()
        rng = np.random.default_rng(int.from_bytes(hashlib.sha256(key).digest()[:8], "big"))
        named = self._vocabulary.parse(request.text)
        channels, height, width = self._shape
        level = {"dark": 0.45, "bright": 0.75}.get(named.get("brightness", ""), 0.62)
        texture = {"low": 0.01, "high": 0.09}.get(named.get("contrast", ""), 0.04)
        image = np.full((height, width), level) + rng.normal(0, texture, (height, width))
        for row in (17, 47) if named.get("busbars") == "two" else (11, 32, 52):
            image[row * height // 64] *= 0.8
        if rng.random() < self._faithful:
            self._patch(image, named, rng)
        grey = (image.clip(0, 1) * 255).astype(np.uint8)
        return np.broadcast_to(grey, (channels, height, width)).copy()

    def _patch(
        self, image: NDArray[np.float64], named: Mapping[str, str], rng: np.random.Generator
    ) -> None:
        radius = {"small": 5, "large": 14}.get(named.get("dark_area", ""), 0)
        if named.get("severity") in ("probable", "defective"):
            radius = max(radius, 6)
        y, x = _CENTRES.get(named.get("where", ""), (32, 32))
        y, x = y + int(rng.integers(-6, 7)), x + int(rng.integers(-6, 7))
        height, width = image.shape
        rows, columns = np.mgrid[:height, :width] * 64 / height
        image[(rows - y) ** 2 + (columns - x) ** 2 < radius**2] *= 0.3


def build(
    image_shape: tuple[int, int, int],
    device: str = "cpu",
    faithful: float = 1.0,
    open_vocabulary: bool = False,
    **_: object,
) -> ToyGenerator:
    """Build the generator; options of other generators are ignored, so presets can be reused."""
    return ToyGenerator(image_shape, faithful, open_vocabulary)
