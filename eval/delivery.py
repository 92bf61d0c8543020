"""The round that a session delivers, and its difference to round 0 on the sealed test.

Both models predict the same photographs, so their difference is paired: photographs are resampled
with both predictions (percentile bootstrap with the expanded quantiles of Hesterberg 2015); the
photographs of a group, such as the frames of a video, are resampled together. Whether images helped
is decided by the main figure alone; the intervals of the other figures are not corrected for their
number. `tests/eval/test_delivery.py` simulates the coverage.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from eval.compare import N_WORST, mean_of_lowest
from eval.intervals import expanded_bound, expanded_quantiles, resample_counts
from memory.records import Estimate, Record, Report, Round

Floats = NDArray[np.float64]
Rule = Literal["main", "worst5", "balanced"]

Figure = Callable[[Floats], Floats]
"""Takes sums over photographs, (..., m), and returns their figure, (...); NaN where undefined."""

_N_RESAMPLES = 2000
# Fewest photographs, or groups of them, for a percentile interval; with fewer it is too narrow.
MIN_PHOTOGRAPHS = 20


class FigureChange(Record):
    """A figure of the baseline and of a round with images, and their paired difference."""

    name: str
    before: float
    after: float
    difference: Estimate


class Delivery(Record):
    """The delivered round of a session, and the differences of a round with images to round 0.

    Attributes:
        rule: Rule by which the round was chosen on the feedback photographs.
        baseline: Label of round 0.
        round: Number of the delivered round; 0 where no round with images was better.
        compared: Number of the round that `changes` compares with round 0: the delivered one or,
            where that is round 0, the best round with images by feedback.
        n_images: Number of generated images up to that round.
        n_photographs: Number of photographs that all rounds are trained on; None where round 0 is
            a given model.
        changes: Differences on the sealed test, the main figure first.
    """

    rule: Rule
    baseline: str
    round: int = Field(ge=0)
    compared: int = Field(ge=1)
    n_images: int = Field(ge=0)
    n_photographs: int | None = None
    changes: tuple[FigureChange, ...] = Field(min_length=1)

    @property
    def outcome(self) -> Literal["helped", "undecided", "harmed"]:
        """Whether the interval of the main figure's difference is above 0, below 0, or neither."""
        main = self.changes[0].difference
        return "helped" if main.low > 0 else "harmed" if main.high < 0 else "undecided"


def delivery_score(report: Report, rule: Rule) -> float:
    """Return the score that a rule gives to a round, from its report on feedback."""
    assert report.main_figure  # of a measured round
    main = report.main_figure.value
    if rule == "main" or not report.slices:
        return main
    worst = mean_of_lowest([score.accuracy.value for score in report.slices])
    return worst if rule == "worst5" else (main + worst) / 2


def delivered_round(past: Sequence[Round], rule: Rule) -> Round | None:
    """Return the measured round with the best score on feedback, the earliest of equals."""
    measured = [r for r in past if r.training and r.main_figure]

    def order(done: Round) -> tuple[float, int]:
        assert done.report  # chosen so
        return delivery_score(done.report, rule), -done.number

    return max(measured, key=order, default=None)


def slices_that_matter(past: Sequence[Round]) -> list[str]:
    """Return the slices that failed in round 0 and those that hypotheses of plans name."""
    failing = [f.slice for f in past[0].failures if f.significant and f.kind == "slice"]
    aims = [r.plan.hypothesis.slice for r in past if r.plan and r.plan.hypothesis]
    return list(dict.fromkeys([*failing, *aims]))


def score_sums(scores: Floats) -> tuple[Floats, Figure]:
    """Return per-photograph terms whose sums determine the mean score, (n, 2), and the figure.

    scores: 0..1, (n,), NaN where unknown.
    """
    known = np.isfinite(scores)
    return np.stack([np.where(known, scores, 0), known], axis=1), _mean


def class_sums(scores: Floats, classes: NDArray[np.int64]) -> tuple[Floats, Figure]:
    """Return the terms and the figure of the mean over classes of their mean scores."""
    members = classes[:, None] == np.unique(classes)
    return _group_sums(scores, members), lambda sums: np.nanmean(_group_means(sums), -1)


def slice_sums(scores: Floats, slices: Sequence[NDArray[np.int64]]) -> tuple[Floats, Figure]:
    """Return the terms and the figure of the mean of the five worst slices.

    The worst slices are determined anew for each model and resample, as in `eval.compare`.
    """
    members = np.zeros((len(scores), len(slices)), dtype=bool)
    for column, rows in enumerate(slices):
        members[rows, column] = True

    def worst(sums: Floats) -> Floats:
        # NaN, of a slice that a resample does not show, is sorted to the end.
        mean: Floats = np.nanmean(np.sort(_group_means(sums), -1)[..., :N_WORST], -1)
        return mean

    return _group_sums(scores, members), worst


def rule_sums(
    rule: Rule, main: tuple[Floats, Figure], worst: tuple[Floats, Figure]
) -> tuple[Floats, Figure]:
    """Return the terms and the figure that a rule compares rounds by.

    Args:
        rule: The rule.
        main: Terms and figure of the main figure.
        worst: Terms and figure of the five worst slices.
    """
    if rule == "main":
        return main
    if rule == "worst5":
        return worst
    n = main[0].shape[1]

    def mean(sums: Floats) -> Floats:
        return (main[1](sums[..., :n]) + worst[1](sums[..., n:])) / 2

    return np.hstack([main[0], worst[0]]), mean


def change(
    name: str,
    before: Floats,
    after: Floats,
    figure: Figure,
    groups: NDArray[Any] | None = None,
) -> FigureChange:
    """Return the difference of a figure between two models.

    Args:
        name: Name of the figure.
        before: Terms of each photograph under the first model, (n, m).
        after: Terms of each photograph under the second model, (n, m).
        figure: Computes the figure from sums of the terms.
        groups: Name or number of each photograph's group, (n,); None: each is its own. With fewer
            than 20 groups the interval is a t-interval from the standard deviation of the
            resamples; with fewer than 20 photographs it is -1 to 1.
    """
    known = before.any(1) | after.any(1)
    before, after, n = before[known], after[known], int(known.sum())
    values = [float(figure(sums.sum(0))) for sums in (before, after)]
    difference = values[1] - values[0]
    if groups is not None:
        before, after = (_by_group(sums, groups[known]) for sums in (before, after))
    n_groups, low, high = len(before), -1.0, 1.0
    if n >= MIN_PHOTOGRAPHS and n_groups > 1:
        counts = resample_counts(n_groups, _N_RESAMPLES)
        resampled = figure(counts @ after) - figure(counts @ before)
        if n_groups >= MIN_PHOTOGRAPHS:
            low, high = (float(x) for x in np.nanquantile(resampled, expanded_quantiles(n_groups)))
        else:
            spread = expanded_bound(n_groups) * float(np.nanstd(resampled))
            low, high = max(-1.0, difference - spread), min(1.0, difference + spread)
    estimate = Estimate(value=difference, low=min(low, difference), high=max(high, difference), n=n)
    return FigureChange(name=name, before=values[0], after=values[1], difference=estimate)


def figure_changes(
    main: tuple[str, Floats, Floats, Figure],
    scores: tuple[Floats, Floats],
    average: str,
    slices: Mapping[str, NDArray[np.int64]],
    shown: Sequence[str],
    groups: NDArray[Any] | None = None,
) -> tuple[FigureChange, ...]:
    """Return the differences of two models: main figure, average, worst five, single slices.

    Args:
        main: Name of the main figure, its terms under each model, and the figure.
        scores: Scores of the photographs under each model.
        average: Name of the mean score.
        slices: Rows of the photographs of each slice.
        shown: Slices to compare one by one; slices that are not measured are left out.
        groups: See `change`.
    """
    differences = [change(*main, groups)]
    before, after = (score_sums(each) for each in scores)
    if average != main[0]:
        differences.append(change(average, before[0], after[0], before[1], groups))
    if slices:
        one, other = (slice_sums(each, list(slices.values())) for each in scores)
        differences.append(change("Worst five slices", one[0], other[0], one[1], groups))
    for key in shown:
        if (rows := slices.get(key)) is not None:
            of_rows = None if groups is None else groups[rows]
            differences.append(change(key, before[0][rows], after[0][rows], before[1], of_rows))
    return tuple(differences)


def _mean(sums: Floats) -> Floats:
    return sums[..., 0] / np.where(sums[..., 1] > 0, sums[..., 1], np.nan)


def _by_group(sums: Floats, groups: NDArray[Any]) -> Floats:
    """Return the sum of the terms of each group, (groups, m)."""
    numbers = np.unique(groups, return_inverse=True)[1]
    total = np.zeros((numbers.max(initial=-1) + 1, sums.shape[1]))
    np.add.at(total, numbers, sums)
    return total


def _group_sums(scores: Floats, members: NDArray[np.bool_]) -> Floats:
    """Return per-photograph terms of the scores and counts of each group, (n, 2 groups)."""
    known = members & np.isfinite(scores)[:, None]
    return np.hstack([np.where(known, scores[:, None], 0), known.astype(np.float64)])


def _group_means(sums: Floats) -> Floats:
    total, n = np.split(sums, 2, axis=-1)
    return total / np.where(n > 0, n, np.nan)
