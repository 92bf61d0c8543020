"""Classes of photographs given as text, in a column of a table or data set."""

from __future__ import annotations

import re
from collections import Counter

from prompts.user_vocabulary import first_alike, is_blank, plain, value_of
from tools.targets.validation import ValidationReport

_LIST = re.compile(r"\[.*\]|\(.*\)|\{.*\}")
# Separators of several classes; the first two are rarely part of a name.
_SEPARATORS = (";", "|", ",", "/", "&", "+")
_N_SURE = 2


class ClassCells:
    """Collection of class cells, which are equal up to case, blanks and quotes."""

    def __init__(self) -> None:
        self._cells: set[str] = set()
        self._names: dict[str, str] = {}

    def read(self, cell: str) -> str:
        """Return the class of a cell, formatted by `plain`; "" if unknown."""
        if is_blank(cell):
            return ""
        self._cells.add(cell.strip())
        return self._names.setdefault(value_of(cell), plain(cell))

    def check(self, report: ValidationReport) -> None:
        """Add errors for cells with several classes, and for classes that would be merged."""
        cells = sorted(self._cells)
        if several := [cell for cell in cells if _is_list(cell, self._cells)]:
            report.error("classes-in-cell", *several)
        if alike := first_alike(cells):
            report.error("classes-alike", *alike)


def _is_list(cell: str, others: set[str]) -> bool:
    """Return whether a cell lists several classes: in brackets, or classes of other cells."""
    for place, separator in enumerate(_SEPARATORS):
        parts = _parts(cell, separator)
        if len(parts) < 2:
            continue
        if _LIST.fullmatch(cell) and separator == ",":
            return True
        known = Counter(part for other in others for part in _parts(other, separator))
        alone = all(part in others for part in parts)
        if alone or (place < _N_SURE and all(known[part] > 1 for part in parts)):
            return True
    return False


def _parts(cell: str, separator: str) -> set[str]:
    """Split a cell at separators; strip brackets and quotes."""
    return {part.strip(" \"'[](){}") for part in cell.split(separator)} - {""}
