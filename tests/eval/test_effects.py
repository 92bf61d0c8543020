"""Effects and verdicts of rounds whose truth is known, by simulation."""

from __future__ import annotations

import numpy as np
import pytest

from eval.credit import settle
from eval.effects import plain_changes, slice_effects
from memory.records import Estimate, Hypothesis, Plan, Report
from tests.factories import plan_by_slices, report, slice_score

N_IMAGES, FLOOR = 200, 0.4


def measured(
    true: np.ndarray, n: np.ndarray, rng: np.random.Generator, retraining: float
) -> Report:
    """A report of slices whose models differ in each by `retraining`."""
    shares = np.clip(true + rng.normal(0, retraining / 2**0.5, len(true)), 0, 1)
    right = rng.binomial(n, shares)
    scores = (
        slice_score({"a": f"v{i}"}, k / m, int(m))
        for i, (k, m) in enumerate(zip(right, n, strict=True))
    )
    return report(*scores)


def plan_for(key: str, n_slices: int) -> Plan:
    """A floor for all slices, and the other images for one."""
    floor, rest = max(1, int(N_IMAGES * FLOOR / n_slices)), int(N_IMAGES * (1 - FLOOR))
    return plan_by_slices([floor + rest * (f"a=v{i}" == key) for i in range(n_slices)])


def play(
    rng: np.random.Generator, n_slices: int, size: tuple[int, int], retraining: float, gain: float
) -> tuple[Plan, Report, Report, str]:
    """A round that is aimed at the slice that was worst; all slices gain 0.03 without a reason."""
    n = rng.integers(*size, n_slices)
    true = np.clip(rng.normal(0.8, 0.05, n_slices), 0.05, 0.99)
    before = measured(true, n, rng, retraining)
    worst = int(np.argmin([s.accuracy.value for s in before.slices]))
    after = true + 0.03
    after[worst] += gain
    key = f"a=v{worst}"
    return plan_for(key, n_slices), before, measured(after, n, rng, retraining), key


@pytest.mark.parametrize("retraining", [0.0, 0.05])
@pytest.mark.parametrize("size", [(30, 60), (200, 2000)])
@pytest.mark.parametrize("n_slices", [4, 20])
def test_nothing_holds_by_chance(n_slices: int, size: tuple[int, int], retraining: float) -> None:
    rng = np.random.default_rng(1)
    outcomes, plain = [], []
    for _ in range(150):
        plan, before, after, key = play(rng, n_slices, size, retraining, gain=0.0)
        guess = Hypothesis(slice=key, expected_change=0.01)
        outcomes.append(settle(guess, before, after, slice_effects(plan, before, after)).held)
        plain.append(settle(guess, before, after, plain_changes(before, after)).held)
    assert outcomes.count(True) <= 0.06 * len(outcomes)
    # Why changes are not taken as they are: this is the size of the error.
    assert plain.count(True) > 0.7 * len(plain)


def test_effects_are_found_where_there_are_photographs_enough() -> None:
    rng = np.random.default_rng(2)
    outcomes = []
    for _ in range(100):
        plan, before, after, key = play(rng, 12, (200, 2000), 0.02, gain=0.1)
        guess = Hypothesis(slice=key, expected_change=0.05)
        outcomes.append(settle(guess, before, after, slice_effects(plan, before, after)).held)
    assert outcomes.count(True) > 70
    assert outcomes.count(False) == 0


@pytest.mark.parametrize("retraining", [0.0, 0.03])
def test_intervals_of_effects_cover_them(retraining: float) -> None:
    rng = np.random.default_rng(3)
    errors = []
    for _ in range(300):
        plan, before, after, key = play(rng, 12, (40, 400), retraining, gain=0.05)
        errors.append(slice_effects(plan, before, after)[key].estimate(1))
    assert np.mean([e.low <= 0.05 <= e.high for e in errors]) >= 0.93


def test_a_loss_of_all_slices_is_not_the_images() -> None:
    n = np.full(8, 5000)
    rng = np.random.default_rng(4)
    true = np.full(8, 0.8)
    before, after = measured(true, n, rng, 0), measured(true - 0.1, n, rng, 0)
    effects = slice_effects(plan_for("a=v0", 8), before, after)
    assert abs(effects["a=v0"].value) < 0.02
    assert plain_changes(before, after)["a=v0"].value < -0.05


@pytest.mark.parametrize(
    ("expected", "n_after", "held"),
    [
        (0.1, 700, True),
        (0.1, 520, None),
        (0.1, 300, False),
        (-0.1, 300, True),
        (-0.1, 700, False),
        (0.35, 700, True),
        (0.9, 700, False),
        (0.0, 900, False),
        (0.0, 530, None),
    ],
)
def test_three_verdicts(expected: float, n_after: int, held: bool | None) -> None:
    others = [slice_score({"a": f"v{i}"}, 0.5, 1000) for i in range(1, 9)]
    before = report(slice_score({"a": "v0"}, 0.5, 1000), *others)
    after = report(slice_score({"a": "v0"}, n_after / 1000, 1000), *others)
    effects = slice_effects(plan_for("a=v0", 9), before, after)
    verdict = settle(Hypothesis(slice="a=v0", expected_change=expected), before, after, effects)
    assert verdict.held is held
    assert isinstance(verdict.effect, Estimate) and verdict.effect.low < verdict.effect.high
    words = {True: "held", False: "did not hold", None: "is undecided"}
    assert verdict.outcome == words[held]


def test_no_change_is_held_only_where_it_is_measured() -> None:
    def settled(n: int) -> bool | None:
        scores = [slice_score({"a": f"v{i}"}, 0.5, n) for i in range(40)]
        effects = slice_effects(plan_for("a=v0", 40), report(*scores), report(*scores))
        guess = Hypothesis(slice="a=v0", expected_change=0.0)
        return settle(guess, report(*scores), report(*scores), effects).held

    assert settled(10_000) is True
    assert settled(30) is None


def test_one_slice_alone_needs_a_large_change() -> None:
    def effect(value: float) -> tuple[float, float]:
        before = report(slice_score({"a": "v0"}, 0.5, 1000))
        after = report(slice_score({"a": "v0"}, value, 1000))
        found = slice_effects(plan_for("a=v0", 1), before, after)["a=v0"].estimate(1)
        return found.low, found.high

    assert effect(0.55)[0] < 0 < effect(0.75)[0]
