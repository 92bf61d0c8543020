"""The method `margin`: selects the images whose two most probable classes are closest."""

from __future__ import annotations

from tools.selection import Ranking, needed


def build() -> Ranking:
    """Build the method: smallest margin first."""
    return Ranking("margin", ("margin",), lambda c: needed(c.margin, "margin"))
