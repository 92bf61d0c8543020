"""Problems of data sets are given by codes, whose texts stand in one file."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from memory.errors import DataError
from tools import targets
from tools.targets.validation import ValidationReport, catalog, refusal

_CODE = re.compile(r'(?:refusal|\btext|\.error|\.warn)\(\s*"([a-z0-9-]+)"')


def test_every_code_has_a_text_and_every_text_is_used() -> None:
    sources = [path.read_text("utf-8") for path in Path(targets.__file__).parent.rglob("*.py")]
    used = {code for source in sources for code in _CODE.findall(source)}
    assert used <= catalog().keys()
    text = "".join([*sources, *catalog().values()]).replace("'", '"')
    assert not [c for c in catalog() if f'"{c}"' not in text and f"{{{c}}}" not in text]


def test_errors_are_counted_and_named_together_with_the_warnings() -> None:
    report = ValidationReport()
    report.warn("copies", *"dcba")
    report.raise_errors("of nobody")
    other = ValidationReport()
    other.error("few-images", n=3, minimum=20)
    report.add(other)
    with pytest.raises(DataError) as stopped:
        report.raise_errors("of somebody")
    head, error, warning = str(stopped.value).split("\n")
    assert "of somebody" in head
    assert "3 usable images" in error and "[few-images]" in error
    assert warning.endswith('[copies] (4): "a", "b", "c", ...')
    assert report.listing().endswith("  a\n  b\n  c\n  d\n")


def test_a_refusal_begins_with_its_code() -> None:
    assert str(refusal("no-path", target="x")).startswith("[no-path] ")
