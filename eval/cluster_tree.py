"""Groups of images that look alike, at every scale, found without knowing where a model errs.

Ward's hierarchical clustering (1963) of whitened principal components, cut as HDBSCAN condenses
its tree (Campello et al. 2013, leaf clusters): a group ends where two parts that are both large
enough would join. Groups that know nothing of errors can be tested on all images.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.cluster.hierarchy import linkage

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

# Principal components that distances are measured in, and how far they are whitened.
N_DIMENSIONS = 64
WHITENINGS = (0.5, 1.0)
# Ward's method keeps all distances: 100 MB for so many images.
MOST_IMAGES = 5_000


def look_alike(embeddings: Floats, n_min: int) -> list[Indices]:
    """Return groups of at least `n_min` images that look alike, sorted rows, none twice.

    embeddings: (n, d). Groups of one whitening and those of the other overlap.
    """
    found = {
        group.tobytes(): group
        for whitening in WHITENINGS
        for group in tree_groups(principal_components(embeddings, N_DIMENSIONS, whitening), n_min)
    }
    return list(found.values())


def tree_groups(points: Floats, n_min: int) -> list[Indices]:
    """Return the nodes of Ward's tree with `n_min` points that do not join two such, sorted rows.

    points: (n, d). Smaller parts of a group come before it. None for fewer than `n_min` points.
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


def side_by_side(embeddings: Sequence[Floats]) -> Floats:
    """Return several embeddings of the same images as one, each with the same total variance.

    embeddings: (n, d) each; returned are their half-whitened principal components, at most
    `N_DIMENSIONS` of each.
    """
    parts = [principal_components(part, N_DIMENSIONS, 0.5) for part in embeddings]
    return np.concatenate([part / np.sqrt((part**2).sum(1).mean() + 1e-12) for part in parts], 1)


def principal_components(embeddings: Floats, n: int, whitening: float = 1.0) -> Floats:
    """Return the leading `n` principal components of standardised embeddings, (n_images, <= n).

    whitening: 0 leaves the components their spread, 1 gives all the same.
    """
    standard = (embeddings - embeddings.mean(0)) / (embeddings.std(0) + 1e-6)
    u, spread, _ = np.linalg.svd(standard, full_matrices=False)
    rank = min(n, int((spread > 1e-6 * spread[0]).sum()))
    scale = spread[:rank] / np.sqrt(len(u))
    components: Floats = u[:, :rank] * np.sqrt(len(u)) * scale ** (1 - whitening)
    return components
