"""The method `margin`: images for which two classes are about as likely to the DSTM."""

from __future__ import annotations

from tools.selection import Candidates, Rows, lowest, needed


class Margin:
    """See `tools.selection.Method`."""

    name = "margin"
    needs: tuple[str, ...] = ("margin",)

    def choose(self, candidates: Candidates, n: int, seed: int) -> Rows:
        """Return the rows of the smallest margin."""
        return lowest(needed(candidates.margin, "margin"), n, seed)


def build() -> Margin:
    """Build the method."""
    return Margin()
