"""The method `entropy`: selects the images with the most uncertain predictions."""

from __future__ import annotations

from tools.selection import Ranking, needed


def build() -> Ranking:
    """Build the method: highest entropy first."""
    return Ranking("entropy", ("entropy",), lambda c: -needed(c.entropy, "entropy"))
