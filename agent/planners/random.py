"""Random: the cells of `uniform` get shares drawn from a Dirichlet distribution in each round."""

from __future__ import annotations

from agent.planners import AttributeDistribution, Observation, PlanDraft
from agent.planners.slices import PromptWriter, shares_to_counts
from agent.planners.uniform import cell_prompts, cells_of
from prompts.vocabulary import Vocabulary


class Random:
    """The planner `random`; concentration: Dirichlet parameter, large values are nearly uniform."""

    name = "random"

    def __init__(self, concentration: float) -> None:
        self._concentration = concentration

    def plan(
        self, observation: Observation, distribution: AttributeDistribution, vocabulary: Vocabulary
    ) -> PlanDraft:
        """Return the draft of a round; it depends only on the seed and the number of the round."""
        writer = PromptWriter.of(self.name, observation, distribution, vocabulary)
        cells = cells_of(writer)
        # Normalised gamma variates are Dirichlet distributed.
        shares = [writer.rng.gammavariate(self._concentration, 1) + 1e-12 for _ in cells]
        counts = shares_to_counts(shares, observation.n_images)
        prompts = cell_prompts(writer, cells, counts, "random share")
        return PlanDraft(prompts=tuple(prompts), why="Shares drawn at random.")


def build(concentration: float = 1.0) -> Random:
    """Build the planner; concentration: see `Random`."""
    return Random(concentration)
