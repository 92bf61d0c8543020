"""Failures hold their level and are found, by simulation."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from scipy.stats import permutation_test

from eval.slices import LEAST_EFFECT, failing_slices, worse_than_rest

Floats = NDArray[np.float64]


def skewed(rng: np.random.Generator, n: int, failing: float = 0.05) -> Floats:
    """Scores near 1, a few of them near 0, as delta1 of depth has."""
    good = rng.beta(60, 1, n)
    return np.where(rng.random(n) < failing, rng.beta(1, 3, n), good)


@pytest.mark.parametrize("n", [12, 30])
def test_the_test_of_skewed_scores_holds_its_level(n: int) -> None:
    rng = np.random.default_rng(n)
    p_values = [worse_than_rest(skewed(rng, n), skewed(rng, 400)) for _ in range(1500)]
    assert 0.025 <= np.mean(np.array(p_values) <= 0.05) <= 0.065
    assert np.mean(np.array(p_values) <= 0.001) <= 0.005


def test_a_slice_of_skewed_scores_that_fails_is_found() -> None:
    rng = np.random.default_rng(1)
    p_values = [worse_than_rest(skewed(rng, 30, 0.25), skewed(rng, 400)) for _ in range(200)]
    assert np.mean(np.array(p_values) <= 0.05) > 0.8


def test_the_approximation_is_that_of_permutations() -> None:
    rng = np.random.default_rng(2)
    scores, rest = skewed(rng, 25, 0.1), skewed(rng, 200)
    exact = permutation_test(
        (scores, rest),
        lambda a, b, axis: a.mean(axis) - b.mean(axis),
        vectorized=True,
        alternative="less",
        n_resamples=20_000,
        rng=np.random.default_rng(3),
    )
    assert worse_than_rest(scores, rest) == pytest.approx(exact.pvalue, abs=0.02)


@pytest.mark.parametrize("dense", [False, True])
def test_photographs_that_belong_together_are_one_observation(dense: bool) -> None:
    """Groups of four equal photographs, eight slices, no slice is worse."""
    n_found, n_alone = 0, 0
    for seed in range(80):
        rng = np.random.default_rng(seed)
        scores = np.repeat(rng.random(100) if dense else rng.random(100) < 0.8, 4)
        attributes = [{"a": f"v{k}"} for k in np.repeat(rng.integers(0, 8, 100), 4)]
        ids = [str(i) for i in range(400)]
        groups = [f"g{i // 4}" for i in range(400)]
        found = failing_slices(scores, attributes, ids, [("a",)], 10, groups=groups)
        n_found += any(f.significant for f in found)
        n_alone += any(f.significant for f in failing_slices(scores, attributes, ids, [("a",)], 10))
    assert n_found <= 0.06 * 80
    assert n_alone > 0.15 * 80


def test_a_failing_slice_does_not_mask_another() -> None:
    n_found = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        kind = rng.choice(4, 800, p=[0.4, 0.15, 0.2, 0.25])
        scores = rng.random(800) < np.array([0.2, 0.82, 0.95, 0.95])[kind]
        attributes = [{"a": f"v{k}"} for k in kind]
        found = failing_slices(scores, attributes, [str(i) for i in range(800)], [("a",)], 10)
        by_key = {f.slice: f for f in found}
        # Among all others, most of whom are of the worst slice, it does better than average.
        n_found += "a=v1" in by_key and by_key["a=v1"].significant
    assert n_found > 30


def test_a_difference_too_small_to_matter_is_no_failure() -> None:
    n = 200_000
    scores = np.ones(n, bool)
    attributes = [{"a": "x" if i % 2 else "y"} for i in range(n)]
    scores[1 : n // 10 : 2] = False
    scores[0 : int(n / 10 * (1 - LEAST_EFFECT * 5)) : 2] = False
    found = failing_slices(scores, attributes, ["i"] * n, [("a",)], 10)
    assert found[0].q_value < 1e-6
    assert not found[0].significant
