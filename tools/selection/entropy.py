"""The method `entropy`: images of whose class the DSTM is least sure."""

from __future__ import annotations

from tools.selection import Candidates, Rows, lowest, needed


class Entropy:
    """See `tools.selection.Method`."""

    name = "entropy"
    needs: tuple[str, ...] = ("entropy",)

    def choose(self, candidates: Candidates, n: int, seed: int) -> Rows:
        """Return the rows of the highest entropy."""
        return lowest(-needed(candidates.entropy, "entropy"), n, seed)


def build() -> Entropy:
    """Build the method."""
    return Entropy()
