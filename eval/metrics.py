"""Figures with 95% intervals: small pure functions over labels and predictions.

Without samples an estimate is `UNKNOWN`: 0.5 within [0, 1], n = 0.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from memory.errors import DataError
from memory.records import Estimate

Z95 = 1.96

UNKNOWN = Estimate(value=0.5, low=0.0, high=1.0, n=0)

Floats = NDArray[np.float64]
Labels = NDArray[np.int64]


def wilson(n_correct: int, n: int, z: float = Z95) -> Estimate:
    """Return n_correct / n with its score interval of +-`z` standard errors (Wilson 1927)."""
    if n == 0:
        return UNKNOWN
    share = n_correct / n
    centre = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z / (1 + z**2 / n) * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2))
    # The bounds are exact at 0 and n; rounding must not move them past the share itself.
    return Estimate(
        value=share,
        low=max(0.0, min(share, centre - half)),
        high=min(1.0, max(share, centre + half)),
        n=n,
    )


def binomial_variance(n_correct: int, n: int) -> float:
    """Return the variance of a share with `Z95`**2 / 2 successes and failures added.

    Agresti and Coull 1998. Unlike p (1 - p) / n it is positive where all or none are correct.
    """
    n_adjusted = n + Z95**2
    share = (n_correct + Z95**2 / 2) / n_adjusted
    return share * (1 - share) / n_adjusted


def accuracy(labels: Labels, predictions: Labels) -> Estimate:
    """Return the share of correct predictions with its Wilson interval."""
    return wilson(int((labels == predictions).sum()), len(labels))


def balanced_accuracy(labels: Labels, predictions: Labels, n_classes: int) -> Estimate:
    """Return the mean of the accuracies per class; classes without a label are ignored.

    The interval follows from the sum of the variances per class (`binomial_variance`).
    """
    correct = labels == predictions
    recalls, variances = [], []
    for number in range(n_classes):
        of_class = correct[labels == number]
        if len(of_class):
            recalls.append(float(of_class.mean()))
            variances.append(binomial_variance(int(of_class.sum()), len(of_class)))
    if not recalls:
        return UNKNOWN
    return _around(float(np.mean(recalls)), sum(variances) / len(recalls) ** 2, len(labels))


def auroc(labels: Labels, scores: NDArray[np.floating]) -> Estimate:
    """Return the area under the ROC curve: P(score of class 1 > score of class 0), ties count half.

    Computed by the Mann-Whitney statistic; the interval follows Hanley and McNeil 1982 and has no
    width for a perfect ranking. `UNKNOWN` if either class is missing.
    """
    positive = labels == 1
    n_positive, n_negative = int(positive.sum()), int((~positive).sum())
    if n_positive == 0 or n_negative == 0:
        return UNKNOWN
    rank_sum = float(rankdata(scores)[positive].sum())
    n_pairs = n_positive * n_negative
    area = (rank_sum - n_positive * (n_positive + 1) / 2) / n_pairs
    two_positives = area / (2 - area) - area**2
    two_negatives = 2 * area**2 / (1 + area) - area**2
    variance = (
        area * (1 - area) + (n_positive - 1) * two_positives + (n_negative - 1) * two_negatives
    ) / n_pairs
    return _around(area, variance, len(labels))


def classification_metrics(labels: Labels, probabilities: Floats) -> dict[str, Estimate]:
    """Return accuracy, balanced_accuracy and, for two classes, auroc.

    Args:
        labels: Class ids, (n,).
        probabilities: Predicted by the model, (n, n_classes).

    Raises:
        DataError: A probability is not finite.
    """
    if not np.isfinite(probabilities).all():
        raise DataError(
            "The model's probabilities are not all finite: its training has diverged. Train "
            "again with a lower learning rate."
        )
    predictions, n_classes = probabilities.argmax(1), probabilities.shape[1]
    metrics = {
        "accuracy": accuracy(labels, predictions),
        "balanced_accuracy": balanced_accuracy(labels, predictions, n_classes),
    }
    return metrics | ({"auroc": auroc(labels, probabilities[:, 1])} if n_classes == 2 else {})


def logistic_regression(x: Floats, shares: Floats, ridge: Floats) -> Floats:
    """Return the weights of a logistic regression of shares (Papke and Wooldridge 1996).

    Fitted by Newton's method; scipy has no such regression, and the results of its optimisers
    differ in the last bits between versions.

    Args:
        x: Predictors, (n, m).
        shares: Responses, 0..1, (n,).
        ridge: Penalty of the squared weights relative to the mean loss, (m + 1,), the offset first.

    Returns:
        Weights, (m + 1,), the offset first.
    """
    x = np.column_stack([np.ones(len(x)), x])
    weights, penalty = np.zeros(x.shape[1]), np.diag(ridge)
    for _ in range(100):
        p = logistic(x @ weights)
        gradient = x.T @ (shares - p) / len(x) - penalty @ weights
        hessian = (x * (p * (1 - p))[:, None]).T @ x / len(x) + penalty
        step = np.linalg.solve(hessian, gradient)
        # Far from the optimum the curvature is close to 0 and a full step too long.
        weights += step * min(1.0, 2 / max(float(np.abs(step).max()), 1e-12))
        if np.abs(step).max() < 1e-9:
            break
    return weights


def logistic(x: Floats) -> Floats:
    """Return the logistic function of log odds, 0..1."""
    return 1 / (1 + np.exp(-np.clip(x, -500, 500)))


def _around(value: float, variance: float, n: int) -> Estimate:
    half = Z95 * math.sqrt(max(0.0, variance))
    return Estimate(value=value, low=max(0.0, value - half), high=min(1.0, value + half), n=n)
