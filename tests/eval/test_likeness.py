from __future__ import annotations

import numpy as np
import pytest

from eval.likeness import (
    cmmd,
    density_and_coverage,
    expected_coverage,
    gaussian,
    kid,
    likeness,
    mmd,
)


def normal(seed: int, n: int, d: int = 1, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 1, (n, d))


def test_kid_of_two_normal_distributions_is_that_of_their_moments() -> None:
    """With d=1 it is sum_j C(3, j) (difference of the j-th moments)^2 = 3 + 3 + 16."""
    found = [kid(normal(i, 200), normal(1000 + i, 200, mean=1.0)) for i in range(100)]
    assert np.mean([e.value for e in found]) == pytest.approx(22, rel=0.1)
    assert np.mean([e.low <= 22 <= e.high for e in found]) >= 0.85


def test_mmd_with_a_gaussian_kernel_is_the_closed_form() -> None:
    d, mean, s2 = 3, 0.5, 2.0
    full = 2 * (s2 / (s2 + 2)) ** (d / 2) * (1 - np.exp(-d * mean**2 / (2 * (s2 + 2))))
    kernel = gaussian(np.sqrt(s2))
    rng = np.random.default_rng(0)
    found = [
        mmd(rng.normal(0, 1, (80, d)), rng.normal(mean, 1, (120, d)), kernel) for _ in range(300)
    ]
    assert np.mean([e.value for e in found]) == pytest.approx(full, rel=0.05)
    assert np.mean([e.low <= full <= e.high for e in found]) == pytest.approx(0.95, abs=0.04)


@pytest.mark.parametrize("of", [kid, cmmd])
def test_equal_distributions_have_a_distance_of_zero(of) -> None:  # type: ignore[no-untyped-def]
    found = [of(normal(i, 60, 4), normal(900 + i, 90, 4)) for i in range(100)]
    values = np.array([e.value for e in found])
    assert abs(values.mean()) < 3 * values.std() / 10
    assert np.mean([e.low <= 0 <= e.high for e in found]) >= 0.95
    assert (values < 0).any()


def test_coverage_of_further_photographs_is_as_expected() -> None:
    for n, m in ((60, 60), (60, 20), (40, 200)):
        found = [density_and_coverage(normal(i, n, 3), normal(700 + i, m, 3)) for i in range(60)]
        coverage = np.mean([c.value for _, c in found])
        assert coverage == pytest.approx(expected_coverage(n, m), abs=0.02)
        assert np.mean([density for density, _ in found]) == pytest.approx(1, abs=0.05)


def test_a_generator_of_one_mode_covers_half_and_a_far_one_nothing() -> None:
    real = np.concatenate([normal(0, 100, 2), normal(1, 100, 2, mean=50)])
    _, coverage = density_and_coverage(real, normal(2, 400, 2))
    assert coverage.value == pytest.approx(0.5, abs=0.01)
    assert coverage.low < 0.5 < coverage.high
    assert density_and_coverage(real, normal(3, 100, 2, mean=500))[0] == 0


def test_groups_are_measured_apart() -> None:
    real = np.concatenate([normal(0, 50, 2), normal(1, 50, 2, mean=50), normal(4, 3, 2)])
    nights = np.tile(normal(3, 1, 2, mean=50), (30, 1))
    drawn = np.concatenate([normal(2, 300, 2), nights])
    found = likeness(
        real,
        drawn,
        "pixels",
        {"day": np.arange(50), "night": np.arange(50, 100), "dawn": np.arange(100, 103)}
        | {"scene": np.arange(103)},
        {"night": np.arange(300, 330), "day": np.arange(300), "dusk": np.arange(330)}
        | {"scene": np.arange(330)},
    )
    by = {one.group: one for one in found}
    assert by.keys() == {"all", "day", "night"}
    assert all(one.encoder == "pixels" for one in found)
    assert by["day"].coverage.value > 0.9 > 0.3 > by["night"].coverage.value
    assert by["night"].vendi == pytest.approx(1)
    assert by["night"].kid.low > 0 >= by["day"].kid.low
