"""The oracle: `audited_failure` that sees the sealed test split. For comparisons alone.

It has no `build`, so no session can choose it: `shaping compare` hands it what nobody may know.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from agent.planners import AttributeDistribution, Observation, PlanDraft
from agent.planners.audited_failure import audited_shares
from agent.planners.count import Count
from agent.planners.slices import SlicePlanner, errors
from memory.records import Report, SliceScore
from prompts.vocabulary import Vocabulary


class Oracle:
    """Allocates by the true errors and asks for nothing that is broken.

    Args:
        sealed: Report on the test split of the round before; None in the first round.
        broken: Attributes of the cells whose prompts draw something else.
        floor: Share of the budget that is spread evenly, 0..1.
    """

    name = "oracle"

    def __init__(
        self, sealed: Report | None, broken: Collection[dict[str, str]], floor: float = 0.4
    ) -> None:
        self._broken = broken
        self._planner = SlicePlanner(
            self.name, _shares, Count(), floor, report=lambda rounds: sealed
        )

    def plan(
        self, observation: Observation, distribution: AttributeDistribution, vocabulary: Vocabulary
    ) -> PlanDraft:
        """Return the draft of a round."""
        sound = tuple(
            row
            for row in distribution.rows
            if not any(broken.items() <= row.attributes.items() for broken in self._broken)
        )
        drawable = AttributeDistribution(rows=sound or distribution.rows)
        return self._planner.plan(observation, drawable, vocabulary)


def _shares(observation: Observation, slices: Sequence[SliceScore]) -> dict[str, float]:
    return audited_shares(errors(slices), {s.key: 1.0 for s in slices}, sharpness=1.5)
