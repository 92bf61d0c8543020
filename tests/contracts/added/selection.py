"""The selection `halves`: every other image, then the rest."""

from __future__ import annotations

import numpy as np

from tools.selection import Candidates, Rows


class Halves:
    name = "halves"
    needs: tuple[str, ...] = ()

    def choose(self, candidates: Candidates, n: int, seed: int) -> Rows:
        rows = np.arange(len(candidates), dtype=np.int64)
        return np.concatenate([rows[::2], rows[1::2]])[:n]


def build() -> Halves:
    return Halves()
