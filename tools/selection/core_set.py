"""The method `core_set`: selects images that cover the DSTM's feature space.

Greedy k-centre (Sener and Savarese 2018): the next image is the one farthest from all chosen
images, including those of earlier rounds.
"""

from __future__ import annotations

import numpy as np

from tools.selection import Candidates, Rows, distances, needed


class CoreSet:
    """Greedy k-centre selection; a `tools.selection.Method`."""

    name = "core_set"
    needs: tuple[str, ...] = ("features",)

    def choose(self, candidates: Candidates, n: int, seed: int) -> Rows:
        """Return rows in the order of the greedy choice; the first is random if none was chosen."""
        features = needed(candidates.features, "features")
        distance = distances(features, needed(candidates.chosen_features, "chosen_features"))
        first = int(np.random.default_rng(seed).integers(len(features)))
        rows: list[int] = []
        for _ in range(n):
            row = int(distance.argmax()) if np.isfinite(distance).all() else first
            rows.append(row)
            distance = np.minimum(distance, distances(features, features[[row]]))
            distance[rows] = -1
        return np.array(rows, dtype=np.int64)


def build() -> CoreSet:
    """Build the method."""
    return CoreSet()
