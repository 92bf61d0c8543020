"""The pages of a comparison and of several sessions; see compare.html.j2 and evidence.html.j2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from eval.compare import FIGURES, ORACLE, REFERENCE, Contrast, Score, Summary, mean_curve
from eval.evidence import Calibration, Evidence
from eval.intervals import seeds_needed
from eval.report.blocks import Chart, Table
from eval.report.charts import (
    N_COLOURS,
    WIDE,
    BeforeAfter,
    Series,
    calibration_chart,
    line_chart,
    row_chart,
)
from eval.report.page import flat
from eval.report.templates import render_page
from memory.records import Estimate


@dataclass(frozen=True)
class Openings:
    """How often a sealed test split was opened by comparisons.

    Attributes:
        n_comparisons: that have measured on it.
        n_measured: rounds of arms and seeds that were measured on it by all of them.
    """

    n_comparisons: int
    n_measured: int


@dataclass(frozen=True)
class Comparison:
    """All that the page shows; the same data give the same bytes.

    Attributes:
        preset: its name.
        broken: share of the prompt cells that draw something else, 0..1.
        settings: as resolved.
        scores: of all arms and seeds.
        summaries: of the arms.
        command: that made the page.
        contrasts: differences between pairs of arms.
        openings: of the sealed test by this comparison and others; None: not counted.
    """

    preset: str
    broken: float
    settings: Mapping[str, Any]
    scores: Sequence[Score]
    summaries: Sequence[Summary]
    command: str
    contrasts: Sequence[Contrast] = ()
    openings: Openings | None = None


def build_compare_html(comparison: Comparison) -> str:
    """Return the comparison as one HTML page: no script, no outside request, all text escaped."""
    summaries = comparison.summaries
    compared = [s for s in summaries if s.differences]
    figures = [*FIGURES, *(["sound_five"] if comparison.broken else [])]
    forests = {
        figure: row_chart(
            f"{figure.replace('_', ' ')}, difference to uniform".capitalize(),
            "Paired differences with 95% t-intervals over the seeds.",
            [BeforeAfter(s.arm, None, s.differences[figure]) for s in compared],
            "difference to uniform",
            is_change=True,
            widths=(WIDE,),
        )
        for figure in ("worst_five", "average", *figures[len(FIGURES) :])
        if compared
    }
    return render_page(
        "compare.html.j2",
        data=comparison,
        seeds_needed=seeds_needed,
        summaries=summaries,
        compared=compared,
        figures=figures,
        n_seeds=max((s.n_seeds for s in summaries), default=0),
        curve_chart=_curves(comparison),
        forests=forests,
        settings=Table(("Setting", "Value"), list(flat(comparison.settings))),
    )


def _curves(comparison: Comparison) -> Chart | None:
    """Return the chart of the worst-five score by round, of as many arms as there are colours."""
    with_rounds = [s.arm for s in comparison.summaries if s.area]
    firsts = [arm for arm in (REFERENCE, ORACLE) if arm in with_rounds]
    arms = (firsts + [arm for arm in with_rounds if arm not in firsts])[:N_COLOURS]
    if not arms:
        return None
    curves = {
        arm: mean_curve([s for s in comparison.scores if s.arm == arm], "worst_five")
        for arm in arms
    }
    rounds = sorted({number for curve in curves.values() for number in curve})
    return line_chart(
        "Mean of the worst five slices by round",
        "Mean over the seeds on the sealed test split.",
        [Series(arm, curves[arm], f"s{i}", i == 0) for i, arm in enumerate(arms)],
        rounds,
        "Mean of the worst five slices",
        (WIDE,),
    )


def build_evidence_html(
    evidence: Evidence, rounds: Sequence[Mapping[str, Any]], command: str
) -> str:
    """Return the page: no script, no outside request, all text escaped.

    rounds: rows of the table of that name; command: that made the page.
    """
    return render_page(
        "evidence.html.j2",
        evidence=evidence,
        command=command,
        score_chart=_scores(rounds),
        hypotheses_chart=_chart("Hypotheses of the brains", evidence.hypotheses),
        memory_chart=_chart("What the memory let expect", evidence.memory),
    )


def _chart(title: str, calibration: Calibration | None) -> Chart | None:
    if calibration is None:
        return None
    means = [(one.expected, one.measured) for one in calibration.bins if one.n > 1]
    return calibration_chart(title, calibration.points, means)


def _scores(rounds: Sequence[Mapping[str, Any]]) -> Chart | None:
    points: dict[str, dict[int, Estimate]] = {}
    for row in rounds:
        if row["score"] is not None:
            points.setdefault(row["session"], {})[row["round"]] = Estimate(
                value=row["score"], low=row["score_low"], high=row["score_high"], n=0
            )
    # No more lines than colours, so that they can be distinguished.
    shown = list(points.items())[:N_COLOURS]
    if not shown:
        return None
    numbers = sorted({number for estimates in points.values() for number in estimates})
    series = [Series(name, estimates, f"s{i}", False) for i, (name, estimates) in enumerate(shown)]
    name = str(next(row["metric"] for row in rounds if row["metric"])).replace("_", " ")
    return line_chart(
        f"{name.capitalize()} on feedback by round",
        "With 95% intervals.",
        series,
        numbers,
        name,
        (WIDE,),
    )
