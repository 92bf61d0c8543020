"""The few directions in which small patches of images and labels really vary.

A patch of 4x4 pixels of an image with its labels has some two hundred numbers, most of which are
nearly always nought: what is learnt of them is only to take their noise away. A linear basis from
principal components (of each kind apart) keeps the rest, as the autoencoder of latent diffusion
does (Rombach et al. 2022), but exactly and without any training.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Patches further away tell of a patch, too: how much is left of what the next ones do not tell.
_BEYOND_NEIGHBOURS = 0.25


def fit(x: NDArray[np.float32], parts: Sequence[tuple[int, float]]) -> NDArray[np.float16]:
    """Return an orthonormal basis, (k, c), that keeps a share of the power of each kind.

    x: folded images and labels, (n, c, h, w), whitened, 0 where unknown; parts: of each kind the
    channels, c in all, and the share, 0..1.
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
    """Return the mean square of each channel, and of what its neighbours do not tell of it, (2, k).

    x: folded images and labels as the network sees them, (n, k, h, w), h and w at least 3. The
    second is the residual of a linear regression on the same channel of the eight patches around.
    """
    own = []
    for channel in np.moveaxis(x, 1, 0):
        height, width = channel.shape[1:]
        inner = channel[:, 1:-1, 1:-1].reshape(-1)
        around = [
            channel[:, i : i + height - 2, j : j + width - 2].reshape(-1)
            for i, j in itertools.product(range(3), repeat=2)
            if (i, j) != (1, 1)
        ]
        design = np.stack([*around, np.ones_like(inner)], axis=1).astype(np.float64)
        told = design @ np.linalg.lstsq(design, inner, rcond=None)[0]
        own.append(float(((inner - told) ** 2).mean()) * _BEYOND_NEIGHBOURS)
    return [(x.astype(np.float64) ** 2).mean((0, 2, 3)).tolist(), own]


def stored(basis: NDArray[np.float16] | None) -> str:
    """Return a basis as text, for a JSON file; empty for none."""
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
