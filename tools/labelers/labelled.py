"""A generator whose images get their labels of pixels from a labeler."""

from __future__ import annotations

from collections.abc import Sequence

from tools.data.drawn import Drawn, ImageRequest
from tools.generators import Generator, can_be_pulled, undrawn
from tools.labelers import Labeler


class Labelled:
    """Behaves like `inner`, but for labels of the labeler's kinds, which replace those drawn."""

    def __init__(self, inner: Generator, labeler: Labeler) -> None:
        self.name = inner.name
        self.max_tokens = inner.max_tokens
        self.can_be_pulled = can_be_pulled(inner)
        self._inner, self._labeler = inner, labeler

    @property
    def identity(self) -> str:
        """Return the identities of the generator within and of the labeler."""
        return f"{self._inner.identity}, labels by {self._labeler.identity}"

    def count_tokens(self, text: str) -> int:
        """Count as the generator within does."""
        return self._inner.count_tokens(text)

    def undrawn(self, text: str) -> Sequence[str]:
        """Return what the generator within cannot draw of a prompt."""
        return undrawn(self._inner, text)

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        """Draw all requests and label the images."""
        drawn = self._inner.draw(requests)
        labels, confidence = self._labeler.label(drawn.images)
        # Confidence in labels that were replaced says nothing of those that replace them.
        own = {kind: v for kind, v in drawn.confidence.items() if kind not in labels}
        return Drawn(drawn.images, {**drawn.labels, **labels}, {**own, **confidence})
