from __future__ import annotations

import pytest

from eval.evidence import calibration, evidence
from eval.tables import COLUMNS, tables
from tests.events import event


def test_calibration_of_figures_by_hand() -> None:
    found = calibration([(0.0, 0.0), (0.1, 0.05), (0.2, 0.1), (0.3, 0.15)], n_bins=2)
    assert found is not None
    assert found.slope == pytest.approx(0.5)
    assert found.bias == pytest.approx(-0.075)
    assert found.error == pytest.approx(0.075)
    assert [b.n for b in found.bins] == [2, 2]
    assert [b.expected for b in found.bins] == pytest.approx([0.05, 0.25])
    assert [b.measured.value for b in found.bins] == pytest.approx([0.025, 0.125])


def test_without_figures_there_is_no_calibration() -> None:
    assert calibration([]) is None
    same = calibration([(0.1, 0.0), (0.1, 0.2)])
    assert same is not None and same.slope is None


def test_no_session_gives_empty_tables_and_no_evidence() -> None:
    empty = tables([event("note")])
    assert empty == {name: [] for name in COLUMNS}
    found = evidence(empty)
    assert found.brains == () and found.hypotheses is None and found.helped == ()


def test_prompts_that_helped_are_ranked() -> None:
    prompts = [
        {
            "session": "s",
            "round": 2,
            "prompt": f"p{i}",
            "class_name": "defective",
            # As of a user's own data, where the class is an attribute, too.
            "attributes": f'{{"class": "defective", "wafer": "{"poly" if i < 2 else "mono"}"}}',
        }
        for i in range(4)
    ]
    changes = (0.2, 0.4, -0.1, -0.3)
    credits_ = [
        {
            "session": "s",
            "round": 2,
            "prompt": f"p{i}",
            "slice": "wafer=poly",
            "n_images": 8,
            "change_per_100": change,
        }
        for i, change in enumerate(changes)
    ]
    found = evidence({**tables([]), "prompts": prompts, "credits": credits_})
    assert [h.words for h in found.helped] == ["defective poly"]
    assert found.helped[0].change_per_100.value == pytest.approx(0.3)
    assert [(h.words, h.n_images) for h in found.harmed] == [("defective mono", 16)]
