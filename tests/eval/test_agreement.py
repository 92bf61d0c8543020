from __future__ import annotations

import pytest

from eval.agreement import UNNAMED, agreement, total_variation
from memory.records import Hypothesis, Plan, PromptSpec


def plan(*parts: tuple[str, str, int], slice_: str | None = None) -> Plan:
    prompts = [
        PromptSpec(
            id=f"p{i}",
            text=f"a {wafer} cell",
            class_name=name,
            attributes={"wafer": wafer} if wafer != UNNAMED else {},
            count=count,
        )
        for i, (name, wafer, count) in enumerate(parts)
    ]
    expected = Hypothesis(slice=slice_, expected_change=0.1) if slice_ else None
    return Plan(round=2, author="x", prompts=tuple(prompts), hypothesis=expected)


def test_equal_mixtures_agree_however_they_are_said() -> None:
    one = plan(("defective", "poly", 6), ("functional", "mono", 2))
    other = plan(("defective", "poly", 3), ("functional", "mono", 2), ("defective", "poly", 3))
    found = agreement(one, other)
    assert (found.images, found.classes, found.attributes) == (0, 0, {"wafer": 0})
    assert found.overlap == 1
    assert found.n_prompts == (2, 3)
    assert found.same_slice is None


def test_distances_are_total_variations() -> None:
    one = plan(("defective", "poly", 8), slice_="wafer=poly")
    other = plan(("defective", "mono", 4), ("functional", UNNAMED, 4), slice_="wafer=mono")
    found = agreement(one, other)
    assert found.images == 1
    assert found.classes == 0.5
    assert found.attributes == {"wafer": 1}
    assert found.same_slice is False


def test_total_variation_by_hand() -> None:
    assert total_variation({"a": 0.5, "b": 0.5}, {"a": 0.25, "c": 0.75}) == pytest.approx(0.75)
    assert total_variation({}, {}) == 0
