"""Similarity of generated images to photographs, and their diversity, from embeddings of both.

The embeddings are those of an encoder, which defines similarity: figures of different encoders
cannot be compared.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.diversity import vendi
from eval.metrics import wilson
from memory.records import Estimate, Record

Floats = NDArray[np.float64]
Kernel = Callable[[Floats, Floats], Floats]

FILE = "likeness.json"
"""Name of the file in the folder of a session's report."""

N_NEAREST = 5
N_LEAST = 10
"""Least number of photographs and of images of a group with figures."""
_Z = 1.96
_CMMD_BANDWIDTH = 10.0
_CMMD_SCALE = 1000.0


class Likeness(Record):
    """Figures of the generated images of a group, e.g. "wafer=poly", against its photographs.

    Attributes:
        group: "all", a class, or a slice.
        encoder: Name of the encoder of the embeddings.
        n_real: Number of photographs.
        n_generated: Number of images.
        kid: Kernel inception distance in the encoder's space, which need not be Inception's.
        cmmd: MMD with a Gaussian kernel, times 1,000, in the encoder's space, which need not be
            CLIP's.
        density: Mean number of photographs whose neighbourhood an image lies in, over `N_NEAREST`.
        coverage: Share of the photographs with an image in their neighbourhood.
        expected_coverage: Coverage that as many unseen photographs would have.
        vendi: Effective number of different images.
        vendi_real: The same for as many photographs.
    """

    group: str
    encoder: str
    n_real: int
    n_generated: int
    kid: Estimate
    cmmd: Estimate
    density: float
    coverage: Estimate
    expected_coverage: float
    vendi: float
    vendi_real: float


def read_likeness(folder: Path) -> list[Likeness]:
    """Return the figures in the folder of a session's report; [] if there is no valid file."""
    try:
        return [Likeness.model_validate(one) for one in json.loads((folder / FILE).read_bytes())]
    except (OSError, ValueError):
        return []


def likeness(
    real: Floats,
    generated: Floats,
    encoder: str,
    of_real: Mapping[str, NDArray[np.int64]],
    of_generated: Mapping[str, NDArray[np.int64]],
) -> list[Likeness]:
    """Return the figures of all images, and of each group with `N_LEAST` images of either kind.

    Groups that contain all photographs and all images are omitted.

    Args:
        real: Embeddings of the photographs, (n, d).
        generated: Embeddings of the images, (m, d).
        encoder: Name of the encoder.
        of_real: Rows of the photographs of each group.
        of_generated: Rows of the images of each group.
    """
    parts = {"all": (real, generated)}
    parts |= {
        name: (real[of_real[name]], generated[of_generated[name]])
        for name in of_real
        if name in of_generated
        and (len(of_real[name]), len(of_generated[name])) != (len(real), len(generated))
    }
    figures = []
    for name, (x, y) in parts.items():
        n_each = min(len(x), len(y))
        if n_each < N_LEAST:
            continue
        density, coverage = density_and_coverage(x, y)
        figures.append(
            Likeness(
                group=name,
                encoder=encoder,
                n_real=len(x),
                n_generated=len(y),
                kid=kid(x, y),
                cmmd=cmmd(x, y),
                density=density,
                coverage=coverage,
                expected_coverage=expected_coverage(len(x), len(y)),
                vendi=vendi(y[:n_each]),
                vendi_real=vendi(x[:n_each]),
            )
        )
    return figures


def kid(real: Floats, generated: Floats) -> Estimate:
    """Return the kernel inception distance, 0 for equal distributions (Binkowski et al. 2018).

    Args:
        real: (n, d), n at least 3.
        generated: (m, d), m at least 3.
    """
    return mmd(real, generated, lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3)


def cmmd(real: Floats, generated: Floats) -> Estimate:
    """Return 1,000 times the MMD of unit vectors with a Gaussian kernel (Jayasumana et al. 2024).

    Args:
        real: (n, d), n at least 3.
        generated: (m, d), m at least 3.
    """
    x, y = (
        v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (real, generated)
    )
    return mmd(x, y, gaussian(_CMMD_BANDWIDTH), _CMMD_SCALE)


def gaussian(bandwidth: float) -> Kernel:
    """Return the kernel exp(-|x - y|^2 / (2 bandwidth^2))."""
    return lambda x, y: np.exp(-squared_distances(x, y) / (2 * bandwidth**2))


def mmd(real: Floats, generated: Floats, kernel: Kernel, scale: float = 1.0) -> Estimate:
    """Return the squared maximum mean discrepancy, unbiased (Gretton et al. 2012, eq. 3).

    For equal distributions the estimate is negative about half of the time. The interval is normal
    with the jackknife variance over both samples, and too wide where the distributions are equal.

    Args:
        real: (n, d), n at least 3.
        generated: (m, d), m at least 3.
        kernel: Takes (n, d) and (m, d), returns (n, m).
        scale: Factor applied to value and interval.
    """
    n, m = len(real), len(generated)
    within = [kernel(x, x) for x in (real, generated)]
    rows = [k.sum(1) - k.diagonal() for k in within]
    between = kernel(real, generated)
    crossed = [between.sum(1), between.sum(0)]
    sums, cross = [float(r.sum()) for r in rows], float(between.sum())
    parts = [sums[0] / (n * (n - 1)), sums[1] / (m * (m - 1))]
    value = parts[0] + parts[1] - 2 * cross / (n * m)
    variance = 0.0
    for own, other, size, n_other in ((0, 1, n, m), (1, 0, m, n)):
        without = (sums[own] - 2 * rows[own]) / ((size - 1) * (size - 2)) + parts[other]
        without -= 2 * (cross - crossed[own]) / ((size - 1) * n_other)
        variance += (size - 1) * float(without.var())
    half = _Z * float(np.sqrt(variance))
    return Estimate(
        value=scale * value, low=scale * (value - half), high=scale * (value + half), n=n + m
    )


def density_and_coverage(real: Floats, generated: Floats) -> tuple[float, Estimate]:
    """Return density and coverage (Naeem et al. 2020, eq. 3 and 4).

    The neighbourhood of a photograph reaches to its `N_NEAREST`-th nearest other photograph. The
    interval of the coverage is Wilson's, over photographs.

    Args:
        real: (n, d), n above `N_NEAREST`.
        generated: (m, d).
    """
    radius = np.sort(squared_distances(real, real), axis=1)[:, N_NEAREST]
    inside = squared_distances(real, generated) <= radius[:, None]
    density = float(inside.sum() / (N_NEAREST * len(generated)))
    return density, wilson(int(inside.any(1).sum()), len(real))


def expected_coverage(n_real: int, n_generated: int) -> float:
    """Return the expected coverage of unseen photographs (Naeem et al. 2020, lemma 2)."""
    i = np.arange(1, N_NEAREST + 1)
    return float(1 - np.prod((n_real - i) / (n_generated + n_real - i)))


def squared_distances(x: NDArray[Any], y: NDArray[Any]) -> Floats:
    """Return the squared distances of all pairs, (n, m), of (n, d) and (m, d)."""
    squares: Floats = (x**2).sum(1)[:, None] + (y**2).sum(1)[None] - 2 * x @ y.T
    return np.maximum(squares, 0)
