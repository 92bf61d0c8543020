"""The rounds of a session as a timeline: plans, images, scores and verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from memory.records import Estimate, Failure, PromptSpec, Round

# Pictures per round: of its largest prompts, and of its worst failures.
N_PROMPTS, N_FAILURES = 6, 4


@dataclass(frozen=True)
class TimelineEntry:
    """A round with a plan.

    Attributes:
        round: The round.
        score: Main figure; None: not evaluated.
        change: Change of the score since the previous report; None: one of them is missing.
        left: Lower bound of the score's interval on the common track, in percent.
        width: Width of the interval, in percent.
        place: Position of the score, in percent.
        worst: Accuracy of the worst slice; None: unknown.
        verdict: Outcome of the hypothesis; "": undecided.
        prompts: The largest prompts.
        failures: The worst failures with pictures.
    """

    round: Round
    score: Estimate | None
    change: float | None
    left: float
    width: float
    place: float
    worst: Estimate | None
    verdict: str
    prompts: Sequence[PromptSpec]
    failures: Sequence[Failure]


def steps(past: Sequence[Round]) -> list[TimelineEntry]:
    """Return a timeline entry for each round with a plan, in order."""
    measured = [r.main_figure for r in past if r.main_figure]
    low = min((score.low for score in measured), default=0.0)
    span = max((score.high for score in measured), default=1.0) - low or 1.0
    timeline = []
    before: Estimate | None = None
    for current in past:
        score, report, verdict = current.main_figure, current.report, current.verdict
        if current.plan is None:
            before = score or before
            continue
        at = score or Estimate(value=low, low=low, high=low, n=0)
        worst = report.worst if report else None
        largest = sorted(current.plan.prompts, key=lambda p: -p.count)
        timeline.append(
            TimelineEntry(
                round=current,
                score=score,
                change=score.value - before.value if score and before else None,
                left=round(100 * (at.low - low) / span, 1),
                width=round(100 * (at.high - at.low) / span, 1),
                place=round(100 * (at.value - low) / span, 1),
                worst=worst.accuracy if worst else None,
                verdict=verdict.outcome if verdict else "",
                prompts=largest[:N_PROMPTS],
                failures=[f for f in current.failures if f.picture][:N_FAILURES],
            )
        )
        before = score or before
    return timeline
