"""Slices: photographs that share attribute values, and the scores of a model on them.

The score of a photograph is a bool, correct or wrong, for image classification, and a number in
0..1, e.g. a mean IoU, for dense predictions. Both kinds are reported and tested by the same
functions, each with its own interval and test.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, hypergeom, norm, pearson3
from scipy.stats import t as student

from eval.metrics import Z95, wilson
from memory.errors import DataError
from memory.records import Estimate, Failure, Report, SliceScore, digest, slice_key

Attributes = Sequence[Mapping[str, str]]
Floats = NDArray[np.float64]
Indices = NDArray[np.int64]
Scores = NDArray[Any]
"""Score of each photograph: a bool, or 0..1 with NaN where nothing of it is known."""
SliceTable = dict[str, Indices]

# Least excess of a slice's error over that of the rest for a significant failure.
LEAST_EFFECT = 0.02


def slice_table(attributes: Attributes, by: Sequence[tuple[str, ...]], n_min: int) -> SliceTable:
    """Return the members of every slice with at least `n_min` photographs, by the slice's key.

    Args:
        attributes: attribute values of each photograph.
        by: combinations of attributes, e.g. ("wafer",) and ("wafer", "severity"). A photograph
            that lacks one of them is in no slice of that combination.
        n_min: least photographs of a slice.
    """
    members: dict[str, list[int]] = {}
    for names in dict.fromkeys(tuple(sorted(set(names))) for names in by):
        crossing: dict[str, list[int]] = defaultdict(list)
        for index, attribute in enumerate(attributes):
            if all(name in attribute for name in names):
                crossing[slice_key({name: attribute[name] for name in names})].append(index)
        members |= {key: crossing[key] for key in sorted(crossing)}
    return {
        key: np.array(indices, dtype=np.int64)
        for key, indices in members.items()
        if len(indices) >= n_min
    }


def score_slices(
    scores: Scores, table: SliceTable, attributes: Attributes
) -> tuple[SliceScore, ...]:
    """Return the mean score of every slice of a table; scores: (n,), without NaN.

    `n_correct` of scores in 0..1 is their rounded sum: the variance of such a score is at most that
    of a Bernoulli variable with the same mean (Bhatia and Davis 2000), so the binomial variance
    that `eval.effects` derives from n_correct is an upper bound, and tests are conservative.
    """
    return tuple(
        SliceScore(
            key=key,
            attributes=_shared(key, attributes[int(members[0])]),
            accuracy=mean_score(scores[members]),
            n_correct=int(np.rint(scores[members].sum())),
        )
        for key, members in table.items()
    )


def worst(slices: Sequence[SliceScore], n_min: int) -> str | None:
    """Return the key of the slice with the lowest accuracy, the largest of equally low ones.

    None if no slice has `n_min` photographs.
    """
    measured = [score for score in slices if score.accuracy.n >= n_min]
    if not measured:
        return None
    return min(measured, key=lambda s: (s.accuracy.value, -s.accuracy.n, s.key)).key


def slice_report(
    metrics: Mapping[str, Estimate],
    scores: Scores,
    attributes: Attributes,
    by: Sequence[tuple[str, ...]],
    n_min: int,
    round: int,  # noqa: A002 (the name of the record's field)
    split: str,
) -> Report:
    """Return a report of a split's metrics and slices, with the metric `worst_slice` added.

    The worst slice is selected by its score, so its interval among the metrics is simultaneous over
    all slices (Bonferroni): a plain interval would cover the truth in 47% to 73% of cases.

    Raises DataError when no photograph has a score. See `slice_table` for `by` and `n_min`.
    """
    scores, attributes, _ = _scored(scores, attributes)
    table = slice_table(attributes, by, max(1, n_min))
    slices = score_slices(scores, table, attributes)
    worst_slice = worst(slices, n_min)
    figures = dict(metrics)
    if worst_slice:
        figures["worst_slice"] = mean_score(scores[table[worst_slice]], n_figures=len(slices))
    return Report(round=round, split=split, metrics=figures, slices=slices, worst_slice=worst_slice)


def failing_slices(
    scores: Scores,
    attributes: Attributes,
    ids: Sequence[str],
    by: Sequence[tuple[str, ...]],
    n_min: int,
    alpha: float = 0.05,
    n_examples: int = 16,
    confidence: NDArray[np.floating] | None = None,
    groups: Sequence[str] | None = None,
) -> tuple[Failure, ...]:
    """Return the slices whose mean score is lower than that of the rest.

    Each slice with `n_min` photographs is tested against all other photographs ("as good as the
    rest", see `worse_than_rest`), corrected for the number of slices (Benjamini-Hochberg). Where
    some fail, all are tested again with the failing slices removed from the rest of slices that are
    disjoint from them, whose failures they would mask otherwise.

    Args:
        scores: (n,); images whose score is NaN are left out.
        attributes: attribute values of each of the n photographs.
        ids: n image ids, by which examples are named.
        by: see `slice_table`.
        n_min: least photographs of a slice.
        alpha: a failure is significant if its q-value is at most alpha and its error exceeds that
            of the rest by at least `LEAST_EFFECT`.
        n_examples: largest number of examples of a failure, i.e. images with a score below 1.
        confidence: examples are sorted by it, lowest first, (n,); None: by the score.
        groups: name of each photograph's group, n of them; the photographs of a group, such as the
            frames of a video, count as one observation. None: each is a group of its own.

    Returns:
        Significant failures first, then by q-value, then by error rate. The id depends on the
        slice alone, so a failure keeps it over the rounds.

    Raises:
        DataError: No image has a score.
    """
    scores, attributes, rows = _scored(scores, attributes)
    order_by = scores if confidence is None else confidence[rows]
    # A slice that holds every image has no rest to be compared with.
    table = {
        key: members
        for key, members in slice_table(attributes, by, max(1, n_min)).items()
        if len(members) < len(scores)
    }
    together = None if groups is None else np.unique(np.array(groups)[rows], return_inverse=True)[1]
    rests = [np.delete(np.arange(len(scores)), members) for members in table.values()]
    q_values = _q_values(scores, table, rests, together)[1]
    failing = [m for m, q in zip(table.values(), q_values, strict=True) if q <= alpha]
    if failing:
        rests = [
            _unmasked(rest, members, failing)
            for members, rest in zip(table.values(), rests, strict=True)
        ]
    p_values, q_values = _q_values(scores, table, rests, together)
    failures = []
    for (key, members), rest, p_value, q_value in zip(
        table.items(), rests, p_values, q_values, strict=True
    ):
        errors, rest_error_rate = 1 - scores[members], _mean_error(scores[rest])
        if errors.mean() <= rest_error_rate:
            continue
        order = members[np.argsort(order_by[members], kind="stable")]
        examples = [int(rows[i]) for i in order if scores[i] < 1][:n_examples]
        failures.append(
            Failure(
                id=digest(key),
                slice=key,
                attributes=_shared(key, attributes[int(members[0])]),
                n=len(members),
                n_wrong=int(np.rint(errors.sum())),
                error_rate=mean_score(errors.astype(scores.dtype)),
                rest_error_rate=float(np.clip(rest_error_rate, 0, 1)),
                p_value=min(1.0, p_value),
                q_value=q_value,
                significant=q_value <= alpha and errors.mean() >= rest_error_rate + LEAST_EFFECT,
                examples=tuple(ids[i] for i in examples),
            )
        )
    return tuple(
        sorted(failures, key=lambda f: (not f.significant, f.q_value, -f.error_rate.value, f.slice))
    )


def mean_score(scores: Scores, n_figures: int = 1) -> Estimate:
    """Return the mean of scores with Wilson's interval for bools, else Student's, cut to 0..1.

    The interval of a single score in 0..1 is [0, 1]. Equal scores have an interval of no width.

    Args:
        scores: (n,).
        n_figures: number of figures that this one was selected from by its value; the intervals of
            all of them are simultaneous (Bonferroni).
    """
    n, level = len(scores), 1 - 0.025 / n_figures
    if scores.dtype == bool:
        return wilson(int(scores.sum()), n, Z95 if n_figures == 1 else float(norm.ppf(level)))
    mean = float(np.clip(scores.mean(), 0, 1))
    if n == 1:
        return Estimate(value=mean, low=0, high=1, n=1)
    half = float(student.ppf(level, n - 1) * scores.std(ddof=1) / math.sqrt(n))
    return Estimate(value=mean, low=max(0.0, mean - half), high=min(1.0, mean + half), n=n)


def _q_values(
    scores: Scores, table: SliceTable, rests: Sequence[Indices], groups: Indices | None
) -> tuple[list[float], list[float]]:
    """Return the p-values and q-values of every slice of a table against its rest."""
    p_values = [
        members_worse(scores, members, rest, groups)
        for members, rest in zip(table.values(), rests, strict=True)
    ]
    return p_values, benjamini_hochberg(p_values)


def members_worse(
    scores: Scores, members: Indices, rest: Indices, groups: Indices | None = None
) -> float:
    """Return the p-value of "the members are as good as the rest", see `worse_than_rest`.

    Photographs of one group are not independent: their mean score counts as one observation.

    Args:
        scores: (n,).
        members: rows of the members.
        rest: rows of the rest.
        groups: (n,), the number of each photograph's group; None: each is its own.
    """
    if groups is None or len(np.unique(groups)) == len(groups):
        return worse_than_rest(scores[members], scores[rest])
    means = [_group_means(scores[rows], groups[rows]) for rows in (members, rest)]
    return worse_than_rest(means[0], means[1])


def _group_means(scores: Scores, groups: Indices) -> Floats:
    """Return the mean score of each group."""
    _, number, size = np.unique(groups, return_inverse=True, return_counts=True)
    return np.bincount(number, scores.astype(np.float64)) / size


def _unmasked(rest: Indices, members: Indices, failing: Sequence[Indices]) -> Indices:
    """Return a rest without the failing slices that are disjoint from the members.

    The whole rest where fewer than two photographs would be left.
    """
    others = [f for f in failing if not np.isin(members, f).any()]
    left = np.setdiff1d(rest, np.concatenate(others)) if others else rest
    return left if len(left) >= 2 else rest


def worse_than_rest(scores: Scores, rest: Scores) -> float:
    """Return the one-sided p-value of "as good as the rest".

    Fisher's exact test for bools; for scores in 0..1 the permutation test of the sum, whose
    distribution is approximated by Pearson's type III with its exact first three moments (Mielke
    and Berry 2007, section 2.3). Unlike a t-test it keeps its level for skewed scores. The p-value
    is 1 for a single score in 0..1.
    """
    n, n_rest = len(scores), len(rest)
    if scores.dtype == bool:
        n_wrong = n - int(scores.sum())
        n_all_wrong = n_wrong + n_rest - int(rest.sum())
        return float(hypergeom.sf(n_wrong - 1, n + n_rest, n_all_wrong, n))
    if min(n, n_rest) < 2:
        return 1.0
    every = np.concatenate([scores, rest])
    deviations = every - every.mean()
    variance = float((deviations**2).mean())
    if variance <= 1e-24:
        return 1.0
    # Moments of the mean of n of N values drawn without replacement.
    total = n + n_rest
    error = math.sqrt(variance * n_rest / (n * (total - 1)))
    skew = float((deviations**3).mean()) / variance**1.5 * (total - 2 * n) / (total - 2)
    skew *= math.sqrt((total - 1) / (n * n_rest))
    return float(pearson3.cdf(float(deviations[:n].mean()) / error, skew))


def share_of_alpha(round_number: int) -> float:
    """Return the share of a session's false discovery rate that one round spends.

    1 / (r (r + 1)) sums to 1 over any number of rounds (alpha spending, Lan and DeMets 1983). The
    baseline, round 0, is tested like round 1.
    """
    r = max(1, round_number)
    return 1 / (r * (r + 1))


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return the q-value of every p-value (Benjamini and Hochberg 1995).

    A q-value is the expected share of false discoveries among all tests with a q-value as small.
    """
    if not p_values:
        return []
    adjusted = false_discovery_control(np.clip(p_values, 0, 1), method="bh")
    return [float(q) for q in adjusted]


def _mean_error(scores: Scores) -> float:
    return float((~scores).mean() if scores.dtype == bool else 1 - scores.mean())


def _shared(key: str, member: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes that a slice's key names, read from one of its members."""
    return {name: value for name, value in member.items() if f" {name}={value} " in f" {key} "}


def _scored(scores: Scores, attributes: Attributes) -> tuple[Scores, Attributes, Indices]:
    """Return scores and attributes of the images with a score, and the rows of these images."""
    rows = np.flatnonzero(~np.isnan(scores))
    if len(rows) == 0:
        raise DataError("No image of the split has a score, so there is nothing to measure.")
    return scores[rows], [attributes[int(row)] for row in rows], rows
