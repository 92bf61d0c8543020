"""Principal components of small patches of images and labels.

A patch of 4x4 pixels of an image with its labels has about two hundred values that are highly
correlated. A basis of principal components, fitted to image and each kind of label separately,
compresses them as the autoencoder of latent diffusion does (Rombach et al. 2022), without training.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Share of the variance unexplained by adjacent patches that farther ones do not explain either.
_BEYOND_NEIGHBOURS = 0.25


def fit(x: NDArray[np.float32], parts: Sequence[tuple[int, float]]) -> NDArray[np.float16]:
    """Return an orthonormal basis, (k, c), that explains a given share of each kind's variance.

    Args:
        x: Folded images and labels, (n, c, h, w), whitened, 0 where unknown.
        parts: For image and each kind of label: number of channels (c in total) and share, 0..1.
    """
    patches = np.moveaxis(x, 1, -1).reshape(-1, x.shape[1])
    rows: list[NDArray[np.float64]] = []
    start = 0
    for width, keep in parts:
        part = patches[:, start : start + width].astype(np.float64)
        power, directions = np.linalg.eigh(part.T @ part)
        power, directions = power[::-1], directions[:, ::-1]
        total = power.sum()
        shares = np.cumsum(power) / total if total > 0 else np.ones(width)
        n_kept = int(np.searchsorted(shares, keep) + 1)
        kept = np.zeros((min(n_kept, width), patches.shape[1]))
        kept[:, start : start + width] = directions[:, : len(kept)].T
        rows.append(kept)
        start += width
    return np.concatenate(rows).astype(np.float16)


def powers(x: NDArray[np.float32]) -> list[list[float]]:
    """Return the mean square of each channel and of its part unexplained by neighbours, (2, k).

    The second is the mean squared residual of a linear regression on the same channel of the eight
    surrounding patches, times `_BEYOND_NEIGHBOURS`.

    Args:
        x: Projected channels of images and labels, (n, k, h, w), h and w at least 3.
    """
    unexplained = []
    for channel in np.moveaxis(x, 1, 0):
        height, width = channel.shape[1:]
        inner = channel[:, 1:-1, 1:-1].reshape(-1)
        around = [
            channel[:, i : i + height - 2, j : j + width - 2].reshape(-1)
            for i, j in itertools.product(range(3), repeat=2)
            if (i, j) != (1, 1)
        ]
        design = np.stack([*around, np.ones_like(inner)], axis=1).astype(np.float64)
        predicted = design @ np.linalg.lstsq(design, inner, rcond=None)[0]
        unexplained.append(float(((inner - predicted) ** 2).mean()) * _BEYOND_NEIGHBOURS)
    return [(x.astype(np.float64) ** 2).mean((0, 2, 3)).tolist(), unexplained]


def stored(basis: NDArray[np.float16] | None) -> str:
    """Encode a basis as text for a JSON file; None becomes an empty text."""
    if basis is None:
        return ""
    content = base64.b64encode(np.ascontiguousarray(basis, dtype="<f2").tobytes()).decode()
    return f"{len(basis)}:{content}"


def restored(text: str) -> NDArray[np.float32] | None:
    """Invert `stored`."""
    if not text:
        return None
    n, _, content = text.partition(":")
    values = np.frombuffer(base64.b64decode(content), dtype="<f2").astype(np.float32)
    return values.reshape(int(n), -1)
