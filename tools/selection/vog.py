"""The method `vog`: rejects images with the highest variance of gradients.

Variance of gradients (Agarwal et al. 2022) over the DSTMs of the last rounds as checkpoints, of the
loss instead of a logit, so that it applies to every task. It is highest for wrong labels and
outliers (GenDataAgent filters by it); `random` is its control.
"""

from __future__ import annotations

from tools.selection import Ranking, needed


def build() -> Ranking:
    """Build the method: lowest variance first."""
    return Ranking("vog", ("variance",), lambda c: needed(c.variance, "variance"))
