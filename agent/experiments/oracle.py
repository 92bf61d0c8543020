"""The oracle: `audited_failure` that sees the sealed test split. For comparisons alone.

It has no `build`, so no session can choose it: `shaping compare` hands it what nobody may know.
"""

from __future__ import annotations

from collections.abc import Collection

from agent.planners import Observation, Palette, PlanDraft
from agent.planners.audited_failure import audited_shares
from agent.planners.count import Count
from agent.planners.slices import errors, spend, supplied
from memory.records import Report
from prompts.vocabulary import Vocabulary


class Oracle:
    """Allocates by the true errors and asks for nothing that is broken.

    sealed: the report on the test split of the round before, None in the first round; broken:
    slices, by their attributes, whose prompts draw something else.
    """

    name = "oracle"

    def __init__(
        self,
        sealed: Report | None,
        broken: Collection[dict[str, str]],
        floor: float = 0.4,
        sharpness: float = 1.5,
    ) -> None:
        self._sealed = sealed
        self._broken = broken
        self._floor = floor
        self._sharpness = sharpness

    def plan(self, observation: Observation, palette: Palette, vocabulary: Vocabulary) -> PlanDraft:
        """Return the draft of a round."""
        sound = tuple(
            row
            for row in palette.rows
            if not any(broken.items() <= row.attributes.items() for broken in self._broken)
        )
        palette = Palette(rows=sound or palette.rows)
        slices = supplied(self._sealed, palette)
        if not slices:
            return Count().plan(observation, palette, vocabulary)
        shares = audited_shares(
            errors(slices), {score.key: 1.0 for score in slices}, self._sharpness
        )
        return spend(
            self.name, shares, slices, observation, palette, vocabulary, self._floor, Count()
        )
