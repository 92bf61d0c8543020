"""Questions over the table of a round's predictions."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from memory.errors import ToolError
from tests.tools.test_look_at import DIM, session
from tools.analyse import analyse

__all__ = ["session"]


def test_confusion_by_two_columns(session: Path, target: Any) -> None:
    text = analyse(1, session, target, ["class", "predicted"], {})
    plain, square = target.class_names
    lines = text.splitlines()[1:]
    assert lines[0].startswith(f"- class={square} predicted={plain}: 0.00") and "n=20" in lines[0]
    assert len(lines) == 3 and all(": 1.00" in line for line in lines[1:])


def test_score_by_an_attribute_of_some_photographs(session: Path, target: Any) -> None:
    square = target.class_names[1]
    text = analyse(1, session, target, ["light"], {"class": square})
    first, second = text.splitlines()[1:]
    assert "light=dim: 0.00" in first and ": 1.00" in second and f"class={square}" in text
    (all_,) = analyse(1, session, target, [], DIM).splitlines()[1:]
    assert "all: 0.50" in all_ and "n=40" in all_


@pytest.mark.parametrize(
    ("by", "where", "named"),
    [(["lite"], {}, "light"), ([], {"lite": "dim"}, "light"), ([], {"light": "dimm"}, "dim")],
)
def test_a_question_about_what_there_is_not(
    session: Path, target: Any, by: list[str], where: dict[str, str], named: str
) -> None:
    with pytest.raises(ToolError, match=named):
        analyse(1, session, target, by, where)
