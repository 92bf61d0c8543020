"""The method `random`: the control of all others."""

from __future__ import annotations

import numpy as np

from tools.selection import Candidates, Rows


class Random:
    """See `tools.selection.Method`."""

    name = "random"
    needs: tuple[str, ...] = ()

    def choose(self, candidates: Candidates, n: int, seed: int) -> Rows:
        """Return rows drawn without replacement."""
        drawn = np.random.default_rng(seed).permutation(len(candidates))[:n]
        return np.asarray(drawn, dtype=np.int64)


def build() -> Random:
    """Build the method."""
    return Random()
