"""Uniform: every combination of the first attribute and the class gets the same share."""

from __future__ import annotations

import random
from collections.abc import Sequence

from agent.planners import AttributeDistribution, Observation, PlanDraft, PromptDraft
from agent.planners.slices import draw_prompts, shares_to_counts
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
        cells = cells_of(distribution, [next(iter(vocabulary.attributes))])
        prompts = cell_prompts(
            [1.0] * len(cells), cells, observation, distribution, vocabulary, rng, "equal share"
        )
        first = next(iter(vocabulary.attributes))
        by_class = [] if vocabulary.class_attribute in (None, first) else ["class"]
        why = f"Equal shares over {' and '.join([first, *by_class])}."
        return PlanDraft(prompts=tuple(prompts), why=why)


def cells_of(
    distribution: AttributeDistribution, attributes: Sequence[str]
) -> list[tuple[dict[str, str], str]]:
    """Return the distinct (values of `attributes`, class) that the distribution has, sorted."""
    cells = {
        (row.class_name, tuple((k, row.attributes[k]) for k in attributes if k in row.attributes))
        for row in distribution.rows
    }
    return [(dict(items), class_name) for class_name, items in sorted(cells)]


def cell_prompts(
    shares: Sequence[float],
    cells: Sequence[tuple[dict[str, str], str]],
    observation: Observation,
    distribution: AttributeDistribution,
    vocabulary: Vocabulary,
    rng: random.Random,
    why: str,
) -> list[PromptDraft]:
    """Return prompts that give the cells, see `cells_of`, their shares of the images of a round."""
    counts = shares_to_counts(shares, observation.n_images)
    return [
        draft
        for (attributes, class_name), count in zip(cells, counts, strict=True)
        for draft in draw_prompts(
            distribution.matching(attributes, class_name),
            count,
            observation.images_per_prompt,
            vocabulary,
            rng,
            why,
        )
    ]


def build() -> Uniform:
    """Build the planner."""
    return Uniform()
