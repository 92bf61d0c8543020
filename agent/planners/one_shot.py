"""One-shot: images in proportion to the errors of the first report, in every round.

The control for iterated feedback, which for other methods gained nothing over a single round.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.planners.slices import SlicePlanner, errors
from agent.planners.uniform import Uniform
from memory.records import Report, Round


def first_report(rounds: Sequence[Round]) -> Report | None:
    """Return the first report, or None."""
    return next((r.report for r in rounds if r.report), None)


def build() -> SlicePlanner:
    """Build the planner."""
    return SlicePlanner(
        "one_shot", lambda seen, slices: errors(slices), Uniform(), report=first_report
    )
