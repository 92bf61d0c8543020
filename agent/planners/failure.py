"""Failure: every slice gets images in proportion to its error in the last report."""

from __future__ import annotations

from agent.planners import Observation, Palette, PlanDraft
from agent.planners.slices import errors, last_report, open_slices, spend, supplied
from agent.planners.uniform import Uniform
from prompts.vocabulary import Vocabulary


class Failure:
    """The planner `failure`; floor: share of uniform prompts; curriculum: see `open_slices`."""

    name = "failure"

    def __init__(self, floor: float, curriculum: bool) -> None:
        self._floor = floor
        self._curriculum = curriculum

    def plan(self, observation: Observation, palette: Palette, vocabulary: Vocabulary) -> PlanDraft:
        """Return the draft of a round; uniform while there is no report."""
        slices = supplied(last_report(observation.rounds), palette)
        if self._curriculum:
            slices = open_slices(slices)
        if not slices:
            return Uniform().plan(observation, palette, vocabulary)
        return spend(
            self.name,
            errors(slices),
            slices,
            observation,
            palette,
            vocabulary,
            self._floor,
            Uniform(),
        )


def build(floor: float = 0.0, curriculum: bool = False) -> Failure:
    """Build the planner."""
    return Failure(floor, curriculum)
