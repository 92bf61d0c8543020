from __future__ import annotations

import math

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import norm

from eval.fixable import PromptEvidence, evidence_from, fixable, mean_change
from memory.records import Batch, Plan, PromptQuality, PromptSpec, Round
from tests.factories import report, slice_score

DARK = {"light": "night"}

Floats = NDArray[np.float64]


def test_nothing_is_known_without_images() -> None:
    assert fixable(PromptEvidence()) is None
    assert fixable(PromptEvidence(agreements=[0.9])) is None


def test_images_that_the_audit_rejects_are_not_drawable() -> None:
    found = fixable(PromptEvidence(n_made=50, n_kept=2, agreements=[0.5] * 6))
    assert found is not None
    assert found.verdict == "not drawable"
    assert found.drawable.value == pytest.approx(3 / 52)
    assert found.chance.high < 0.2


def test_kept_images_that_agree_and_help_are_fixable() -> None:
    good = PromptEvidence(n_made=50, n_kept=49, agreements=[0.5] * 14, changes=[(0.1, 0.02)] * 4)
    found = fixable(good)
    assert found is not None
    assert found.verdict == "fixable"
    assert found.chance.low > 0.5
    assert (found.chance.n, found.useful.n) == (50, 18)


def test_well_drawn_images_that_do_not_help_are_hard() -> None:
    found = fixable(PromptEvidence(50, 50, agreements=[-0.3] * 10, changes=[(-0.1, 0.03)] * 2))
    assert found is not None
    assert found.verdict == "hard"
    assert found.drawable.low > 0.9


def test_kept_images_alone_leave_the_question_open() -> None:
    found = fixable(PromptEvidence(n_made=50, n_kept=50))
    assert found is not None
    assert found.verdict == "not known yet"
    assert found.useful.value == 0.5
    assert found.chance.high - found.chance.low > 0.8


def test_benefit_is_held_against_harm() -> None:
    # Of two classes the model knows one, whose images pull the wrong way, but hardly.
    known = [1.0, -0.01] * 12
    found = fixable(PromptEvidence(n_made=24, n_kept=24, agreements=known))
    assert found is not None
    assert found.verdict == "fixable"
    # As much harm as benefit says nothing.
    even = fixable(PromptEvidence(n_made=24, n_kept=24, agreements=[1.0, -1.0] * 12))
    assert even is not None
    assert even.useful.value == pytest.approx(0.5)
    assert even.verdict == "not known yet"


def test_one_strong_prompt_is_one_witness() -> None:
    alone = fixable(PromptEvidence(n_made=1, n_kept=1, agreements=[5.0]))
    among = fixable(PromptEvidence(n_made=1, n_kept=1, agreements=[5.0, *[1e-9] * 20]))
    assert alone and among
    assert among.useful.value == pytest.approx(alone.useful.value, abs=1e-6)


def test_the_product_has_the_moments_of_its_factors() -> None:
    found = fixable(PromptEvidence(n_made=8, n_kept=8))
    assert found is not None
    assert found.chance.value == pytest.approx(9 / 10 * 1 / 2)


def a_round(number: int, n_correct: int, light: str = "night", kept: int = 8) -> Round:
    prompt = PromptSpec(
        id=f"r{number}", text="a street", class_name="scene", attributes={"light": light}, count=10
    )
    return Round(
        number=number,
        plan=Plan(round=number, author="uniform", prompts=(prompt,)),
        batch=Batch(
            round=number,
            job_id="j",
            shards=(),
            quality=(PromptQuality(prompt_id=prompt.id, n_made=10, n_kept=kept, mean_weight=0.8),),
        ),
        report=report(slice_score(DARK, n_correct / 100), number=number),
    )


def test_evidence_is_of_prompts_that_ask_for_the_slice() -> None:
    rounds = [a_round(1, 50), a_round(2, 60), a_round(3, 90, light="day")]
    found = evidence_from(DARK, "light=night", rounds, [{"r1": 0.5, "r3": -0.9}])
    assert (found.n_made, found.n_kept) == (20, 16)
    assert list(found.agreements) == [0.5]
    # Round 3 made nothing for the slice, so its change is no merit of such images.
    ((change, error),) = found.changes
    assert change == pytest.approx(0.1)
    assert 0.05 < error < 0.1


def test_what_cannot_be_asked_for_has_no_evidence() -> None:
    assert evidence_from({}, "cluster 12ab", [a_round(1, 50)]) == PromptEvidence()


def scores(rng: np.random.Generator, chances: Floats) -> Floats:
    return (rng.random(len(chances)) < chances).astype(np.float64)


def test_without_an_effect_the_error_of_a_change_is_as_large_as_the_change() -> None:
    """The chance that photographs got better is uniform, not near 0 or 1."""
    rng = np.random.default_rng(0)
    found = []
    for _ in range(2000):
        chances = rng.uniform(0.2, 0.9, size=40)
        change, error = mean_change(scores(rng, chances), scores(rng, chances))
        found.append(norm.cdf(change / error))
    assert 0.03 <= np.mean(np.abs(np.array(found) - 0.5) > 0.475) <= 0.07
    assert np.mean(found) == pytest.approx(0.5, abs=0.02)


def test_photographs_chosen_for_their_errors_must_be_judged_by_later_rounds() -> None:
    rng = np.random.default_rng(0)
    biased: list[float] = []
    fair: list[float] = []
    for _ in range(500):
        chances = rng.uniform(0.3, 0.9, size=400)
        first, second, third = (scores(rng, chances) for _ in range(3))
        chosen = np.argsort(first + rng.random(400), kind="stable")[:40]
        for found, before, after in ((biased, first, second), (fair, second, third)):
            change, error = mean_change(before[chosen], after[chosen])
            found.append(norm.cdf(change / error))
    assert np.mean(biased) > 0.95
    assert np.mean(fair) == pytest.approx(0.5, abs=0.05)


def test_unknown_scores_do_not_count() -> None:
    change, error = mean_change(np.array([0.0, np.nan]), np.array([1.0, 1.0]))
    assert (change, error) == pytest.approx((0.5, math.sqrt(2) / 2))
