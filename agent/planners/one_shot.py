"""One-shot: in proportion to the errors of the first report, and never looked at again.

The control for iterating: other methods' eight rounds of feedback ended where one round did.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent.planners.slices import SlicePlanner, errors
from agent.planners.uniform import Uniform
from memory.records import Report, Round


def first_report(rounds: Sequence[Round]) -> Report | None:
    """Return the oldest report, if there is one."""
    return next((r.report for r in rounds if r.report), None)


def build() -> SlicePlanner:
    """Build the planner."""
    return SlicePlanner(
        "one_shot", lambda seen, slices: errors(slices), Uniform(), report=first_report
    )
