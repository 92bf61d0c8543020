"""Which round a session delivers, and what its images changed: against round 0, on the sealed test.

Two models predict the same photographs, so their difference is paired: photographs are resampled
with both predictions (percentile bootstrap with the expanded quantiles of Hesterberg 2015), those
of a group, as the frames of a video, together. Whether images helped is decided by the main figure
alone; the intervals of the others are not corrected for their number. `tests/eval/test_delivery.py`
simulates the coverage.
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
"""Takes sums over photographs, (..., m), and returns a figure of each, (...); NaN for none."""

_N_RESAMPLES = 2000
# Below it an interval by resampling is too narrow.
MIN_PHOTOGRAPHS = 20


class FigureChange(Record):
    """A figure of the baseline and of a round with images, and their difference."""

    name: str
    before: float
    after: float
    difference: Estimate


class Delivery(Record):
    """What a session delivers, and what its images changed.

    Attributes:
        rule: By which the round was chosen on the feedback photographs.
        baseline: Label of round 0.
        round: That is delivered; 0 where no round with images was better.
        compared: The round that `changes` are those of: the delivered one or, where that is
            round 0, the best by feedback with images.
        n_images: Generated images up to that round.
        n_photographs: That all rounds have learnt from; None where round 0 is a given model.
        changes: On the sealed test, the main figure first.
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
        """Return what the interval of the main figure's difference says."""
        main = self.changes[0].difference
        return "helped" if main.low > 0 else "harmed" if main.high < 0 else "undecided"


def delivery_score(report: Report, rule: Rule) -> float:
    """Return what a rule compares rounds by, of a report on feedback."""
    assert report.main_figure  # of a measured round
    main = report.main_figure.value
    if rule == "main" or not report.slices:
        return main
    worst = mean_of_lowest([score.accuracy.value for score in report.slices])
    return worst if rule == "worst5" else (main + worst) / 2


def delivered_round(past: Sequence[Round], rule: Rule) -> Round | None:
    """Return the round with the best model by feedback; of equals the one with fewer images."""
    measured = [r for r in past if r.training and r.main_figure]

    def order(done: Round) -> tuple[float, int]:
        assert done.report  # chosen so
        return delivery_score(done.report, rule), -done.number

    return max(measured, key=order, default=None)


def slices_that_matter(past: Sequence[Round]) -> list[str]:
    """Return the slices that failed in round 0, and those that plans were to change."""
    failing = [f.slice for f in past[0].failures if f.significant and f.kind == "slice"]
    aims = [r.plan.hypothesis.slice for r in past if r.plan and r.plan.hypothesis]
    return list(dict.fromkeys([*failing, *aims]))


def score_sums(scores: Floats) -> tuple[Floats, Figure]:
    """Return what photographs add to a mean score, and the mean.

    scores: 0..1, (n,), NaN where unknown.
    """
    known = np.isfinite(scores)
    return np.stack([np.where(known, scores, 0), known], axis=1), _mean


def class_sums(scores: Floats, classes: NDArray[np.int64]) -> tuple[Floats, Figure]:
    """Return what photographs add to the mean over classes of their mean scores, and that mean."""
    members = classes[:, None] == np.unique(classes)
    return _group_sums(scores, members), lambda sums: np.nanmean(_group_means(sums), -1)


def slice_sums(scores: Floats, slices: Sequence[NDArray[np.int64]]) -> tuple[Floats, Figure]:
    """Return what photographs add to the mean of the five worst slices, and that mean.

    Each model has its own worst slices, as in `eval.compare`.
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
    """Return what photographs add to the figure that a rule goes by, and the figure.

    Args:
        rule: Which figure.
        main: The same of the main figure.
        worst: The same of the five worst slices.
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
    """Return how a figure differs between two models.

    Args:
        name: Of the figure.
        before: What each photograph adds to the sums, by the first model, (n, m).
        after: The same by the second model.
        figure: Of the sums.
        groups: Name or number of each photograph's group, (n,); None: each is its own. Of fewer
            than 20 groups the interval is a t-interval by the standard deviation of the resamples.
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
        main: Name of the main figure, what photographs add to it by each model, and the figure.
        scores: Of the photographs, by each model.
        average: Name of the mean score.
        slices: Rows of their photographs.
        shown: Slices of interest; those that are not measured are left out.
        groups: As of `change`.
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
    """Return the sums of each group, (groups, m)."""
    numbers = np.unique(groups, return_inverse=True)[1]
    total = np.zeros((numbers.max(initial=-1) + 1, sums.shape[1]))
    np.add.at(total, numbers, sums)
    return total


def _group_sums(scores: Floats, members: NDArray[np.bool_]) -> Floats:
    """Return sums of scores and numbers of photographs by group, (n, 2 groups)."""
    known = members & np.isfinite(scores)[:, None]
    return np.hstack([np.where(known, scores[:, None], 0), known.astype(np.float64)])


def _group_means(sums: Floats) -> Floats:
    total, n = np.split(sums, 2, axis=-1)
    return total / np.where(n > 0, n, np.nan)
