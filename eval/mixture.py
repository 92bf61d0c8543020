"""Groups of images that look alike and of which a model makes the same: a mixture with outcomes.

Domino (Eyuboglu et al. 2022), along the axes in which failures vary most.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import log_softmax

Floats = NDArray[np.float64]

N_COMPONENTS = 25
# Whitened principal components of the embeddings, and axes among them that a mixture works on.
N_DIMENSIONS, N_AXES = 32, 8
N_ITERATIONS = 40


class Mixture(NamedTuple):
    """A mixture of diagonal Gaussians over projected embeddings.

    centre: (d,), of the embeddings; projection: (d, k); log_weights: (s,); means and variances:
    (s, k).
    """

    centre: Floats
    projection: Floats
    log_weights: Floats
    means: Floats
    variances: Floats

    def assign(self, embeddings: Floats) -> NDArray[np.int64]:
        """Return the likeliest component of each image by its embedding alone, (n,)."""
        z = (embeddings - self.centre) @ self.projection
        likely: NDArray[np.int64] = (_log_normal(z, self) + self.log_weights).argmax(1)
        return likely


def fit_mixture(
    embeddings: Floats,
    outcomes: Sequence[Floats],
    errors: Floats,
    seed: int = 0,
    n_components: int = N_COMPONENTS,
) -> Mixture:
    """Fit components that agree in how images look and in what the model makes of them.

    Expectation maximisation of sum_i log sum_s P(s) N(z_i; mu_s, S_s) P(outcomes_i | s) with
    diagonal S_s (Domino), begun within the cells of equal outcomes. Outcomes as in `Evaluated`; a
    column of scores is normal within a component. Other than in the paper, z are not the axes along
    which images vary most but, of whitened embeddings, those along which failures vary most. The
    same arguments give the same mixture.
    """
    rng = np.random.default_rng(seed)
    centre, projection = contrast(embeddings, errors)
    z = (embeddings - centre) @ projection
    responsibility = _begin(z, outcomes, n_components, rng)
    floor = 0.05 * z.var(0) + 1e-9
    mixture = Mixture(centre, projection, *(np.zeros(0),) * 3)
    for _ in range(N_ITERATIONS):
        mass = responsibility.sum(0) + 1e-9
        means = responsibility.T @ z / mass[:, None]
        variances = responsibility.T @ z**2 / mass[:, None] - means**2
        mixture = mixture._replace(
            log_weights=np.log(mass / mass.sum()),
            means=means,
            variances=np.maximum(variances, floor),
        )
        score = mixture.log_weights + _log_normal(z, mixture)
        for outcome in outcomes:
            score = score + _log_outcome(outcome, responsibility, mass)
        responsibility = np.exp(log_softmax(score, axis=1))
    return mixture


def contrast(embeddings: Floats, errors: Floats) -> tuple[Floats, Floats]:
    """Return a centre, (d,), and axes, (d, k), along which failures spread most.

    Leading eigenvectors of the second moment of images that err more than average, about the mean
    of the others, after whitening the leading principal components.
    """
    scale = embeddings.std(0) + 1e-6
    centre = embeddings.mean(0)
    _, spread, axes = np.linalg.svd((embeddings - centre) / scale, full_matrices=False)
    rank = min(N_DIMENSIONS, int((spread > 1e-6 * spread[0]).sum()))
    whitening = axes[:rank].T / scale[:, None] / spread[:rank] * math.sqrt(len(embeddings))
    white = (embeddings - centre) @ whitening
    excess = np.maximum(0, errors - errors.mean())
    away = white - np.average(white, axis=0, weights=1 - errors + 1e-9)
    moment = (away * excess[:, None]).T @ away / max(excess.sum(), 1e-9)
    _, directions = np.linalg.eigh(moment)
    return centre, whitening @ directions[:, ::-1][:, :N_AXES]


def _begin(
    z: Floats, outcomes: Sequence[Floats], n_components: int, rng: np.random.Generator
) -> Floats:
    """Return first responsibilities, (n, s): seeds spread out within cells of equal outcomes."""
    labels = np.zeros(len(z), np.int64)
    for outcome in outcomes:
        if outcome.shape[1] > 1:
            cell = outcome.argmax(1)
        else:
            cell = np.digitize(outcome[:, 0], np.quantile(outcome[:, 0], (0.25, 0.5, 0.75)))
        _, labels = np.unique(labels * (cell.max() + 1) + cell, return_inverse=True)
    cells = [np.flatnonzero(labels == number) for number in range(labels.max() + 1)]
    # Small cells, where the errors are, get as many seeds as large ones as long as they have them.
    left = n_components
    responsibility = np.zeros((len(z), 0))
    for position, rows in enumerate(sorted(cells, key=len)):
        n_seeds = min(len(rows), max(1, left // (len(cells) - position)))
        left -= n_seeds
        nearest = _spread(z[rows], n_seeds, rng)
        own = np.zeros((len(z), n_seeds))
        own[rows, nearest] = 1
        responsibility = np.concatenate([responsibility, own], axis=1)
    return responsibility


def _spread(z: Floats, n_seeds: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return the nearest of `n_seeds` far-apart points (k-means++) for each point."""
    seeds = [int(rng.integers(len(z)))]
    distance = ((z - z[seeds[0]]) ** 2).sum(1)
    nearest = np.zeros(len(z), np.int64)
    while len(seeds) < n_seeds and distance.max() > 0:
        seeds.append(int(rng.choice(len(z), p=distance / distance.sum())))
        to_new = ((z - z[seeds[-1]]) ** 2).sum(1)
        nearest = np.where(to_new < distance, len(seeds) - 1, nearest)
        distance = np.minimum(distance, to_new)
    return nearest


def _log_normal(z: Floats, mixture: Mixture) -> Floats:
    """Return log N(z_i; mu_s, S_s), (n, s)."""
    precision = 1 / mixture.variances
    squares = z**2 @ precision.T - 2 * z @ (mixture.means * precision).T
    squares = squares + (mixture.means**2 * precision).sum(1)
    density: Floats = -0.5 * (squares + np.log(2 * np.pi * mixture.variances).sum(1))
    return density


def _log_outcome(outcome: Floats, responsibility: Floats, mass: Floats) -> Floats:
    """Return log P(outcome_i | s), (n, s), with parameters from the responsibilities."""
    if outcome.shape[1] > 1:
        shares = (responsibility.T @ outcome + 0.1) / (mass[:, None] + 0.1 * outcome.shape[1])
        likely: Floats = outcome @ np.log(shares).T
        return likely
    y = outcome[:, :1]
    mean = (responsibility.T @ y / mass[:, None]).T
    variance = (responsibility.T @ y**2 / mass[:, None]).T - mean**2
    variance = np.maximum(variance, 0.05 * y.var() + 1e-9)
    density: Floats = -0.5 * ((y - mean) ** 2 / variance + np.log(2 * np.pi * variance))
    return density
