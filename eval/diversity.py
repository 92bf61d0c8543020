"""Diversity of texts, in words and in meaning."""

from __future__ import annotations

import re
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Return distinct n-grams / n-grams over all texts, 0..1 (Li et al. 2016, arXiv:1510.03055).

    A word is a run of letters, digits and hyphens, in lower case; no n-gram spans two texts. The
    ratio falls with the number of texts, so compare equal numbers. 0 if no text has `n` words.
    """
    grams = [
        tuple(words[start : start + n])
        for words in (re.findall(r"[\w-]+", text.lower()) for text in texts)
        for start in range(len(words) - n + 1)
    ]
    return len(set(grams)) / len(grams) if grams else 0.0


def vendi(vectors: ArrayLike) -> float:
    """Return the Vendi score, the effective number of different vectors (Friedman and Dieng 2023).

    It is exp(entropy) of the eigenvalues of K / n, where K holds the cosines of all pairs.

    Args:
        vectors: (n, d), of any norm above 0.

    Returns:
        1 if all vectors have the same direction, n if all are orthogonal, 0 without vectors.

    Raises:
        ValueError: A vector is zero.
    """
    rows = np.asarray(vectors, dtype=np.float64)
    if len(rows) == 0:
        return 0.0
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if (lengths == 0).any():
        raise ValueError("a zero vector has no cosine with others")
    # The squared singular values of the scaled rows are the eigenvalues of K / n.
    singular = np.linalg.svd(rows / lengths / np.sqrt(len(rows)), compute_uv=False)
    eigenvalues = singular[singular > 0] ** 2
    return float(np.exp(-(eigenvalues * np.log(eigenvalues)).sum()))
