"""The page of several sessions; the layout is in evidence.html.j2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from eval.evidence import Calibration, Evidence
from eval.report.blocks import Chart
from eval.report.charts import WIDE, Series, line_chart, scatter
from eval.report.templates import render_page
from memory.records import Estimate


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
    return scatter(
        title,
        "Expected against measured changes of slices; on the diagonal they agree.",
        calibration.points,
        [(one.expected, one.measured) for one in calibration.bins if one.n > 1],
        "expected change",
        "measured change",
    )


def _scores(rounds: Sequence[Mapping[str, Any]]) -> Chart | None:
    points: dict[str, dict[int, Estimate]] = {}
    for row in rounds:
        if row["score"] is not None:
            points.setdefault(row["session"], {})[row["round"]] = Estimate(
                value=row["score"], low=row["score_low"], high=row["score_high"], n=0
            )
    # No more lines than colours, so that they can be distinguished.
    shown = list(points.items())[:6]
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
