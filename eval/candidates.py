"""Candidates: sets of images on which a model may err more than on the rest.

Attribute values and pairs of them (a factor audit has their F), groups of images that look alike,
clusters of a mixture over embeddings and outcomes (Domino: Eyuboglu et al. 2022), and the ends of
failure directions (Jain et al. 2023). A candidate that was found by its errors is never tested on
them: mixtures are fitted on one half of the images and tested on the other, directions are
cross-fitted in five parts.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.stats import f_oneway

from eval.clusters import MOST_IMAGES, N_WHITE, fit_mixture, look_alike, principal_components
from eval.metrics import logistic_regression
from eval.slices import Attributes, Indices, Scores, benjamini_hochberg, slice_table

Floats = NDArray[np.float64]
Kind = Literal["slice", "cluster", "direction"]

# Halvings of the images, each with two mixtures.
N_SPLITS = 5
N_FOLDS = 5
# Ridge of a failure direction, and shares of a class that its end may hold.
PENALTY = 5.0
TAILS = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Evaluated:
    """Images that a model was evaluated on.

    Attributes:
        ids: n of them.
        errors: 0..1, (n,).
        attributes: n of them.
        outcomes: what a mixture explains beside the embeddings, each (n, c): rows of probabilities
            (one-hot classes, predictions), or one column of scores.
        classes: (n,); failure directions are looked for in each.
        embeddings: (n, d), or None where only attributes are known.
        losses: (n,), examples are sorted by them; None: by errors.
        groups: (n,), the number of each image's group; images of one belong together, as frames of
            a video do, and are one observation. None: each is its own.
    """

    ids: Sequence[str]
    errors: Floats
    attributes: Attributes
    outcomes: Sequence[Floats] = ()
    classes: NDArray[np.int64] | None = None
    embeddings: Floats | None = None
    losses: Floats | None = None
    groups: Indices | None = None


class Factor(NamedTuple):
    """How much of the errors an attribute, or a pair of them, explains.

    Attributes:
        names: of the attribute or the pair.
        f: statistic of the one-way analysis of variance.
        share: of the variance of the errors, 0..1 (eta squared).
        p: of the F-test.
        q: p corrected for the number of factors (Benjamini-Hochberg).
    """

    names: tuple[str, ...]
    f: float
    share: float
    p: float
    q: float


@dataclass(frozen=True)
class Candidate:
    """A set of images; its error rate is judged on those that are among `tested`."""

    kind: Kind
    members: Indices
    tested: Indices
    attributes: Mapping[str, str]
    p: float = 1.0
    q: float = 1.0


def factor_audit(errors: Floats, attributes: Attributes, n_min: int = 10) -> tuple[Factor, ...]:
    """Return F of every attribute and of every pair of attributes, largest F first.

    One-way analysis of variance of the errors over the values, or over the cells of a pair.
    Values and cells with fewer than `n_min` images are left out, and so are factors with nothing
    to compare.
    """
    names = sorted({name for named in attributes for name in named})
    tested = []
    for group in [*((n,) for n in names), *itertools.combinations(names, 2)]:
        cells = list(slice_table(attributes, [group], n_min).values())
        if len(cells) < 2:
            continue
        parts = [errors[rows] for rows in cells]
        n, k = sum(map(len, parts)), len(parts)
        if n == k or np.ptp(np.concatenate(parts)) == 0:
            continue
        f, p = map(float, f_oneway(*parts))
        share = 1 / (1 + (n - k) / ((k - 1) * f)) if f > 0 else 0.0
        tested.append((tuple(group), f, share, p))
    q_values = benjamini_hochberg([p for *_, p in tested])
    factors = [Factor(*part, q) for part, q in zip(tested, q_values, strict=True)]
    return tuple(sorted(factors, key=lambda factor: (-factor.f, factor.names)))


def fit_direction(embeddings: Floats, errors: Floats) -> Floats:
    """Return a failure direction: (d + 1,) weights, the offset first.

    The logistic regression of errors, 0..1, (n,), on standardised embeddings, (n, d), with a ridge
    of `PENALTY`. An image's decision value, `w[0] + embeddings @ w[1:]`, rises towards failures.
    """
    ridge = np.full(embeddings.shape[1] + 1, PENALTY)
    ridge[0] = 1e-6
    return logistic_regression(embeddings, errors, ridge / len(errors))


def as_scores(errors: Floats) -> Scores:
    """Return 1 - errors, as bools where all images are right or wrong."""
    return errors == 0 if np.isin(errors, (0, 1)).all() else 1 - errors


def attribute_candidates(images: Evaluated, n_min: int) -> list[Candidate]:
    """Return the values of attributes, and of pairs, that the factor audit can compare.

    A pair whose F is small is among them: of many cells one may fail.
    """
    every = np.arange(len(images.errors))
    candidates = []
    for factor in factor_audit(images.errors, images.attributes, n_min):
        for members in slice_table(images.attributes, [factor.names], n_min).values():
            shared = {name: images.attributes[int(members[0])][name] for name in factor.names}
            candidates.append(Candidate("slice", members, every, shared))
    return candidates


def group_candidates(images: Evaluated, rows: Indices, n_min: int) -> list[Candidate]:
    """Return groups of images that look alike, explained ones too: errors have no part in them.

    Of more than `MOST_IMAGES` images, groups of as many drawn by chance, and tested on these.
    """
    assert images.embeddings is not None
    every = np.arange(len(images.errors))
    if len(every) > MOST_IMAGES:
        rng = np.random.default_rng(0)
        every = np.sort(rng.choice(every, MOST_IMAGES, replace=False))
    groups = look_alike(images.embeddings[every], n_min)
    return [Candidate("cluster", every[group], every, {}) for group in groups]


def mixture_candidates(images: Evaluated, rows: Indices, n_min: int) -> list[Candidate]:
    """Return clusters of mixtures, each fitted on one half of `rows` and tested on the other.

    Images belong to the component that is likeliest by their embedding alone, so that a held-out
    image's error has no say in where it belongs.
    """
    assert images.embeddings is not None
    candidates = []
    for split in range(N_SPLITS):
        group = _numbered_groups(images, rows)
        order = np.random.default_rng([0, split]).permutation(group.max() + 1)
        place = np.argsort(order)[group]
        shuffled = rows[np.argsort(place, kind="stable")]
        halves = np.split(shuffled, [int((place < len(order) // 2).sum())])
        for fitted, tested in (halves, halves[::-1]):
            errors = images.errors[fitted]
            if errors.min() == errors.max():
                continue
            outcomes = [outcome[fitted] for outcome in images.outcomes]
            mixture = fit_mixture(images.embeddings[fitted], outcomes, errors)
            component = mixture.assign(images.embeddings[rows])
            for number in range(len(mixture.means)):
                members = rows[component == number]
                if len(members) >= n_min:
                    candidates.append(Candidate("cluster", members, np.sort(tested), {}))
    return candidates


def _numbered_groups(images: Evaluated, rows: Indices) -> Indices:
    """Return the group of each row, numbered from 0; those of one group are never parted."""
    of_rows = rows if images.groups is None else images.groups[rows]
    return np.unique(of_rows, return_inverse=True)[1]


def direction_candidates(images: Evaluated, rows: Indices, n_min: int) -> list[Candidate]:
    """Return the ends of each class's failure direction, cross-fitted; without classes, of all.

    An image's decision value comes from a direction that was fitted without it.
    """
    assert images.embeddings is not None
    classes = np.zeros(len(rows), np.int64) if images.classes is None else images.classes[rows]
    candidates = []
    for number in np.unique(classes):
        of_class = rows[classes == number]
        group = _numbered_groups(images, of_class)
        fold = np.random.default_rng(0).permutation(group.max() + 1)[group] % N_FOLDS
        z = principal_components(images.embeddings[of_class], N_WHITE)
        value = np.zeros(len(of_class))
        for part in range(N_FOLDS):
            held_out = fold == part
            if held_out.any() and not held_out.all():
                weights = fit_direction(z[~held_out], images.errors[of_class[~held_out]])
                value[held_out] = weights[0] + z[held_out] @ weights[1:]
        worst = of_class[np.argsort(-value, kind="stable")]
        for tail in TAILS:
            size = round(tail * len(of_class))
            if n_min <= size < len(of_class):
                candidates.append(Candidate("direction", np.sort(worst[:size]), of_class, {}))
    return candidates
