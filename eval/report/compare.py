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
    """Counts of the comparisons that measured on a sealed test split.

    Attributes:
        n_comparisons: number of comparisons.
        n_measured: number of measurements by all of them, one per arm, seed and round.
    """

    n_comparisons: int
    n_measured: int


@dataclass(frozen=True)
class Comparison:
    """The data of the page; the same data give the same bytes.

    Attributes:
        preset: name of the preset.
        broken: share of the prompt cells for which the generator draws something else, 0..1.
        settings: resolved settings.
        scores: scores of all arms and seeds.
        summaries: summary of each arm.
        command: command line that created the page.
        contrasts: differences between pairs of arms.
        openings: measurements on the sealed test by this and other comparisons; None: unknown.
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
    """Return the comparison as an HTML page without scripts or external requests."""
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
    """Return a chart of the worst-five score by round for at most `N_COLOURS` arms."""
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
    """Return the evidence as an HTML page without scripts or external requests.

    rounds: rows of the table `rounds`; command: command line that created the page.
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
    # At most one line per colour, so that they can be distinguished.
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
