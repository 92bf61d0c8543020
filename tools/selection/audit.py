"""The method `audit`: selects the images with the highest audit weights."""

from __future__ import annotations

from tools.selection import Ranking


def build() -> Ranking:
    """Build the method: highest weights first."""
    return Ranking("audit", (), lambda candidates: -candidates.audit)
