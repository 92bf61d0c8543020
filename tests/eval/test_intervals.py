"""Intervals cover what they claim to cover, by simulations with a known truth."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from eval.intervals import (
    bootstrap_curve,
    mean_interval,
    ratio_interval,
    seeds_needed,
)
from memory.errors import DataError

Floats = NDArray[np.float64]
N = 3000

# Paired differences with the mean 0: even, skewed, of unequal variance, with outliers.
DRAWS: dict[str, Callable[[np.random.Generator, int], Floats]] = {
    "normal": lambda rng, n: rng.normal(size=n),
    "skewed": lambda rng, n: rng.gamma(4, size=n) - 4,
    "unequal": lambda rng, n: (rng.gamma(2, size=n) - 2) - 2 * (rng.gamma(2, size=n) - 2),
    "mixed": lambda rng, n: rng.normal(size=n) * np.where(rng.random(n) < 0.3, 3, 1),
}


@pytest.mark.parametrize("n", [3, 6, 10, 20])
@pytest.mark.parametrize("draw", DRAWS.values(), ids=DRAWS)
def test_paired_differences_are_covered(
    draw: Callable[[np.random.Generator, int], Floats], n: int
) -> None:
    rng = np.random.default_rng(n)
    found = [mean_interval(draw(rng, n)) for _ in range(N)]
    assert 0.92 <= np.mean([e.low <= 0 <= e.high for e in found]) <= 0.975


@pytest.mark.parametrize("n", [3, 6, 10, 20])
def test_a_percentile_bootstrap_would_not_cover(n: int) -> None:
    """Why `mean_interval` is not one: this documents the size of the error."""
    rng = np.random.default_rng(n)
    covered = []
    for _ in range(400):
        values = rng.normal(size=n)
        means = values[rng.integers(n, size=(1000, n))].mean(1)
        low, high = np.percentile(means, [2.5, 97.5])
        covered.append(low <= 0 <= high)
    assert np.mean(covered) < {3: 0.85, 6: 0.91, 10: 0.94, 20: 0.96}[n]


@pytest.mark.parametrize("n", [6, 10, 20])
def test_ratios_are_covered(n: int) -> None:
    rng = np.random.default_rng(n)
    found = []
    for _ in range(N):
        gains = rng.normal(1.0, 0.3, size=n)
        found.append(ratio_interval(0.5 * gains + rng.normal(0, 0.3, size=n), gains))
    known = [e for e in found if e is not None]
    assert len(known) > 0.9 * N
    assert 0.93 <= np.mean([e.low <= 0.5 <= e.high for e in known]) <= 0.975


def test_a_ratio_to_nothing_has_no_interval() -> None:
    assert ratio_interval([0.1, 0.2, 0.1], [0.1, -0.2, 0.15]) is None
    assert ratio_interval([0.1], [0.1]) is None


def test_a_figure_of_the_mean_curve() -> None:
    rng = np.random.default_rng(0)
    curves = np.linspace(0, 1, 5) + rng.normal(0, 0.05, size=(8, 5))

    def first_above(curve: Floats) -> float | None:
        above = np.flatnonzero(curve >= 0.7)
        return float(above[0]) if len(above) else None

    found = bootstrap_curve(curves, first_above)
    assert found is not None and found.low <= found.value <= found.high and found.n == 8
    assert bootstrap_curve(curves - 1, first_above) is None


@pytest.mark.parametrize("effect", [0.5, 1.0, 2.0])
def test_the_seeds_that_would_be_needed_reach_the_power(effect: float) -> None:
    base = np.array([-1.0, 0.0, 1.0])
    n = seeds_needed(mean_interval(base + effect))
    assert n is not None
    rng = np.random.default_rng(1)
    draws = [mean_interval(rng.normal(effect, 1, size=n)) for _ in range(N)]
    rejected = np.mean([not e.low <= 0 <= e.high for e in draws])
    assert 0.77 <= rejected <= 0.95
    assert 9_000 < (seeds_needed(mean_interval(base + 0.0286)) or 0) < 10_000
    assert seeds_needed(mean_interval(base + 0.0279)) is None
    assert seeds_needed(mean_interval([0.0, 0.0])) is None
    assert seeds_needed(mean_interval([0.1])) is None


def test_one_seed_has_no_width_and_none_is_an_error() -> None:
    found = mean_interval([0.4])
    assert (found.value, found.low, found.high, found.n) == (0.4, 0.4, 0.4, 1)
    with pytest.raises(DataError):
        mean_interval([])
