"""A generator wrapper that reduces the batch size when the device runs out of memory."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence

import torch

from memory.errors import ShapingError
from tools.data.drawn import Drawn, ImageRequest, join
from tools.generators import Generator, GeneratorWrapper


class WithinMemory(GeneratorWrapper):
    """Behaves like `inner`, but halves the batch when the device runs out of memory.

    The images are unchanged, as each depends only on its request.

    Args:
        inner: The wrapped generator.
        n_at_once: Images drawn at once; None: all requested ones.
        on_halved: Called with the new number after each halving.
    """

    def __init__(
        self, inner: Generator, n_at_once: int | None, on_halved: Callable[[int], None]
    ) -> None:
        super().__init__(inner)
        self._n_at_once, self._on_halved = n_at_once, on_halved

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        """Draw all requests; raises ShapingError if a single image does not fit into memory."""
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
        self._on_halved(self._n_at_once)
