from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import balanced_accuracy_score, roc_auc_score

from eval.metrics import UNKNOWN, accuracy, auroc, balanced_accuracy, binomial_variance, wilson


# Newcombe 1998, table I, method 3.
@pytest.mark.parametrize(
    ("n_correct", "n", "low", "high"),
    [
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(
    n_correct: int, n: int, low: float, high: float
) -> None:
    estimate = wilson(n_correct, n)
    assert estimate.value == n_correct / n
    assert estimate.low == pytest.approx(low, abs=5e-5)
    assert estimate.high == pytest.approx(high, abs=5e-5)
    assert estimate.n == n
    mirrored = wilson(n - n_correct, n)
    assert mirrored.low == pytest.approx(1 - estimate.high)
    assert mirrored.high == pytest.approx(1 - estimate.low)


def test_wilson_stays_within_bounds_around_the_share() -> None:
    for n in range(1, 60):
        for n_correct in (0, n // 3, n):
            estimate = wilson(n_correct, n)
            assert 0 <= estimate.low <= estimate.value <= estimate.high <= 1
    assert wilson(10, 20, z=0).low == wilson(10, 20, z=0).high == 0.5


def test_wilson_covers_the_truth_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    drawn = rng.binomial(40, 0.9, size=4000)
    covered = [e.low <= 0.9 <= e.high for e in (wilson(int(k), 40) for k in drawn)]
    assert np.mean(covered) == pytest.approx(0.95, abs=0.02)


def test_the_adjusted_variance_is_never_zero() -> None:
    assert binomial_variance(50, 100) == pytest.approx(0.25 / (100 + 1.96**2))
    assert binomial_variance(0, 100) > 1e-4
    assert binomial_variance(100, 100) == pytest.approx(binomial_variance(0, 100))
    assert binomial_variance(0, 0) == pytest.approx(0.25 / 1.96**2)


def test_nothing_is_known_without_samples() -> None:
    none = np.array([], dtype=np.int64)
    assert (UNKNOWN.value, UNKNOWN.low, UNKNOWN.high, UNKNOWN.n) == (0.5, 0.0, 1.0, 0)
    assert wilson(0, 0) == UNKNOWN
    assert accuracy(none, none) == UNKNOWN
    assert balanced_accuracy(none, none, 2) == UNKNOWN
    assert auroc(none, none.astype(float)) == UNKNOWN


def test_accuracy_counts() -> None:
    labels, predictions = np.array([0, 1, 2, 2]), np.array([0, 1, 1, 2])
    assert accuracy(labels, predictions) == wilson(3, 4)


def test_balanced_accuracy_is_the_mean_over_classes() -> None:
    labels = np.array([0] * 90 + [1] * 10)
    estimate = balanced_accuracy(labels, np.zeros(100, dtype=np.int64), 2)
    assert estimate.value == 0.5
    rng = np.random.default_rng(0)
    labels, predictions = rng.integers(0, 4, 200), rng.integers(0, 4, 200)
    estimate = balanced_accuracy(labels, predictions, 4)
    assert estimate.value == pytest.approx(balanced_accuracy_score(labels, predictions))
    assert estimate.n == 200


def test_the_balanced_interval_adds_the_variances_of_the_classes() -> None:
    labels = np.array([0] * 100 + [1] * 25)
    predictions = labels.copy()
    predictions[:20] = 1
    predictions[100:110] = 0
    estimate = balanced_accuracy(labels, predictions, 2)
    assert estimate.value == pytest.approx(0.7)
    half = 1.96 * math.sqrt(binomial_variance(80, 100) + binomial_variance(15, 25)) / 2
    assert estimate.high - estimate.value == pytest.approx(half)
    assert estimate.value - estimate.low == pytest.approx(half)


def test_classes_without_labels_do_not_count() -> None:
    labels = np.array([0, 0, 2, 2])
    assert balanced_accuracy(labels, np.array([0, 0, 2, 1]), 3).value == 0.75


@pytest.mark.parametrize("n_levels", [2, 5, 1000])
def test_auroc_equals_the_reference_also_with_ties(n_levels: int) -> None:
    rng = np.random.default_rng(n_levels)
    labels = rng.integers(0, 2, 300)
    scores = np.floor((rng.random(300) + 0.3 * labels) * n_levels) / n_levels
    assert auroc(labels, scores).value == pytest.approx(roc_auc_score(labels, scores))


def test_auroc_in_plain_cases() -> None:
    labels = np.array([0, 0, 1, 1])
    assert auroc(labels, np.array([0.1, 0.2, 0.3, 0.4])).value == 1
    assert auroc(labels, np.array([0.4, 0.3, 0.2, 0.1])).value == 0
    assert auroc(labels, np.full(4, 0.5)).value == 0.5
    assert auroc(np.ones(4, dtype=np.int64), np.arange(4.0)) == UNKNOWN


def test_auroc_has_the_published_standard_error() -> None:
    # Hanley and McNeil 1982, table II: five ratings of 58 normal and 51 abnormal images.
    normal, abnormal = (33, 6, 6, 11, 2), (3, 2, 2, 11, 33)
    scores = np.repeat([1.0, 2, 3, 4, 5] * 2, normal + abnormal)
    labels = np.repeat([0, 1], [58, 51])
    estimate = auroc(labels, scores)
    assert estimate.value == pytest.approx(0.893, abs=5e-4)
    assert (estimate.value - estimate.low) / 1.96 == pytest.approx(0.032, abs=5e-4)
    assert estimate.n == 109
