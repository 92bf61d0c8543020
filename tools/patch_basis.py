"""The few directions in which small patches of images and labels really vary.

A patch of 4x4 pixels of an image with its labels has some two hundred numbers, most of which are
nearly always nought: what is learnt of them is only to take their noise away. A linear basis from
principal components (of each kind apart) keeps the rest, as the autoencoder of latent diffusion
does (Rombach et al. 2022), but exactly and without any training.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray


def fit(patches: NDArray[np.float32], parts: Sequence[tuple[int, float]]) -> NDArray[np.float16]:
    """Return an orthonormal basis, (k, n), that keeps a share of the power of each kind.

    patches: (m, n), whitened, 0 where unknown; parts: of each kind the numbers, n in all, and the
    share, 0..1.
    """
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
