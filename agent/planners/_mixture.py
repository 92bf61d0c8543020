"""A mixture of normal distributions with diagonal covariances, fitted by EM."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

_LEAST_VARIANCE = 1e-3
_N_STEPS = 30


@dataclass(frozen=True)
class Mixture:
    """weights: (k,); means, variances: (k, d); aic: Akaike's criterion, lower is better."""

    weights: Floats
    means: Floats
    variances: Floats
    aic: float


def best_mixture(points: Floats, sizes: range, rng: np.random.Generator) -> Mixture:
    """Return the mixture with the lowest AIC of the given numbers of components.

    points: (n, d), n at least 1. Sizes above n are left out, one component is always tried.
    """
    tried = [k for k in sizes if k <= len(points)] or [1]
    return min((fit(points, k, rng) for k in tried), key=lambda mixture: mixture.aic)


def fit(points: Floats, k: int, rng: np.random.Generator) -> Mixture:
    """Fit `k` components to points, (n, d); begins at points that are far apart (k-means++)."""
    n, d = points.shape
    means = points[[int(rng.integers(n))]]
    while len(means) < k:
        distance = ((points[:, None] - means) ** 2).sum(2).min(1) + 1e-12
        means = np.vstack([means, points[rng.choice(n, p=distance / distance.sum())]])
    variances = np.full((k, d), points.var(0) + _LEAST_VARIANCE)
    weights = np.full(k, 1 / k)
    for _ in range(_N_STEPS):
        shares = _responsibilities(points, weights, means, variances)[0]
        totals = shares.sum(0) + 1e-12
        weights = totals / totals.sum()
        means = shares.T @ points / totals[:, None]
        squares = shares.T @ points**2 / totals[:, None]
        variances = np.maximum(squares - means**2, 0) + _LEAST_VARIANCE
    log_likelihood = _responsibilities(points, weights, means, variances)[1]
    n_free = k * (2 * d + 1) - 1
    return Mixture(weights, means, variances, 2 * n_free - 2 * log_likelihood)


def _responsibilities(
    points: Floats, weights: Floats, means: Floats, variances: Floats
) -> tuple[Floats, float]:
    """Return the components' shares in each point, (n, k), and the points' log likelihood."""
    away = (points[:, None] - means) ** 2 / variances + np.log(2 * math.pi * variances)
    logs = np.log(weights) - 0.5 * away.sum(2)
    highest = logs.max(1, keepdims=True)
    sums = highest + np.log(np.exp(logs - highest).sum(1, keepdims=True))
    return np.exp(logs - sums), float(sums.sum())
