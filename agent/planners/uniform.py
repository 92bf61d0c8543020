"""Uniform: every combination of wafer (or other plain attribute) and class gets the same share."""

from __future__ import annotations

import random

from agent.planners import (
    Observation,
    Palette,
    PlanDraft,
    cells,
    draw_prompts,
    shares_to_counts,
)
from prompts.vocabulary import Vocabulary


class Uniform:
    """Equal shares over the cells of the first attribute and the class; feedback is not used.

    Within a cell the other attributes are drawn as often as the generator split has them.
    """

    name = "uniform"

    def plan(self, observation: Observation, palette: Palette, vocabulary: Vocabulary) -> PlanDraft:
        """Return the draft of a round; it depends on the seed and the round's number alone."""
        rng = random.Random(f"uniform {observation.seed} {observation.round}")
        found = cells(palette, [next(iter(vocabulary.attributes))])
        counts = shares_to_counts([1.0] * len(found), observation.n_images)
        prompts = [
            draft
            for (attributes, class_name), count in zip(found, counts, strict=True)
            for draft in draw_prompts(
                palette.matching(attributes, class_name),
                count,
                observation.images_per_prompt,
                vocabulary,
                rng,
                "equal share",
            )
        ]
        return PlanDraft(prompts=tuple(prompts), why="Equal shares over wafer and class.")


def build() -> Uniform:
    """Build the planner."""
    return Uniform()
