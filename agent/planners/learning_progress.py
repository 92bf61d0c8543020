"""Learning progress: ALP-GMM (Portelas et al., CoRL 2019) over slices.

A task is a slice, as a vector of 0 and 1 for its attribute values. Its absolute learning progress
(ALP) is the size of a round's shrunk effect on it (`eval.effects`), less what noise alone would
have on average: without that, small slices win by their noise.
Mixtures of 2 to 10 normal distributions are fitted to the last 250 (task, ALP) pairs, the one with
the lowest AIC is kept. For every prompt a component is drawn in proportion to its mean ALP, a
point from it, and the slice nearest to the point; 20% of the prompts go to slices at random.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from agent.planners import Observation
from agent.planners.slices import SlicePlanner, changes
from agent.planners.uniform import Uniform
from memory.records import SliceScore

Floats = NDArray[np.float64]

_SIZES = range(2, 11)
_N_PAIRS = 250
_LEAST_VARIANCE = 1e-3
_N_STEPS = 30


@dataclass(frozen=True)
class Mixture:
    """A mixture of normal distributions with diagonal covariances.

    weights: (k,); means, variances: (k, d); aic: Akaike's criterion, lower is better.
    """

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


def _vectors(slices: Sequence[SliceScore]) -> NDArray[np.float64]:
    """Return a row per slice and a column per attribute value, 1 where the slice has it."""
    values = sorted({item for score in slices for item in score.attributes.items()})
    return np.array([[float(v in s.attributes.items()) for v in values] for s in slices])


def build(random_share: float = 0.2) -> SlicePlanner:
    """Build the planner; random_share: 0..1, of prompts for slices drawn at random."""

    def shares(observation: Observation, slices: Sequence[SliceScore]) -> dict[str, float] | None:
        numbers = {score.key: number for number, score in enumerate(slices)}
        pairs = [
            (numbers[c.after.key], abs(c.effect.shrunk) - c.effect.noise)
            for c in changes(observation.rounds)
            if c.after.key in numbers
        ][-_N_PAIRS:]
        if not pairs:
            return None
        tasks = _vectors(slices)
        rng = np.random.default_rng([observation.seed, observation.round])
        points = np.array([[*tasks[number], progress] for number, progress in pairs])
        mixture = best_mixture(points, _SIZES, rng)
        worth = mixture.means[:, -1].clip(min=0) + 1e-9
        n_images: Counter[int] = Counter()
        left = observation.n_images
        while left > 0:
            count = min(left, observation.images_per_prompt)
            if rng.random() < random_share:
                chosen = int(rng.integers(len(slices)))
            else:
                part = rng.choice(len(worth), p=worth / worth.sum())
                point = rng.normal(mixture.means[part], np.sqrt(mixture.variances[part]))[:-1]
                chosen = int(((tasks - point) ** 2).sum(1).argmin())
            n_images[chosen] += count
            left -= count
        return {score.key: float(n_images[number]) for number, score in enumerate(slices)}

    return SlicePlanner("learning_progress", shares, Uniform())
