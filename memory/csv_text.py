"""CSV files whose texts a spreadsheet does not execute as formulas."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from memory.files import write_bytes

# Beginnings of text (full-width forms included) that spreadsheets interpret as a formula or skip
# before one. A text with apostrophes before such a beginning is marked too, so that `unmark_cell`
# does not remove an apostrophe of the text.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MARK = "'"


def write_csv(
    path: Path,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    line_end: str = "\n",
) -> None:
    """Write a header and rows atomically, with an apostrophe before texts that look like formulas.

    Numbers are written unchanged, including numbers given as text.

    Args:
        path: The file.
        columns: The header.
        rows: Cells of each row, in the order of the columns.
        line_end: Line terminator.
    """
    lines = []
    for row in itertools.chain([columns], rows):
        line = io.StringIO(newline="")
        # With "\n" alone the writer would not quote a carriage return, which then ends a row.
        csv.writer(line, lineterminator="\r\n").writerow([mark_cell(cell) for cell in row])
        lines.append(line.getvalue().removesuffix("\r\n") + line_end)
    write_bytes(path, "".join(lines).encode())


def mark_cell(cell: object) -> object:
    """Return a cell as it is written; see `write_csv`."""
    if isinstance(cell, str) and _FORMULA.match(cell) and not _NUMBER.fullmatch(cell):
        return _MARK + cell
    return cell


def unmark_cell(text: str) -> str:
    """Return the text that `mark_cell` turned into this one."""
    is_marked = text.startswith(_MARK) and _FORMULA.match(text)
    return text.removeprefix(_MARK) if is_marked else text
