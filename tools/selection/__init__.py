"""Selection methods for a round's images, one file each; `build` finds them by name.

A file of a method has a function `build() -> Method`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from eval.likeness import squared_distances
from tools.plugins import load

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

_N_AT_ONCE = 1024

MEASURES = ("entropy", "margin", "features", "variance", "credit")
"""Measures of an image by the DSTM of the previous round, or by the rounds so far."""


@dataclass(frozen=True)
class Candidates:
    """Measures of `n` candidate images; None for measures that the method does not need.

    Attributes:
        audit: Weights by the audit, 0..1, (n,).
        entropy: Normalised entropy of the DSTM's prediction, 0..1, (n,).
        margin: Margin between its two most probable classes, 0..1, (n,).
        features: Embeddings by the DSTM, (n, d).
        chosen_features: Embeddings of the images chosen in earlier rounds, (m, d).
        variance: Variance of the loss gradients over the DSTMs so far, (n,).
        credit: Credit of earlier prompts with the image's attributes, (n,).
        score: Main metric of the DSTM on feedback; None: not measured yet.
        gain: Change of the score by the last round; None if there was none before.
    """

    audit: Floats
    entropy: Floats | None = None
    margin: Floats | None = None
    features: Floats | None = None
    chosen_features: Floats | None = None
    variance: Floats | None = None
    credit: Floats | None = None
    score: float | None = None
    gain: float | None = None

    def __len__(self) -> int:
        return len(self.audit)


@runtime_checkable
class Method(Protocol):
    """A selection method.

    Attributes:
        name: Name of the file.
        needs: Names of the `MEASURES` that it uses.
    """

    name: str
    needs: tuple[str, ...]

    def choose(self, candidates: Candidates, n: int, seed: int) -> Rows:
        """Return `n` distinct rows; deterministic given the arguments and the state."""


@runtime_checkable
class Learner(Protocol):
    """A selection method that learns from the results of its choices."""

    def restore(self, state: Mapping[str, torch.Tensor], same_session: bool) -> None:
        """Load a state; a state of another session restores only what was learned."""

    def state(self) -> dict[str, torch.Tensor]:
        """Return the state to store for the next round."""


def build(name: str) -> Method:
    """Build the method `name`, or the one at the dotted path `package.module:build`."""
    method: Method = load("tools.selection", name)()
    return method


def needed(values: Floats | None, measure: str) -> Floats:
    """Return a measure that the method lists in `needs`, narrowed to not None."""
    assert values is not None, f"{measure} is in `needs` of the method, so it has been measured"
    return values


@dataclass(frozen=True)
class Ranking:
    """A `Method` that selects the images with the lowest values of a key, ties at random."""

    name: str
    needs: tuple[str, ...]
    key: Callable[[Candidates], Floats]

    def choose(self, candidates: Candidates, n: int, seed: int) -> Rows:
        """Return the rows of the `n` lowest values."""
        return lowest(self.key(candidates), n, seed)


def lowest(values: Floats, n: int, seed: int) -> Rows:
    """Return the rows of the `n` lowest values, ties in random order."""
    shuffled = np.random.default_rng(seed).permutation(len(values))
    order = shuffled[np.argsort(values[shuffled], kind="stable")]
    return np.asarray(order[:n], dtype=np.int64)


def distances(features: Floats, others: Floats) -> Floats:
    """Return each row's Euclidean distance to the nearest of `others`; infinite without any."""
    nearest = np.full(len(features), np.inf)
    # In parts, to limit the memory of pairwise distances.
    for start in range(0, len(others), _N_AT_ONCE):
        part = squared_distances(features, others[start : start + _N_AT_ONCE])
        nearest = np.minimum(nearest, part.min(1))
    roots: Floats = np.sqrt(nearest)
    return roots
