"""The method `core_set`: images that cover what the DSTM can tell apart.

Greedy k-centre (Sener and Savarese 2018): the next image is the one farthest from all chosen ones,
those of earlier rounds included.
"""

from __future__ import annotations

import numpy as np

from tools.selection import Candidates, Rows, distances, needed


class CoreSet:
    """See `tools.selection.Method`."""

    name = "core_set"
    needs: tuple[str, ...] = ("features",)

    def choose(self, candidates: Candidates, n: int, seed: int) -> Rows:
        """Return rows in the order of the greedy choice; a random one where nothing is chosen."""
        features = needed(candidates.features, "features")
        far = distances(features, needed(candidates.chosen_features, "chosen_features"))
        first = int(np.random.default_rng(seed).integers(len(features)))
        rows: list[int] = []
        for _ in range(n):
            row = int(far.argmax()) if np.isfinite(far).all() else first
            rows.append(row)
            far = np.minimum(far, distances(features, features[[row]]))
            far[rows] = -1
        return np.array(rows, dtype=np.int64)


def build() -> CoreSet:
    """Build the method."""
    return CoreSet()
