"""The method `random`: uniform selection, the control of all other methods."""

from __future__ import annotations

import numpy as np

from tools.selection import Ranking


def build() -> Ranking:
    """Build the method: uniform sampling without replacement."""
    return Ranking("random", (), lambda candidates: np.zeros(len(candidates)))
