"""The method `margin`: images for which two classes are about as likely to the DSTM."""

from __future__ import annotations

from tools.selection import Ranking, needed


def build() -> Ranking:
    """Build the method: smallest margin first."""
    return Ranking("margin", ("margin",), lambda c: needed(c.margin, "margin"))
