"""A generator whose images get their labels of pixels from a labeler."""

from __future__ import annotations

from collections.abc import Sequence

from tools.data.drawn import Drawn, ImageRequest
from tools.generators import Generator, GeneratorWrapper
from tools.labelers import Labeler


class Labelled(GeneratorWrapper):
    """Behaves like `inner`, but labels of the labeler's kinds replace those drawn."""

    def __init__(self, inner: Generator, labeler: Labeler) -> None:
        super().__init__(inner)
        self._labeler = labeler

    @property
    def identity(self) -> str:
        """Return the identities of `inner` and of the labeler."""
        return f"{self._inner.identity}, labels by {self._labeler.identity}"

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        """Draw all requests and label the images."""
        drawn = self._inner.draw(requests)
        labels, confidence = self._labeler.label(drawn.images)
        # Confidence in labels that were replaced does not hold for those that replace them.
        kept = {kind: v for kind, v in drawn.confidence.items() if kind not in labels}
        return Drawn(drawn.images, {**drawn.labels, **labels}, {**kept, **confidence})
