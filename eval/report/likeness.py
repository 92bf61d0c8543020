"""How like photographs the images of a session are, as a table of the report and the data card."""

from __future__ import annotations

from collections.abc import Sequence

from eval.likeness import Likeness
from eval.report.blocks import Cell, Table
from eval.report.text import number, percent


def likeness_table(found: Sequence[Likeness]) -> Table | None:
    """Return the figures by group, those that cover the fewest photographs first; None for none."""
    if not found:
        return None
    groups = sorted(found[1:], key=lambda one: one.coverage.value - one.expected_coverage)
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
        for one in [found[0], *groups]
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
    title = f"Likeness and variety, by {found[0].encoder}"
    return Table(("Group", *right), rows, title, right, ("Group",))
