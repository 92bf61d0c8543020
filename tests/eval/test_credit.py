from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import spearmanr

from benchmarks.credit import rank_correlation
from eval.credit import credit, prompt_influence, settle
from eval.effects import Effect, effects_of, plain_changes, slice_effects
from eval.metrics import binomial_variance
from memory.records import (
    Batch,
    Hypothesis,
    Plan,
    PromptQuality,
    PromptSpec,
    Report,
    SliceScore,
)
from tests.factories import report, slice_score

DARK = {"wafer": "poly", "brightness": "dark"}


def score(attributes: dict[str, str], n_correct: int, n: int) -> SliceScore:
    return slice_score(attributes, n_correct / n, n)


def prompt(name: str, **attributes: str) -> PromptSpec:
    return PromptSpec(
        id=name, text="a cell", class_name="functional", attributes=attributes, count=10
    )


def plan_of(*prompts: PromptSpec) -> Plan:
    return Plan(round=1, author="uniform", prompts=prompts)


def batch_of(**made_and_kept: tuple[int, int]) -> Batch:
    quality = tuple(
        PromptQuality(prompt_id=name, n_made=made, n_kept=kept, mean_weight=1.0)
        for name, (made, kept) in made_and_kept.items()
    )
    return Batch(round=1, job_id="j", shards=(), quality=quality)


def plain(before: Report | None, after: Report) -> dict[str, Effect]:
    return plain_changes(before, after) if before else {}


def test_changes_are_shrunk_by_their_error() -> None:
    def shrunk(before: SliceScore, after: SliceScore) -> float:
        return plain_changes(report(before), report(after))[after.key].shrunk

    before, after = score(DARK, 50, 100), score(DARK, 60, 100)
    error = binomial_variance(50, 100) + binomial_variance(60, 100)
    expected = 0.1 * 0.0025 / (0.0025 + error)
    assert shrunk(before, after) == pytest.approx(expected)
    assert 0.03 < expected < 0.04
    many = shrunk(score(DARK, 50_000, 100_000), score(DARK, 60_000, 100_000))
    assert many == pytest.approx(0.1, abs=0.001)
    assert shrunk(score(DARK, 1, 2), score(DARK, 2, 2)) < 0.02


def test_credit_goes_to_kept_images_of_prompts_that_agree() -> None:
    plan = plan_of(
        prompt("both", wafer="poly", brightness="dark", severity="defective"),
        prompt("half", wafer="poly", brightness="dark"),
        prompt("vague", wafer="poly"),
        prompt("other", wafer="mono", brightness="dark"),
    )
    batch = batch_of(both=(50, 30), half=(20, 10), vague=(99, 99), other=(9, 9))
    before, after = report(score(DARK, 50, 100)), report(score(DARK, 60, 100))
    effects = slice_effects(plan, before, after)
    change = effects[after.slices[0].key].shrunk
    both, half = credit(plan, batch, after.slices, effects)
    assert both.error is not None and half.error is not None
    assert both.error / half.error == pytest.approx(both.change_per_100 / half.change_per_100)
    assert (both.prompt_id, both.slice, both.n_images) == (
        "both",
        "brightness=dark wafer=poly",
        50,
    )
    assert both.change_per_100 == pytest.approx(change * 0.75 * 100 / 50)
    assert (half.prompt_id, half.n_images) == ("half", 20)
    assert half.change_per_100 == pytest.approx(change * 0.25 * 100 / 20)
    given = sum(c.change for c in (both, half))
    assert given == pytest.approx(change)


def test_a_loss_is_shared_out_too() -> None:
    before, after = report(score(DARK, 90, 100)), report(score(DARK, 60, 100))
    plan = plan_of(prompt("p", **DARK))
    effects = slice_effects(plan, before, after)
    (only,) = credit(plan, batch_of(p=(10, 10)), after.slices, effects)
    assert only.change_per_100 < 0


def test_what_was_not_measured_or_made_gets_no_credit() -> None:
    plan = plan_of(prompt("p", **DARK), prompt("q", **DARK))
    before, after = report(score(DARK, 50, 100)), report(score(DARK, 60, 100))
    effects = slice_effects(plan, before, after)
    assert effects_of(plan, None, after, 2) == {}
    assert slice_effects(plan, report(), after) == {}
    assert slice_effects(plan, before, report()) == {}
    assert credit(plan, batch_of(p=(10, 10)), after.slices, {}) == ()
    some = credit(plan, batch_of(p=(10, 1), q=(0, 0)), after.slices, effects)
    assert [c.prompt_id for c in some] == ["p"]
    (rejected,) = credit(plan, batch_of(p=(10, 0)), after.slices, effects)
    assert rejected.change_per_100 == 0


@pytest.mark.parametrize(
    ("expected", "n_after", "held"),
    [
        (0.1, 60, True),
        (0.1, 56, True),
        (0.1, 54, False),
        (0.1, 40, False),
        (0.1, 90, True),
        (-0.1, 42, True),
        (-0.1, 55, False),
        (0.0, 55, True),
        (0.0, 90, False),
    ],
)
def test_old_records_are_settled_as_they_were(expected: float, n_after: int, held: bool) -> None:
    hypothesis = Hypothesis(slice="brightness=dark wafer=poly", expected_change=expected)
    before, after = score(DARK, 50, 100), score(DARK, n_after, 100)
    verdict = settle(
        hypothesis, report(before), report(after), plain(report(before), report(after))
    )
    assert verdict.held is held
    assert verdict.change == pytest.approx((n_after - 50) / 100)
    assert (verdict.before, verdict.after) == (before.accuracy, after.accuracy)


def test_a_hypothesis_without_both_figures_stays_open() -> None:
    hypothesis = Hypothesis(slice="brightness=dark wafer=poly", expected_change=0.1)
    measured = report(score(DARK, 50, 100))
    for before, after in ((None, measured), (report(), measured), (measured, report())):
        verdict = settle(hypothesis, before, after, plain(before, after))
        assert (verdict.change, verdict.held) == (None, None)


def test_rank_correlation_of_known_cases() -> None:
    effects = [np.arange(12.0).reshape(4, 3), np.arange(6.0).reshape(2, 3)]
    same = rank_correlation([e**3 for e in effects], effects)
    assert (same.value, same.low, same.high, same.n) == pytest.approx((1, 1, 1, 6))
    assert rank_correlation([-e for e in effects], effects).value == pytest.approx(-1)
    assert rank_correlation([np.ones((4, 3))], effects[:1]).value == 0
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(2, 20, 5)).round(1)
    found = rank_correlation([x], [y])
    assert found.value == pytest.approx(spearmanr(x.ravel(), y.ravel())[0])
    assert found.low < 0 < found.high


def test_influence_is_in_units_of_the_photographs_pull() -> None:
    images = np.array([[4.0, 3.0], [0.0, 3.0], [-0.2, 0.0], [0.0, 9.0]])
    photographs = np.array([[1.0, 0.0], [3.0, 0.0]])
    found = prompt_influence(images, ["a", "a", "b", "c"], photographs)
    assert found == pytest.approx({"a": 1.0, "b": -0.1, "c": 0.0})
    assert prompt_influence(images[:1], ["a"], np.zeros((3, 2))) == {"a": 0.0}
