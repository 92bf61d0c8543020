"""A generator wrapper that adds the pixel labels of a labeler."""

from __future__ import annotations

from collections.abc import Sequence

from tools.data.drawn import Drawn, ImageRequest
from tools.generators import Generator, GeneratorWrapper
from tools.labelers import Labeler


class Labelled(GeneratorWrapper):
    """Draws the images of `inner`; the labeler's labels replace drawn labels of the same kind."""

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
        # The confidence of replaced labels does not apply to the new ones.
        kept = {kind: v for kind, v in drawn.confidence.items() if kind not in labels}
        return Drawn(drawn.images, {**drawn.labels, **labels}, {**kept, **confidence})
