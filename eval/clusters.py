"""Clusters of images that may fail: groups that look alike, and components of a mixture.

Groups at every scale come from Ward's hierarchical clustering (1963) of whitened principal
components, cut as HDBSCAN condenses its tree (Campello et al. 2013, leaf clusters): a group stops
growing where two parts that are both large enough would join. They do not depend on the errors, so
they can be tested on all images. Mixtures model embeddings and outcomes jointly, along the axes in
which failures vary most (Domino: Eyuboglu et al. 2022).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage
from scipy.special import log_softmax

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# Number of principal components that distances are computed from, and their degrees of whitening.
N_DIMENSIONS = 64
WHITENINGS = (0.5, 1.0)
# Ward's method stores all pairwise distances: 100 MB for this many images.
MOST_IMAGES = 5_000

N_COMPONENTS = 25
# Number of whitened principal components, and of the axes in their space that a mixture is fitted
# on.
N_WHITE, N_AXES = 32, 8
N_ITERATIONS = 40


def look_alike(embeddings: Floats, n_min: int) -> list[Indices]:
    """Return groups of images that look alike, at every scale.

    Args:
        embeddings: (n, d).
        n_min: least images of a group.

    Returns:
        Sorted row indices of each group, without duplicates. Groups of different whitenings may
        overlap.
    """
    groups = {
        group.tobytes(): group
        for whitening in WHITENINGS
        for group in tree_groups(principal_components(embeddings, N_DIMENSIONS, whitening), n_min)
    }
    return list(groups.values())


def tree_groups(points: Floats, n_min: int) -> list[Indices]:
    """Return the nodes of Ward's tree with at least `n_min` points that do not join two such nodes.

    Args:
        points: (n, d).
        n_min: least points of a group.

    Returns:
        Sorted row indices of each group, parts before the groups that contain them; [] for fewer
        than `n_min` points.
    """
    if len(points) < max(2, n_min):
        return []
    members = [np.array([row]) for row in range(len(points))]
    divided = [False] * len(points)
    groups = []
    for one, other in linkage(points, "ward")[:, :2].astype(int):
        joint = np.concatenate([members[one], members[other]])
        joins_two = min(len(members[one]), len(members[other])) >= n_min
        members.append(joint)
        divided.append(divided[one] or divided[other] or joins_two)
        if len(joint) >= n_min and not divided[-1]:
            groups.append(np.sort(joint))
    return groups


def join_embeddings(embeddings: Sequence[Floats]) -> Floats:
    """Concatenate several embeddings of the same images, each scaled to the same total variance.

    Args:
        embeddings: (n, d) each.

    Returns:
        The half-whitened principal components, at most `N_DIMENSIONS` of each, (n, d_all).
    """
    parts = [principal_components(part, N_DIMENSIONS, 0.5) for part in embeddings]
    return np.concatenate([part / np.sqrt((part**2).sum(1).mean() + 1e-12) for part in parts], 1)


def principal_components(embeddings: Floats, n: int, whitening: float = 1.0) -> Floats:
    """Return the leading principal components of standardised embeddings.

    Args:
        embeddings: (n_images, d).
        n: number of components.
        whitening: 0 keeps the variances of the components, 1 makes them equal.

    Returns:
        (n_images, at most n).
    """
    standard = (embeddings - embeddings.mean(0)) / (embeddings.std(0) + 1e-6)
    u, spread, _ = np.linalg.svd(standard, full_matrices=False)
    rank = min(n, int((spread > 1e-6 * spread[0]).sum()))
    scale = spread[:rank] / np.sqrt(len(u))
    components: Floats = u[:, :rank] * np.sqrt(len(u)) * scale ** (1 - whitening)
    return components


class Mixture(NamedTuple):
    """A mixture of diagonal Gaussians over projected embeddings.

    Attributes:
        centre: mean of the embeddings, (d,).
        projection: axes that embeddings are projected on, (d, k).
        log_weights: log prior of each component, (s,).
        means: (s, k).
        variances: (s, k).
    """

    centre: Floats
    projection: Floats
    log_weights: Floats
    means: Floats
    variances: Floats

    def assign(self, embeddings: Floats) -> Indices:
        """Return the most likely component of each image given its embedding alone, (n,)."""
        z = (embeddings - self.centre) @ self.projection
        likely: Indices = (_log_normal(z, self) + self.log_weights).argmax(1)
        return likely


def fit_mixture(
    embeddings: Floats,
    outcomes: Sequence[Floats],
    errors: Floats,
    n_components: int = N_COMPONENTS,
) -> Mixture:
    """Fit a mixture whose components are homogeneous in appearance and in the model's outcomes.

    Expectation maximisation of sum_i log sum_s P(s) N(z_i; mu_s, S_s) P(outcomes_i | s) with
    diagonal S_s (Domino: Eyuboglu et al. 2022), initialised within the cells of equal outcomes.
    Unlike in the paper, z are not the axes along which images vary most but, of whitened
    embeddings, those along which failures vary most. The same arguments give the same mixture.

    Args:
        embeddings: (n, d).
        outcomes: as in `eval.candidates.Evaluated`; a column of scores is modelled as normal within
            a component.
        errors: 0..1, (n,).
        n_components: largest number of components.
    """
    rng = np.random.default_rng(0)
    centre, projection = failure_axes(embeddings, errors)
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


def failure_axes(embeddings: Floats, errors: Floats) -> tuple[Floats, Floats]:
    """Return a centre, (d,), and the axes along which failures spread most, (d, k).

    The axes are the leading eigenvectors of the second moment of the images that err more than
    average, about the mean of the others, after whitening the leading principal components.
    """
    scale = embeddings.std(0) + 1e-6
    centre = embeddings.mean(0)
    _, spread, axes = np.linalg.svd((embeddings - centre) / scale, full_matrices=False)
    rank = min(N_WHITE, int((spread > 1e-6 * spread[0]).sum()))
    whitening = axes[:rank].T / scale[:, None] / spread[:rank] * math.sqrt(len(embeddings))
    white = (embeddings - centre) @ whitening
    excess = np.maximum(0, errors - errors.mean())
    deviations = white - np.average(white, axis=0, weights=1 - errors + 1e-9)
    moment = (deviations * excess[:, None]).T @ deviations / max(excess.sum(), 1e-9)
    _, directions = np.linalg.eigh(moment)
    return centre, whitening @ directions[:, ::-1][:, :N_AXES]


def _begin(
    z: Floats, outcomes: Sequence[Floats], n_components: int, rng: np.random.Generator
) -> Floats:
    """Return initial responsibilities, (n, s), from seeds spread within cells of equal outcomes."""
    labels = np.zeros(len(z), np.int64)
    for outcome in outcomes:
        if outcome.shape[1] > 1:
            cell = outcome.argmax(1)
        else:
            cell = np.digitize(outcome[:, 0], np.quantile(outcome[:, 0], (0.25, 0.5, 0.75)))
        _, labels = np.unique(labels * (cell.max() + 1) + cell, return_inverse=True)
    cells = [np.flatnonzero(labels == number) for number in range(labels.max() + 1)]
    # Small cells, which hold the errors, get as many seeds as large ones if they have the points.
    left = n_components
    responsibility = np.zeros((len(z), 0))
    for position, rows in enumerate(sorted(cells, key=len)):
        n_seeds = min(len(rows), max(1, left // (len(cells) - position)))
        left -= n_seeds
        nearest = _spread(z[rows], n_seeds, rng)
        hard = np.zeros((len(z), n_seeds))
        hard[rows, nearest] = 1
        responsibility = np.concatenate([responsibility, hard], axis=1)
    return responsibility


def _spread(z: Floats, n_seeds: int, rng: np.random.Generator) -> Indices:
    """Return the nearest of at most `n_seeds` seeds, chosen by k-means++, for each point, (n,)."""
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
    """Return log P(outcome_i | s), (n, s), with parameters estimated from the responsibilities."""
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
