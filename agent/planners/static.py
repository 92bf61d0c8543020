"""Static: the prompts of the first round in every round."""

from __future__ import annotations

from agent.planners import AttributeDistribution, Observation, PlanDraft
from agent.planners.uniform import Uniform
from prompts.vocabulary import Vocabulary


class Static:
    """The planner `static`: every round repeats the prompts of `uniform` in round 1."""

    name = "static"

    def plan(
        self, observation: Observation, distribution: AttributeDistribution, vocabulary: Vocabulary
    ) -> PlanDraft:
        """Return the draft of a round; it depends only on the seed."""
        first = observation.model_copy(update={"round": 1, "rounds": ()})
        draft = Uniform().plan(first, distribution, vocabulary)
        return draft.model_copy(update={"why": "The same prompts in every round."})


def build() -> Static:
    """Build the planner."""
    return Static()
