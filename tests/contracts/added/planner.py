"""The planner `halves`: half of the images of the rarest combination, half of all in turn."""

from __future__ import annotations

from agent.planners import AttributeDistribution, Observation, PlanDraft, PromptDraft
from prompts.vocabulary import Vocabulary


class Halves:
    name = "halves"

    def plan(
        self, observation: Observation, distribution: AttributeDistribution, vocabulary: Vocabulary
    ) -> PlanDraft:
        rows = sorted(distribution.rows, key=lambda row: row.n)
        places = [0 if i % 2 else i // 2 % len(rows) for i in range(observation.n_images)]
        prompts = [
            PromptDraft(
                text=vocabulary.caption(rows[place].attributes),
                class_name=rows[place].class_name,
                attributes=rows[place].attributes,
                count=1,
            )
            for place in places
        ]
        return PlanDraft(prompts=tuple(prompts), why="Half of the rarest.")


def build() -> Halves:
    return Halves()
