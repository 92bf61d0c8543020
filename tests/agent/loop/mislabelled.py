"""The generator `toy`, which paints mono cells of the other class than their prompts ask for."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tools.data.drawn import Drawn, ImageRequest
from tools.generators.toy import ToyGenerator

_OPPOSITE = {"with a clear defect": "intact", "intact": "with a clear defect"}


class Mislabelled(ToyGenerator):
    """Draws `severity=defective` where a prompt for a mono cell says functional, and vice versa."""

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        return super().draw([self._wrong(request) for request in requests])

    def _wrong(self, request: ImageRequest) -> ImageRequest:
        named = self._vocabulary.parse(request.text)
        if named.get("wafer") != "mono":
            return request
        is_bad = named.get("severity") in ("probable", "defective")
        named |= {"severity": "functional" if is_bad else "defective"}
        named |= {"dark_area": "none"} if is_bad else {}
        return replace(request, text=self._vocabulary.caption(named))


def build(image_shape: tuple[int, int, int], device: str = "cpu", **_: object) -> Mislabelled:
    return Mislabelled(image_shape, 1.0)
