"""Uniform: every combination of the first attribute and the class gets the same share."""

from __future__ import annotations

import random

from agent.planners import AttributeDistribution, Observation, PlanDraft, cell_prompts, cells
from prompts.vocabulary import Vocabulary


class Uniform:
    """Equal shares over the cells of the first attribute and the class; feedback is not used.

    Within a cell the other attributes are drawn as often as the generator split has them.
    """

    name = "uniform"

    def plan(
        self, observation: Observation, distribution: AttributeDistribution, vocabulary: Vocabulary
    ) -> PlanDraft:
        """Return the draft of a round; it depends on the seed and the round's number alone."""
        rng = random.Random(f"uniform {observation.seed} {observation.round}")
        found = cells(distribution, [next(iter(vocabulary.attributes))])
        prompts = cell_prompts(
            [1.0] * len(found), found, observation, distribution, vocabulary, rng, "equal share"
        )
        first = next(iter(vocabulary.attributes))
        by_class = [] if vocabulary.class_attribute in (None, first) else ["class"]
        why = f"Equal shares over {' and '.join([first, *by_class])}."
        return PlanDraft(prompts=tuple(prompts), why=why)


def build() -> Uniform:
    """Build the planner."""
    return Uniform()
