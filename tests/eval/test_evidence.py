from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from eval.evidence import calibration, evidence
from eval.tables import COLUMNS, tables
from tests.events import event

Floats = NDArray[np.float64]


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


def history(changes: Mapping[str, Floats]) -> dict[str, list[dict[str, Any]]]:
    """Tables of prompts of some wafers with their credits, (rounds, prompts of a round)."""
    prompts, credits_ = [], []
    for wafer, of_rounds in changes.items():
        for round_number, of_round in enumerate(of_rounds, 2):
            for i, change in enumerate(of_round):
                at = {"session": "s", "round": round_number, "prompt": f"{wafer}{i}"}
                # As of a user's own data, where the class is an attribute, too.
                attributes = f'{{"class": "defective", "wafer": "{wafer}"}}'
                prompts.append(at | {"class_name": "defective", "attributes": attributes})
                credits_.append(
                    at | {"slice": "all", "n_images": 8, "change_per_100": float(change)}
                )
    return {**tables([]), "prompts": prompts, "credits": credits_}


def test_prompts_that_helped_are_ranked() -> None:
    found = evidence(
        history(
            {
                "poly": np.array([[0.3, 0.3], [0.4, 0.2], [0.28, 0.3]]),
                "mono": np.array([[-0.1, -0.3], [-0.2, -0.2], [-0.18, -0.2]]),
                "thin": np.array([[0.3, -0.3], [0.1, 0.2], [-0.2, -0.1]]),
            }
        )
    )
    (helped,), (harmed,) = found.helped, found.harmed
    assert (helped.words, harmed.words) == ("defective poly", "defective mono")
    assert (helped.n_prompts, helped.n_images, helped.change_per_100.n) == (6, 48, 3)
    assert helped.change_per_100.value == pytest.approx(0.89 / 3)
    assert helped.q_value <= 0.05 and helped.change_per_100.low > 0


def test_prompts_of_one_round_are_one_observation() -> None:
    assert evidence(history({"poly": np.array([[0.2, 0.2]])})).helped == ()


def test_nothing_is_said_to_help_by_chance() -> None:
    """Twenty kinds of prompts without an effect, four rounds whose prompts share the noise."""
    rng = np.random.default_rng(0)
    wrong = 0
    for _ in range(40):
        noise = rng.normal(0, 0.1, (20, 4, 1)) * np.ones(3)
        found = evidence(history({f"w{i}": rows for i, rows in enumerate(noise)}))
        wrong += bool(found.helped or found.harmed)
    assert wrong <= 4
