"""CSV files that a spreadsheet opens without executing their texts as formulas."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from memory.files import write_bytes

# Beginnings (also of full width) that spreadsheets take for a formula or skip before one. A text
# that begins with apostrophes and one of these is marked too, so that reading removes no apostrophe
# of its own.
_FORMULA = re.compile(r"'*[=+\-@\t\r\n\uff1d\uff0b\uff0d\uff20]")
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_MARK = "'"


def write_csv(
    path: Path,
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    line_end: str = "\n",
) -> None:
    """Write a header and rows; texts that a spreadsheet would execute begin with an apostrophe.

    Numbers are written as they are, also those that are given as text.

    Args:
        path: The file, which is whole or as before.
        columns: The header.
        rows: Their cells in the order of the columns.
        line_end: What ends a line.
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
    """Return the text that `mark_cell` was given."""
    is_marked = text.startswith(_MARK) and _FORMULA.match(text)
    return text.removeprefix(_MARK) if is_marked else text
