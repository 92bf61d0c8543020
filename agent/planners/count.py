"""Count: all slices get equally many images, regardless of the model's performance.

The slices are those of the last report or, before the first report, every value of every attribute.
Each prompt goes to the slice with the fewest images so far and counts for all slices it belongs to.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from agent.planners import AttributeDistribution, Observation, PlanDraft, PromptDraft
from agent.planners.slices import PromptWriter, last_report, supported_slices
from memory.records import slice_key
from prompts.vocabulary import Vocabulary


class Count:
    """The planner `count`."""

    name = "count"

    def plan(
        self, observation: Observation, distribution: AttributeDistribution, vocabulary: Vocabulary
    ) -> PlanDraft:
        """Return the draft of a round."""
        writer = PromptWriter.of(self.name, observation, distribution, vocabulary)
        scores = supported_slices(last_report(observation.rounds), distribution)
        slices = {s.key: s.attributes for s in scores} or plain_slices(distribution, vocabulary)
        made: Counter[str] = Counter()
        for past in observation.rounds:
            for prompt in past.plan.prompts if past.plan else ():
                _count(made, slices, prompt.attributes, prompt.count)
        prompts: list[PromptDraft] = []
        left = observation.n_images
        while left > 0:
            fewest = min(made[key] for key in slices)
            key = writer.rng.choice([key for key in slices if made[key] == fewest])
            n_images = min(left, observation.images_per_prompt)
            for draft in writer.of_slice(slices[key], n_images, f"few of {key}"):
                prompts.append(draft)
                _count(made, slices, draft.attributes, draft.count)
            left -= n_images
        return PlanDraft(prompts=tuple(prompts), why="Slices get equally many images.")


def plain_slices(
    distribution: AttributeDistribution, vocabulary: Vocabulary
) -> dict[str, dict[str, str]]:
    """Return the single attribute values that the distribution contains, as slices by key."""
    slices = [
        {name: value}
        for name, values in vocabulary.attributes.items()
        for value in values
        if any(row.attributes.get(name) == value for row in distribution.rows)
    ]
    return {slice_key(attributes): attributes for attributes in slices}


def _count(
    made: Counter[str],
    slices: Mapping[str, Mapping[str, str]],
    attributes: Mapping[str, str],
    n_images: int,
) -> None:
    for key, wanted in slices.items():
        if wanted.items() <= attributes.items():
            made[key] += n_images


def build() -> Count:
    """Build the planner."""
    return Count()
