"""The method `vog`: drops images whose gradients change most while the DSTM learns.

Variance of gradients (Agarwal et al. 2022) over the DSTMs of the last rounds as checkpoints, of the
loss instead of a logit, so that it serves every task. Wrong labels and freak images have the
highest (GenDataAgent filters by it); `random` is its control.
"""

from __future__ import annotations

from tools.selection import Candidates, Rows, lowest, needed


class VarianceOfGradients:
    """See `tools.selection.Method`."""

    name = "vog"
    needs: tuple[str, ...] = ("variance",)

    def choose(self, candidates: Candidates, n: int, seed: int) -> Rows:
        """Return the rows of the lowest variance."""
        return lowest(needed(candidates.variance, "variance"), n, seed)


def build() -> VarianceOfGradients:
    """Build the method."""
    return VarianceOfGradients()
