"""Discovery: where a model fails beyond the slices that it is measured on.

Candidates are attribute values and pairs of them (a factor audit has their F), groups of images
that look alike (`eval.cluster_tree`), clusters of a mixture over image embeddings and outcomes
(Domino: Eyuboglu et al. 2022), and the ends of failure directions (Jain et al. 2023). All are
tested against "as good as the rest", corrected for their number, and a finding is reported only
for what the findings before it do not explain.

A candidate that was found by its errors is never tested on them: mixtures are fitted on one half
of the images and tested on the other, directions are cross-fitted in five parts. Both are looked
for among the images that attributes and groups do not explain.

An image's error is 0..1: wrong or right of a classifier, 1 - score where pixels are labelled.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence, Sized
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit
from scipy.stats import f as f_distribution
from scipy.stats import hypergeom

from eval.cluster_tree import MOST_IMAGES, look_alike, principal_components
from eval.dense import mean_score, welch
from eval.metrics import wilson
from eval.mixture import N_DIMENSIONS, fit_mixture
from eval.slices import Attributes, Indices, benjamini_hochberg, slice_table
from memory.errors import DataError
from memory.records import Failure, Trait, digest, slice_key

Floats = NDArray[np.float64]
Kind = Literal["slice", "cluster", "direction"]

# Halvings of the images, each with two mixtures.
N_SPLITS = 5
N_FOLDS = 5
# Shares of a class that the end of its failure direction may hold.
TAILS = (0.05, 0.1, 0.2)
# Candidates that may explain a larger one together.
N_PARTS = 3
# Members' share of a trait, and how much more frequent it is among them than among all.
LEAST_SHARE, LEAST_LIFT = 0.5, 1.5
# From this overlap (Jaccard) on, a finding is the same as one of the round before.
SAME = 0.3


@dataclass(frozen=True)
class Evaluated:
    """Images that a model was evaluated on.

    errors: 0..1, (n,); outcomes: what a mixture explains beside the embeddings, each (n, c), rows
    of probabilities (one-hot classes, predictions), or one column of scores; classes: (n,), whose
    failure directions are looked for; embeddings: (n, d), or None where only attributes are known;
    losses: (n,), which examples are sorted by, or None to sort by errors.
    """

    ids: Sequence[str]
    errors: Floats
    attributes: Attributes
    outcomes: Sequence[Floats] = ()
    classes: NDArray[np.int64] | None = None
    embeddings: Floats | None = None
    losses: Floats | None = None

    def __post_init__(self) -> None:
        n = len(self.errors)
        parts: list[Sized] = [self.ids, self.attributes, *self.outcomes]
        parts += [part for part in (self.classes, self.embeddings) if part is not None]
        if any(len(part) != n for part in parts):
            raise DataError(f"{n} errors, but other numbers of ids, attributes or embeddings.")
        if n and not (
            np.isfinite(self.errors).all() and 0 <= self.errors.min() <= self.errors.max() <= 1
        ):
            raise DataError("Errors must be within 0..1; leave out images without a score.")


class Factor(NamedTuple):
    """How much of the errors an attribute, or a pair of them, explains.

    f: of the analysis of variance; share: of the variance of the errors; q: Benjamini-Hochberg.
    """

    names: tuple[str, ...]
    f: float
    share: float
    p: float
    q: float


@dataclass(frozen=True)
class Candidate:
    """A set of images, and those of `tested` that its error rate is judged on."""

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
    names = sorted({name for known in attributes for name in known})
    found = []
    for group in [*((n,) for n in names), *itertools.combinations(names, 2)]:
        cells = list(slice_table(attributes, [group], n_min).values())
        if len(cells) < 2:
            continue
        parts = [errors[rows] for rows in cells]
        y, n, k = np.concatenate(parts), sum(map(len, parts)), len(parts)
        whole = float(((y - y.mean()) ** 2).sum())
        within = float(sum(((part - part.mean()) ** 2).sum() for part in parts))
        if n == k or whole <= 0:
            continue
        f = (whole - within) / (k - 1) / (within / (n - k)) if within > 0 else np.inf
        p = float(f_distribution.sf(f, k - 1, n - k))
        found.append((tuple(group), float(f), (whole - within) / whole, p))
    q_values = benjamini_hochberg([p for *_, p in found])
    factors = [Factor(*part, q) for part, q in zip(found, q_values, strict=True)]
    return tuple(sorted(factors, key=lambda factor: (-factor.f, factor.names)))


def fit_direction(embeddings: Floats, errors: Floats, penalty: float = 5.0) -> Floats:
    """Return (d + 1,) weights, the offset last, of a logistic regression of errors, 0..1.

    Newton's method on the penalised likelihood; embeddings should be standardised. The decision
    value of an image, `embeddings @ w[:-1] + w[-1]`, rises towards failures.
    """
    x = np.concatenate([embeddings, np.ones((len(embeddings), 1))], axis=1)
    ridge = np.full(x.shape[1], penalty)
    ridge[-1] = 1e-6
    weights = np.zeros(x.shape[1])
    for _ in range(12):
        p = expit(x @ weights)
        gradient = x.T @ (p - errors) + ridge * weights
        curvature = (x * (p * (1 - p) + 1e-9)[:, None]).T @ x + np.diag(ridge)
        step = np.linalg.solve(curvature, gradient)
        weights = weights - step
        if np.abs(step).max() < 1e-6:
            break
    return weights


def attribute_candidates(images: Evaluated, n_min: int) -> list[Candidate]:
    """Return the values of attributes, and of pairs, that the factor audit can compare.

    A pair whose F is small is among them: of many cells one may fail.
    """
    every = np.arange(len(images.errors))
    found = []
    for factor in factor_audit(images.errors, images.attributes, n_min):
        for members in slice_table(images.attributes, [factor.names], n_min).values():
            shared = {name: images.attributes[int(members[0])][name] for name in factor.names}
            found.append(Candidate("slice", members, every, shared))
    return found


def group_candidates(
    images: Evaluated, rows: Indices, n_min: int, seed: int = 0
) -> list[Candidate]:
    """Return groups of images that look alike, explained ones too: errors have no part in them.

    Of more than `MOST_IMAGES` images, groups of as many drawn by chance, and tested on these.
    """
    assert images.embeddings is not None
    every = np.arange(len(images.errors))
    if len(every) > MOST_IMAGES:
        rng = np.random.default_rng(seed)
        every = np.sort(rng.choice(every, MOST_IMAGES, replace=False))
    groups = look_alike(images.embeddings[every], n_min)
    return [Candidate("cluster", every[group], every, {}) for group in groups]


def mixture_candidates(
    images: Evaluated, rows: Indices, n_min: int, seed: int = 0
) -> list[Candidate]:
    """Return clusters of mixtures, each fitted on one half of `rows` and tested on the other.

    Images belong to the component that is likeliest by their embedding alone, so that a held-out
    image's error has no say in where it belongs.
    """
    assert images.embeddings is not None
    found = []
    for split in range(N_SPLITS):
        order = np.random.default_rng([seed, split]).permutation(rows)
        halves = order[: len(order) // 2], order[len(order) // 2 :]
        for fitted, tested in (halves, halves[::-1]):
            errors = images.errors[fitted]
            if errors.min() == errors.max():
                continue
            outcomes = [outcome[fitted] for outcome in images.outcomes]
            mixture = fit_mixture(images.embeddings[fitted], outcomes, errors, seed)
            component = mixture.assign(images.embeddings[rows])
            for number in range(len(mixture.means)):
                members = rows[component == number]
                if len(members) >= n_min:
                    found.append(Candidate("cluster", members, np.sort(tested), {}))
    return found


def direction_candidates(
    images: Evaluated, rows: Indices, n_min: int, seed: int = 0
) -> list[Candidate]:
    """Return the ends of each class's failure direction, cross-fitted; without classes, of all.

    An image's decision value comes from a direction that was fitted without it.
    """
    assert images.embeddings is not None
    classes = np.zeros(len(rows), np.int64) if images.classes is None else images.classes[rows]
    found = []
    for number in np.unique(classes):
        own = rows[classes == number]
        fold = np.random.default_rng(seed).permutation(len(own)) % N_FOLDS
        z = principal_components(images.embeddings[own], N_DIMENSIONS)
        value = np.zeros(len(own))
        for part in range(N_FOLDS):
            held_out = fold == part
            if held_out.any() and not held_out.all():
                weights = fit_direction(z[~held_out], images.errors[own[~held_out]])
                value[held_out] = z[held_out] @ weights[:-1] + weights[-1]
        worst = own[np.argsort(-value, kind="stable")]
        for tail in TAILS:
            size = round(tail * len(own))
            if n_min <= size < len(own):
                found.append(Candidate("direction", np.sort(worst[:size]), own, {}))
    return found


def select(
    candidates: Sequence[Candidate],
    errors: Floats,
    n_min: int,
    alpha: float,
    explained: Indices | None = None,
    limit: int = 10,
) -> list[Candidate]:
    """Return the candidates that err more than the rest, each for what the earlier do not explain.

    All are tested and corrected together (Benjamini-Hochberg). Then the most significant one is
    taken, or the part of it that explains it; its images are set aside, and the others are tested
    again on what is left, at the level of the first test, until none passes. explained: images
    that are set aside from the start. Sorted as taken, with p and q of the first test.
    """
    aside = np.zeros(len(errors), bool)
    p_values = [_worse(candidate, errors, aside, n_min) for candidate in candidates]
    tested = [
        replace(candidate, p=p, q=q)
        for candidate, p, q in zip(candidates, p_values, benjamini_hochberg(p_values), strict=True)
    ]
    left = [candidate for candidate in tested if candidate.q <= alpha]
    threshold = alpha * len(left) / max(1, len(tested))
    if explained is not None:
        aside[explained] = True
    taken: list[Candidate] = []
    while left and len(taken) < limit:
        now = [(_worse(candidate, errors, aside, n_min), candidate) for candidate in left]
        now = [(p, candidate) for p, candidate in now if p <= threshold]
        if not now:
            break
        _, best = min(now, key=lambda item: item[0])
        best = _core(best, [candidate for _, candidate in now], errors, aside, n_min, alpha)
        taken.append(best)
        aside[best.members] = True
        left = [candidate for _, candidate in now if candidate is not best]
    return taken


def _core(
    whole: Candidate,
    others: Sequence[Candidate],
    errors: Floats,
    aside: NDArray[np.bool_],
    n_min: int,
    alpha: float,
) -> Candidate:
    """Return the most significant candidate of those that explain why `whole` is worse.

    At most `N_PARTS` smaller candidates that err more, lie in `whole` by half, and but for which
    it is as good as the rest: rain fails because rain at night does. `whole` itself if there are
    none. Only slices of attributes explain others of their kind.
    """
    inside = np.zeros(len(errors), bool)
    inside[whole.members] = True
    rate = errors[whole.members[~aside[whole.members]]].mean()
    left = [
        other
        for other in others
        if (other.kind == "slice" or whole.kind != "slice")
        and len(other.members) < len(whole.members)
        and inside[other.members].mean() >= 0.5
        and errors[other.members[~aside[other.members]]].mean() > rate
    ]
    without = aside.copy()
    first = None
    for _ in range(min(N_PARTS, len(left))):
        p_values = [_worse(other, errors, without, n_min) for other in left]
        if min(p_values) > alpha:
            break
        part = left.pop(int(np.argmin(p_values)))
        first = first or part
        without[part.members] = True
        if _worse(whole, errors, without, n_min) > alpha:
            return _core(first, others, errors, aside, n_min, alpha)
    return whole


def _worse(candidate: Candidate, errors: Floats, aside: NDArray[np.bool_], n_min: int) -> float:
    """Return the p-value of "as good as the rest" on the images that are not set aside.

    Fisher's exact test of right and wrong, Welch's t-test of scores; 1 for fewer images than half
    of `n_min`.
    """
    inside = np.zeros(len(errors), bool)
    inside[candidate.members] = True
    judged = candidate.tested[~aside[candidate.tested]]
    members, rest = judged[inside[judged]], judged[~inside[judged]]
    # Half of a mixture's images have helped to find it, and others may be explained.
    if len(members) < max(2, n_min / 2) or len(rest) < 2:
        return 1.0
    if np.isin(errors, (0, 1)).all():
        n_wrong = int(errors[judged].sum())
        k = int(errors[members].sum())
        return float(hypergeom.sf(k - 1, len(judged), n_wrong, len(members)))
    return welch(1 - errors[members], 1 - errors[rest])


def discover(
    images: Evaluated,
    n_min: int,
    alpha: float = 0.05,
    seed: int = 0,
    known: Sequence[Failure] = (),
    previous: Sequence[Failure] = (),
    limit: int = 10,
    n_examples: int = 16,
) -> tuple[Failure, ...]:
    """Return at most `limit` failures that the significant ones of `known` do not explain.

    Clusters and directions are looked for where there are embeddings. n_min: photographs that a
    finding needs; alpha: share of false discoveries to allow; previous: failures of the round
    before, whose ids and names are kept by what overlaps them most (Jaccard, at least 0.3). Error
    rates are those of all members, and of the rest that they are tested against; p and q of a
    cluster come from the half that it was not fitted to. The same arguments give the same failures.
    No image, or no error, gives none.
    """
    errors = images.errors
    if len(errors) < 2 * n_min or errors.max(initial=0) == errors.min(initial=0):
        return ()
    explained = _explained(images, known)
    found = select(attribute_candidates(images, n_min), errors, n_min, alpha, explained, limit)
    explained = np.unique(np.concatenate([explained, *(c.members for c in found)]))
    if images.embeddings is not None:
        # The end of a direction may hold several clusters, so those go first.
        for look in (group_candidates, mixture_candidates, direction_candidates):
            rows = np.setdiff1d(np.arange(len(errors)), explained)
            candidates = look(images, rows, n_min, seed) if len(rows) >= 4 * n_min else []
            new = select(candidates, errors, n_min, alpha, explained, limit - len(found))
            explained = np.unique(np.concatenate([explained, *(c.members for c in new)]))
            found += new
    listed = {failure.slice for failure in known}
    failures = [
        _failure(images, candidate, n_examples)
        for candidate in found
        if slice_key(candidate.attributes) not in listed or candidate.kind != "slice"
    ]
    return follow(failures, previous)


def traits(members: Indices, attributes: Attributes) -> tuple[Trait, ...]:
    """Return the values that most members have, and clearly more of them than of all images.

    At least half of the members, and 1.5 times as frequent as among all; largest lift first.
    """
    found = []
    for name in sorted({name for known in attributes for name in known}):
        everywhere = [known.get(name) for known in attributes]
        for value in sorted({value for value in everywhere if value is not None}):
            share = sum(everywhere[int(i)] == value for i in members) / len(members)
            lift = share / (everywhere.count(value) / len(everywhere))
            if share >= LEAST_SHARE and lift >= LEAST_LIFT:
                found.append(Trait(attribute=name, value=value, share=share, lift=round(lift, 3)))
    return tuple(sorted(found, key=lambda t: (-t.lift, t.attribute)))


def nearest_prompts(members: Indices, captions: Floats, prompts: Floats, n: int = 3) -> list[int]:
    """Return the numbers of the prompts that say best what members have and others have not.

    captions: vectors of the images' captions, (n_images, d); prompts: of the prompts' texts,
    (n_prompts, d). Ranked by the cosine with the members' mean caption less that of all images,
    which the prompts are measured from too.
    """
    if len(prompts) == 0:
        return []
    middle = captions.mean(0)
    wanted, said = captions[members].mean(0) - middle, prompts - middle
    lengths = np.linalg.norm(said, axis=1) * np.linalg.norm(wanted) + 1e-12
    order = np.argsort(-(said @ wanted) / lengths, kind="stable")
    return [int(i) for i in order[:n]]


def follow(found: Sequence[Failure], previous: Sequence[Failure]) -> tuple[Failure, ...]:
    """Give findings the ids and names of those of the round before that they overlap most.

    One to one, largest overlap of members (Jaccard) first, from `SAME` on. Slices of attributes
    have their own.
    """
    pairs = [
        (jaccard(new.members, old.members), i, j)
        for i, new in enumerate(found)
        for j, old in enumerate(previous)
        if new.kind != "slice" and old.kind != "slice"
    ]
    named: dict[int, int] = {}
    for overlap, i, j in sorted(pairs, key=lambda pair: (-pair[0], pair[1:])):
        if overlap >= SAME and i not in named and j not in named.values():
            named[i] = j
    return tuple(
        failure.model_copy(update={"id": previous[named[i]].id, "slice": previous[named[i]].slice})
        if i in named
        else failure
        for i, failure in enumerate(found)
    )


def jaccard(one: Sequence[str], other: Sequence[str]) -> float:
    """Return the overlap of two sets, 0..1; 0 for two empty ones."""
    a, b = set(one), set(other)
    return len(a & b) / len(a | b) if a | b else 0.0


def _explained(images: Evaluated, known: Sequence[Failure]) -> Indices:
    """Return the images of failures that are significant already."""
    inside = [
        any(f.attributes.items() <= dict(own).items() for f in known if f.significant)
        for own in images.attributes
    ]
    return np.flatnonzero(inside)


def _failure(images: Evaluated, candidate: Candidate, n_examples: int) -> Failure:
    members, errors = candidate.members, images.errors[candidate.members]
    rest = np.setdiff1d(candidate.tested, members)
    ids = tuple(images.ids[int(i)] for i in members)
    common = traits(members, images.attributes)
    is_slice = candidate.kind == "slice"
    attributes = dict(candidate.attributes) if is_slice else {t.attribute: t.value for t in common}
    key = slice_key(attributes) if is_slice else f"{candidate.kind} {digest(ids)[:6]}"
    losses = errors if images.losses is None else images.losses[members]
    order = [int(i) for i in np.argsort(-losses, kind="stable") if errors[i] > 0]
    binary = bool(np.isin(images.errors, (0, 1)).all())
    return Failure(
        id=digest(key),
        slice=key,
        attributes=attributes,
        n=len(members),
        n_wrong=int(np.rint(errors.sum())),
        error_rate=wilson(int(errors.sum()), len(errors)) if binary else mean_score(errors),
        rest_error_rate=float(np.clip(images.errors[rest].mean(), 0, 1)),
        p_value=min(1.0, candidate.p),
        q_value=candidate.q,
        significant=True,
        examples=tuple(ids[i] for i in order[:n_examples]),
        kind=candidate.kind,
        members=() if is_slice else ids,
        traits=() if is_slice else common,
    )
