"""Statistics of a comparison of arms over paired seeds, on the sealed test split.

Pure functions over scores. Arms with the same seed share everything except what is compared, so
differences are computed seed by seed, with intervals over the seeds (`eval.intervals`). With one
seed the intervals have no width.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from eval.intervals import bootstrap_curve, mean_interval, ratio_interval, standard_error
from memory.errors import DataError
from memory.records import Estimate, Record, Report

Floats = NDArray[np.float64]

N_WORST = 5
REFERENCE, ORACLE = "uniform", "oracle"
# Number of seeds of a pilot, and standard errors by which the oracle has to exceed uniform in it.
N_PILOT, N_ERRORS = 3, 3
FIGURES = ("average", "balanced", "worst_slice", "worst_five")
_ALL_FIGURES = (*FIGURES, "sound_five")


class Score(Record):
    """Figures of one arm with one seed after one round, on the sealed test split.

    Attributes:
        arm: name of the arm.
        seed: number of the seed.
        round: number of the round.
        n_images: images generated so far, including rejected ones.
        average: the first metric of the report (accuracy, mIoU, ...).
        balanced: balanced accuracy, or the mean over the slices where there are no image classes.
        worst_slice: score of the lowest slice.
        worst_five: mean score of the five lowest slices.
        sound_five: the same over slices outside of the broken prompt cells.
    """

    arm: str
    seed: int
    round: int = Field(ge=0)
    n_images: int = Field(ge=0)
    average: float
    balanced: float
    worst_slice: float
    worst_five: float
    sound_five: float


class Summary(Record):
    """One arm over all seeds, after its last round.

    Attributes:
        arm: name of the arm.
        n_seeds: number of seeds with all rounds.
        n_images: images generated up to the last round.
        figures: means over the seeds, by figure.
        differences: differences to uniform, paired by seed, by figure; {} for uniform itself and
            for comparisons without it.
        area: mean of the worst-five score over the images; None for a single round.
        images_to_match: images after which the mean curve reaches uniform's final worst-five score,
            None if it never does.
        match_interval: `images_to_match` with its interval, None where it is unbounded.
        gap_closed: gain over uniform relative to the gain of the oracle on the worst five, None
            where the oracle is not significantly better than uniform.
    """

    arm: str
    n_seeds: int
    n_images: int
    figures: dict[str, Estimate]
    differences: dict[str, Estimate]
    area: Estimate | None
    images_to_match: float | None
    match_interval: Estimate | None
    gap_closed: Estimate | None


class Contrast(Record):
    """One arm against another after the last round, paired by seed: arm minus other."""

    arm: str
    other: str
    differences: dict[str, Estimate]


def score_report(
    report: Report,
    arm: str,
    seed: int,
    round_number: int,
    n_images: int,
    broken: Sequence[Mapping[str, str]] = (),
) -> Score:
    """Return the figures of a report as a score.

    Args:
        report: of the arm on the sealed test split.
        arm: name of the arm.
        seed: number of the seed.
        round_number: number of the round.
        n_images: images generated so far.
        broken: attributes of the prompt cells for which the generator draws something else.

    Raises:
        DataError: The report has no slice.
    """
    if not report.slices:
        raise DataError(
            "No slice has enough photographs to be measured, so arms cannot be compared. Lower "
            "feedback.n_min, or measure other slices (feedback.slices)."
        )
    values = [score.accuracy.value for score in report.slices]
    sound = [
        score.accuracy.value
        for score in report.slices
        if not any(cell.items() <= score.attributes.items() for cell in broken)
    ]
    balanced = report.metrics.get("balanced_accuracy")
    return Score(
        arm=arm,
        seed=seed,
        round=round_number,
        n_images=n_images,
        average=next(iter(report.metrics.values())).value,
        balanced=balanced.value if balanced else float(np.mean(values)),
        worst_slice=min(values),
        worst_five=mean_of_lowest(values),
        sound_five=mean_of_lowest(sound or values),
    )


class SliceFigure(Record):
    """The score of one slice of a split, averaged over the trainings of a round.

    n: number of photographs of the slice.
    """

    split: str
    slice: str
    n: int
    score: float


def slice_figures(reports: Sequence[Report]) -> list[SliceFigure]:
    """Return the mean scores of slices, and IoUs of classes, of several reports on one split."""
    figures = [
        [(score.key, score.accuracy) for score in report.slices]
        + [(name, value) for name, value in report.metrics.items() if name.startswith("iou ")]
        for report in reports
    ]
    return [
        SliceFigure(
            split=reports[0].split,
            slice=same[0][0],
            n=same[0][1].n,
            score=float(np.mean([value.value for _, value in same])),
        )
        for same in zip(*figures, strict=True)
    ]


def average_scores(scores: Sequence[Score]) -> Score:
    """Return the mean score of several trainings of one round of an arm."""
    means = {name: float(np.mean([getattr(s, name) for s in scores])) for name in _ALL_FIGURES}
    return scores[0].model_copy(update=means)


def summarise(scores: Sequence[Score]) -> list[Summary]:
    """Return a summary per arm, in the order of first appearance.

    An arm is averaged over the seeds with all its rounds, a difference over the seeds of both arms.
    """
    arms = list(dict.fromkeys(score.arm for score in scores))
    curves = {arm: _curves([s for s in scores if s.arm == arm]) for arm in arms}
    return [_summary(arm, curves) for arm in arms]


def contrast(scores: Sequence[Score], pairs: Sequence[tuple[str, str]]) -> list[Contrast]:
    """Return the paired differences of pairs of arms; pairs without a common seed are omitted."""
    arms = {name for pair in pairs for name in pair}
    curves = {arm: _curves([s for s in scores if s.arm == arm]) for arm in arms}
    differences = {pair: _differences(*(curves[arm] for arm in pair)) for pair in pairs}
    return [
        Contrast(arm=arm, other=other, differences=figures)
        for (arm, other), figures in differences.items()
        if figures
    ]


def mean_curve(scores: Sequence[Score], figure: str) -> dict[int, Estimate]:
    """Return the mean of a figure over the seeds by round, with its interval."""
    rounds = sorted({score.round for score in scores})
    return {
        number: mean_interval([getattr(s, figure) for s in scores if s.round == number])
        for number in rounds
    }


def area(curve: Sequence[Score]) -> float:
    """Return the worst-five score averaged over the number of images (trapezoid rule)."""
    x = np.array([score.n_images for score in curve], dtype=np.float64)
    y = np.array([score.worst_five for score in curve])
    if len(x) == 1:
        return float(y[0])
    return float(np.trapezoid(y, x) / (x[-1] - x[0]))


def images_to_reach(images: Sequence[float], values: Sequence[float], goal: float) -> float | None:
    """Return the number of images at which a curve first reaches `goal`; None if it never does.

    images, values: the points of the curve, interpolated linearly.
    """
    if values[0] >= goal:
        return float(images[0])
    for i in range(1, len(values)):
        if values[i] >= goal:
            part = (goal - values[i - 1]) / (values[i] - values[i - 1])
            return float(images[i - 1] + part * (images[i] - images[i - 1]))
    return None


class Headroom(NamedTuple):
    """The gain of the oracle over uniform on the worst five slices, with its standard error."""

    gain: Estimate
    standard_error: float

    @property
    def is_enough(self) -> bool:
        """Whether the gain is at least `N_ERRORS` standard errors, so that planners can differ."""
        return self.gain.value >= N_ERRORS * self.standard_error

    @property
    def text(self) -> str:
        """The result of a pilot as sentences."""
        start = (
            f"Pilot: on the worst five slices the oracle gains {self.gain.value:+.3f} over "
            f"uniform, with a standard error of {self.standard_error:.3f} ({self.gain.n} seeds)."
        )
        if self.is_enough:
            return f"{start} Planners can differ here: run the comparison without --pilot."
        return (
            f"{start} That is less than {N_ERRORS} standard errors: a comparison of planners would "
            "show nothing here. Look for slices that lack images, use fewer photographs "
            "(dstm.real_images), or more images and photographs to measure on."
        )


def headroom(summaries: Sequence[Summary]) -> Headroom:
    """Return the headroom that a choice of prompts has; the oracle must be among the arms."""
    gain = next(s.differences["worst_five"] for s in summaries if s.arm == ORACLE)
    return Headroom(gain, standard_error(gain))


def summary_table(summaries: Sequence[Summary]) -> list[Sequence[str]]:
    """Return the header and rows of a table with one row per arm; missing figures are empty."""
    rows = []
    for s in summaries:
        row = {"arm": s.arm, "seeds": f"{s.n_seeds}", "images": f"{s.n_images}"}
        row["images_to_match"] = "" if s.images_to_match is None else f"{s.images_to_match:.0f}"
        estimates: dict[str, Estimate | None] = {
            **{name: s.figures.get(name) for name in _ALL_FIGURES},
            **{f"{name}_vs_uniform": s.differences.get(name) for name in _ALL_FIGURES},
            "area": s.area,
            "gap_closed": s.gap_closed,
        }
        for name, e in estimates.items():
            parts = (e.value, e.low, e.high) if e else ()
            cells = [f"{part:.4f}" for part in parts] or [""] * 3
            row |= dict(zip((name, f"{name}_low", f"{name}_high"), cells, strict=True))
        rows.append(row)
    return [list(rows[0]) if rows else ["arm"], *(list(row.values()) for row in rows)]


def seed_tables(scores: Sequence[Score]) -> dict[str, list[Sequence[str]]]:
    """Return the tables `seeds`, one row per score, and `differences`, of every pair of arms.

    Each has its header as first row. A difference is the mean over the seeds of both arms, with
    its paired t-interval.
    """
    seeds: list[Sequence[str]] = [("arm", "seed", "round", "images", *_ALL_FIGURES)]
    for score in scores:
        figures = [f"{getattr(score, name):.4f}" for name in _ALL_FIGURES]
        seeds.append([score.arm, f"{score.seed}", f"{score.round}", f"{score.n_images}", *figures])
    rows: list[Sequence[str]] = [("arm", "minus", "figure", "difference", "low", "high", "seeds")]
    arms = dict.fromkeys(score.arm for score in scores)
    for one in contrast(scores, [*combinations(arms, 2)]):
        for name, e in one.differences.items():
            values = [f"{value:.4f}" for value in (e.value, e.low, e.high)]
            rows.append([one.arm, one.other, name, *values, f"{e.n}"])
    return {"seeds": seeds, "differences": rows}


_Curves = Mapping[int, Sequence[Score]]


def _summary(arm: str, curves: Mapping[str, _Curves]) -> Summary:
    mine, uniform = curves[arm], curves.get(REFERENCE, {})
    oracle = curves.get(ORACLE, {})
    lasts = {seed: curve[-1] for seed, curve in mine.items()}
    paired = [seed for seed in mine if seed in uniform and arm != REFERENCE]
    is_curve = all(len(curve) > 1 for curve in mine.values())
    match, match_interval = _images_to_match(mine, uniform) if is_curve else (None, None)
    closed = None
    of_three = [seed for seed in paired if seed in oracle]
    if of_three and is_curve:
        mine5, uniform5, oracle5 = (
            [c[s][-1].worst_five for s in of_three] for c in (mine, uniform, oracle)
        )
        gains, gaps = (np.subtract(arm, uniform5).tolist() for arm in (mine5, oracle5))
        closed = ratio_interval(gains, gaps) if np.mean(gaps) > 0 else None
    return Summary(
        arm=arm,
        n_seeds=len(mine),
        n_images=next(iter(lasts.values())).n_images,
        figures={
            name: mean_interval([getattr(s, name) for s in lasts.values()]) for name in _ALL_FIGURES
        },
        differences=_differences(mine, uniform) if arm != REFERENCE else {},
        area=mean_interval([area(curve) for curve in mine.values()]) if is_curve else None,
        images_to_match=match,
        match_interval=match_interval,
        gap_closed=closed,
    )


def _differences(one: _Curves, other: _Curves) -> dict[str, Estimate]:
    """Return the paired differences of two arms after the last round; {} without a common seed."""
    lasts = [(one[seed][-1], other[seed][-1]) for seed in one if seed in other]
    return {
        name: mean_interval([getattr(a, name) - getattr(b, name) for a, b in lasts])
        for name in _ALL_FIGURES
        if lasts
    }


def _images_to_match(mine: _Curves, uniform: _Curves) -> tuple[float | None, Estimate | None]:
    """Return the images at which the mean curve reaches uniform's last score, with the interval."""
    seeds = [seed for seed in mine if seed in uniform]
    if not seeds:
        return None, None
    images = [float(score.n_images) for score in mine[seeds[0]]]
    # The goal is the last column, so that it is resampled with the curves.
    rows = [[*(s.worst_five for s in mine[k]), uniform[k][-1].worst_five] for k in seeds]

    def of(mean: Floats) -> float | None:
        return images_to_reach(images, mean[:-1].tolist(), float(mean[-1]))

    curves = np.array(rows)
    return of(curves.mean(0)), bootstrap_curve(curves, of)


def _curves(scores: Sequence[Score]) -> dict[int, list[Score]]:
    """Return the scores of an arm by seed, sorted by round, without seeds that lack a round."""
    rounds = {score.round for score in scores}
    by_seed: dict[int, list[Score]] = {}
    for score in sorted(scores, key=lambda s: (s.seed, s.round)):
        by_seed.setdefault(score.seed, []).append(score)
    return {seed: curve for seed, curve in by_seed.items() if len(curve) == len(rounds)}


def mean_of_lowest(values: Sequence[float]) -> float:
    """Return the mean of the `N_WORST` lowest values."""
    return float(np.mean(sorted(values)[:N_WORST]))
