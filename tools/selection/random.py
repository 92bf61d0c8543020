"""The method `random`: the control of all others."""

from __future__ import annotations

import numpy as np

from tools.selection import Ranking


def build() -> Ranking:
    """Build the method: rows without replacement, all equally likely."""
    return Ranking("random", (), lambda candidates: np.zeros(len(candidates)))
