"""Candidates: sets of images on which a model may err more than on the rest.

Candidates are attribute values and pairs of them (the factor audit computes their F), groups of
images that look alike, clusters of a mixture over embeddings and outcomes (Domino: Eyuboglu et al.
2022), and the ends of failure directions (Jain et al. 2023). A candidate that was fitted to errors
is never tested on the same errors: mixtures are fitted on one half of the images and tested on the
other, directions are cross-fitted in five parts.
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

# Random halvings of the images; a mixture is fitted to each half.
N_SPLITS = 5
N_FOLDS = 5
# Ridge penalty of a failure direction, and sizes of its ends as shares of a class.
PENALTY = 5.0
TAILS = (0.05, 0.1, 0.2)


@dataclass(frozen=True)
class Evaluated:
    """Images that a model was evaluated on.

    Attributes:
        ids: n image ids.
        errors: 0..1, (n,).
        attributes: attribute values of each of the n images.
        outcomes: variables that a mixture models beside the embeddings, each (n, c): rows of
            probabilities (one-hot classes, predictions), or one column of scores.
        classes: class ids, (n,); a failure direction is fitted within each class.
        embeddings: (n, d), or None where only attributes are known.
        losses: (n,), examples are sorted by them; None: by errors.
        groups: (n,), the number of each image's group; the images of a group, such as the frames
            of a video, count as one observation. None: each image is a group of its own.
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
    """An attribute, or a pair of attributes, and how much of the errors' variance it explains.

    Attributes:
        names: name of the attribute, or the two names of the pair.
        f: F statistic of the one-way analysis of variance.
        share: explained share of the variance of the errors, 0..1 (eta squared).
        p: p-value of the F-test.
        q: p corrected for the number of factors (Benjamini-Hochberg).
    """

    names: tuple[str, ...]
    f: float
    share: float
    p: float
    q: float


@dataclass(frozen=True)
class Candidate:
    """A set of images whose error rate is tested on the images of `tested` only.

    Attributes:
        kind: how the candidate was found.
        members: rows of its images.
        tested: rows of the images that the test may use, members and others.
        attributes: attribute values that define a slice; {} for other kinds.
        p: p-value of the test against the rest.
        q: p corrected for the number of candidates (Benjamini-Hochberg).
    """

    kind: Kind
    members: Indices
    tested: Indices
    attributes: Mapping[str, str]
    p: float = 1.0
    q: float = 1.0


def factor_audit(errors: Floats, attributes: Attributes, n_min: int = 10) -> tuple[Factor, ...]:
    """Return F of every attribute and of every pair of attributes, largest F first.

    One-way analysis of variance of the errors over the values, or over the cells of a pair.
    Values and cells with fewer than `n_min` images are left out, and so are factors with fewer than
    two cells, without variance, or with one image per cell.
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
    """Return the weights of a failure direction, (d + 1,), the offset first.

    Logistic regression of errors, 0..1, (n,), on standardised embeddings, (n, d), with the ridge
    penalty `PENALTY`. The decision value of an image, `w[0] + embeddings @ w[1:]`, rises with its
    expected error.
    """
    ridge = np.full(embeddings.shape[1] + 1, PENALTY)
    ridge[0] = 1e-6
    return logistic_regression(embeddings, errors, ridge / len(errors))


def as_scores(errors: Floats) -> Scores:
    """Return 1 - errors, as bools where every error is 0 or 1."""
    return errors == 0 if np.isin(errors, (0, 1)).all() else 1 - errors


def attribute_candidates(images: Evaluated, n_min: int) -> list[Candidate]:
    """Return a candidate for each value of each factor of the factor audit.

    Factors with a small F are included: a single one of their many cells may fail.
    """
    every = np.arange(len(images.errors))
    candidates = []
    for factor in factor_audit(images.errors, images.attributes, n_min):
        for members in slice_table(images.attributes, [factor.names], n_min).values():
            shared = {name: images.attributes[int(members[0])][name] for name in factor.names}
            candidates.append(Candidate("slice", members, every, shared))
    return candidates


def group_candidates(images: Evaluated, rows: Indices, n_min: int) -> list[Candidate]:
    """Return groups of images that look alike.

    Groups are formed without the errors, so all images take part in place of `rows` alone. Of more
    than `MOST_IMAGES` images, a random sample of that size is grouped and tested.
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

    Images are assigned to the component that is most likely given their embedding alone, so that
    the error of a held-out image does not affect its assignment.
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
    """Return the group number of each of `rows`, renumbered from 0, (len(rows),).

    Halves and folds are drawn over these numbers, so that no group is divided between them.
    """
    of_rows = rows if images.groups is None else images.groups[rows]
    return np.unique(of_rows, return_inverse=True)[1]


def direction_candidates(images: Evaluated, rows: Indices, n_min: int) -> list[Candidate]:
    """Return the ends of each class's failure direction; without classes, of one for all images.

    Cross-fitted: the decision value of an image comes from a direction that was fitted without it.
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
