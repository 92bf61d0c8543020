"""One-shot: in proportion to the errors of the first report, and never looked at again.

The control for iterating: other methods' eight rounds of feedback ended where one round did.
"""

from __future__ import annotations

from agent.planners import Observation, Palette, PlanDraft
from agent.planners.slices import errors, spend, supplied
from agent.planners.uniform import Uniform
from prompts.vocabulary import Vocabulary


class OneShot:
    """The planner `one_shot`."""

    name = "one_shot"

    def plan(self, observation: Observation, palette: Palette, vocabulary: Vocabulary) -> PlanDraft:
        """Return the draft of a round; uniform while there is no report."""
        first = next((r.report for r in observation.rounds if r.report), None)
        slices = supplied(first, palette)
        if not slices:
            return Uniform().plan(observation, palette, vocabulary)
        return spend(self.name, errors(slices), slices, observation, palette, vocabulary)


def build() -> OneShot:
    """Build the planner."""
    return OneShot()
