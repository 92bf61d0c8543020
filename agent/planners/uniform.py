"""Uniform: every combination of the first attribute and the class gets the same share."""

from __future__ import annotations

from collections.abc import Sequence

from agent.planners import AttributeDistribution, Observation, PlanDraft, PromptDraft
from agent.planners.slices import PromptWriter, shares_to_counts
from prompts.vocabulary import Vocabulary


class Uniform:
    """Equal shares over the cells of the first attribute and the class; feedback is not used.

    Within a cell the other attributes are sampled by their frequency in the generator split.
    """

    name = "uniform"

    def plan(
        self, observation: Observation, distribution: AttributeDistribution, vocabulary: Vocabulary
    ) -> PlanDraft:
        """Return the draft of a round; it depends only on the seed and the number of the round."""
        writer = PromptWriter.of(self.name, observation, distribution, vocabulary)
        cells = cells_of(writer)
        counts = shares_to_counts([1.0] * len(cells), observation.n_images)
        prompts = cell_prompts(writer, cells, counts, "equal share")
        first = next(iter(vocabulary.attributes))
        by_class = [] if vocabulary.class_attribute in (None, first) else ["class"]
        why = f"Equal shares over {' and '.join([first, *by_class])}."
        return PlanDraft(prompts=tuple(prompts), why=why)


PromptCell = tuple[str, tuple[tuple[str, str], ...]]
"""A class, and the first attribute with its value; () for a class that lacks this attribute."""


def cells_of(writer: PromptWriter) -> list[PromptCell]:
    """Return the cells of the distribution, sorted."""
    name = next(iter(writer.vocabulary.attributes))
    return sorted(
        {
            (row.class_name, tuple(item for item in row.attributes.items() if item[0] == name))
            for row in writer.distribution.rows
        }
    )


def cell_prompts(
    writer: PromptWriter, cells: Sequence[PromptCell], counts: Sequence[int], why: str
) -> list[PromptDraft]:
    """Return prompts for cells; counts: number of images of each cell."""
    return [
        draft
        for (class_name, items), count in zip(cells, counts, strict=True)
        for draft in writer.of_rows(
            writer.distribution.matching(dict(items), class_name), count, why
        )
    ]


def build() -> Uniform:
    """Build the planner."""
    return Uniform()
