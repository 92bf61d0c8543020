"""Similarity of a session's images to photographs, as a table of the report and the data card."""

from __future__ import annotations

from collections.abc import Sequence

from eval.likeness import Likeness
from eval.report.blocks import Cell, Table
from eval.report.text import number, percent


def likeness_table(groups: Sequence[Likeness]) -> Table | None:
    """Return the figures by group, lowest coverage relative to the expected one first.

    The first group, all images, comes before the others. None without groups.
    """
    if not groups:
        return None
    ordered = sorted(groups[1:], key=lambda one: one.coverage.value - one.expected_coverage)
    rows: list[list[Cell]] = [
        [
            one.group,
            str(one.n_real),
            str(one.n_generated),
            one.coverage,
            percent(one.expected_coverage),
            number(one.density),
            one.kid,
            one.cmmd,
            f"{one.vendi:.1f} ({one.vendi_real:.1f})",
        ]
        for one in [groups[0], *ordered]
    ]
    right = (
        "Photographs",
        "Images",
        "Photographs covered",
        "By further photographs",
        "Density",
        "KID",
        "CMMD",
        "Vendi (of photographs)",
    )
    title = f"Likeness and variety, by {groups[0].encoder}"
    return Table(("Group", *right), rows, title, right, ("Group",))
