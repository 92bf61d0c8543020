"""A generator that draws fewer images at once where the device has no memory for all of them."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import torch

from memory.errors import ShapingError
from tools.data.drawn import Drawn, ImageRequest, join
from tools.generators import Generator, can_be_pulled, undrawn


class WithinMemory:
    """Behaves like `inner`, but halves the batch when the memory of the device does not suffice.

    n_at_once: images drawn at once, None for as many as are asked for; tell: gets the new number
    whenever it had to be halved. Pixels depend on the request alone, so they stay the same.
    """

    def __init__(
        self, inner: Generator, n_at_once: int | None, tell: Callable[[int], None]
    ) -> None:
        self.name = inner.name
        self.max_tokens = inner.max_tokens
        self.can_be_pulled = can_be_pulled(inner)
        self._inner, self._n_at_once, self._tell = inner, n_at_once, tell

    @property
    def identity(self) -> str:
        """Return the identity of the generator within."""
        return self._inner.identity

    def count_tokens(self, text: str) -> int:
        """Count as the generator within does."""
        return self._inner.count_tokens(text)

    def undrawn(self, text: str) -> Sequence[str]:
        """Return what the generator within cannot draw of a prompt."""
        return undrawn(self._inner, text)

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        """Draw all requests; raises ShapingError where there is no memory for a single one."""
        parts: list[Drawn] = []
        start = 0
        while start < len(requests):
            piece = requests[start : start + (self._n_at_once or len(requests))]
            try:
                parts.append(self._inner.draw(piece))
            except torch.OutOfMemoryError as error:
                self._halve(len(piece), error)
                continue
            start += len(piece)
        return join(parts)

    def _halve(self, n: int, error: torch.OutOfMemoryError) -> None:
        if n == 1:
            raise ShapingError(
                f"The device has no memory to draw a single image: {error} End other programs on "
                "it, choose a smaller generator, or set device=cpu."
            ) from error
        self._n_at_once = n // 2
        gc.collect()
        torch.cuda.empty_cache()
        self._tell(self._n_at_once)
