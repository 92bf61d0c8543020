"""The method `entropy`: images of whose class the DSTM is least sure."""

from __future__ import annotations

from tools.selection import Ranking, needed


def build() -> Ranking:
    """Build the method: highest entropy first."""
    return Ranking("entropy", ("entropy",), lambda c: -needed(c.entropy, "entropy"))
