"""Static: the first prompts for ever."""

from __future__ import annotations

from agent.planners import AttributeDistribution, Observation, PlanDraft
from agent.planners.uniform import Uniform
from prompts.vocabulary import Vocabulary


class Static:
    """The planner `static`: every round repeats what `uniform` asks for in the first."""

    name = "static"

    def plan(
        self, observation: Observation, distribution: AttributeDistribution, vocabulary: Vocabulary
    ) -> PlanDraft:
        """Return the draft of a round; it depends on the seed alone."""
        first = observation.model_copy(update={"round": 1, "rounds": ()})
        draft = Uniform().plan(first, distribution, vocabulary)
        return draft.model_copy(update={"why": "The same prompts in every round."})


def build() -> Static:
    """Build the planner."""
    return Static()
