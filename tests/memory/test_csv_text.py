"""Texts in CSV files are not executed by spreadsheets, and come back as they were."""

from __future__ import annotations

import csv
import io
import re
from pathlib import Path

import pytest

from memory.csv_text import mark_cell, unmark_cell, write_csv

TEXTS = (
    '=HYPERLINK("http://x","y")', "+1+cmd|' /C calc'!A0", "-2+3", "@SUM(1)", "\t=1", "\r=1", "\n=1",
    "\uff1d1", "a\r=1", "-", "+", "'=1", "''=1", "plain", "a=b", "'quoted'", "'", "", "é",
)  # fmt: skip
NUMBERS = ("-0.1234", "+5", "-1e-05", "12", "-3.")


def test_formulas_are_marked_and_come_back(tmp_path: Path) -> None:
    path = tmp_path / "texts.csv"
    write_csv(path, ["=head", "n"], [(text, i) for i, text in enumerate(TEXTS)])
    header, *rows = csv.reader(io.StringIO(path.read_bytes().decode(), newline=""))
    assert header == ["'=head", "n"]
    assert not [row for row in rows if re.match(r"[=+\-@\t\r\n\uff1d]", row[0])]
    assert [unmark_cell(row[0]) for row in rows] == list(TEXTS)


@pytest.mark.parametrize("number", [*NUMBERS, -0.5, -3, None, True])
def test_numbers_stay_numbers(number: object) -> None:
    assert mark_cell(number) is number


def test_no_module_writes_csv_by_itself() -> None:
    root = Path(__file__).parents[2]
    files = [file for room in ("agent", "eval", "memory", "tools", "prompts")
             for file in (root / room).rglob("*.py")]  # fmt: skip
    writing = [f.name for f in files if re.search(r"csv\.(Dict)?[wW]riter", f.read_text("utf-8"))]
    assert writing == ["csv_text.py"]
