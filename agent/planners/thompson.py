"""Discounted Thompson sampling over slices, with a floor.

An arm is a slice of the last report. Its value is the gain in accuracy per 100 images, with a
normal posterior. The prior mean and standard deviation are 0.2 and 0.15 times the slice's error
times its kept-rate. A round's effect on the slice (`eval.effects`), divided by the number of
requested images, is an observation of the value; its error is divided likewise, so that the few
images of a floor count for little. Old observations are discounted. Every prompt goes to the arm
with the highest sample from its posterior, at most its error (Thompson 1933). A floor of uniform
prompts is kept, since sparse greedy allocations performed poorly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agent.planners import AttributeDistribution, Observation, PlanDraft, PromptDraft
from agent.planners.slices import (
    PromptWriter,
    errors,
    images_go,
    kept_rates,
    last_report,
    slice_changes,
    supported_slices,
)
from agent.planners.uniform import Uniform
from memory.records import Hypothesis, Round, SliceScore
from prompts.vocabulary import Vocabulary

# Prior mean and standard deviation of the gain per 100 images, relative to a slice's error.
_PRIOR_GAIN, _PRIOR_DEVIATION = 0.2, 0.15
_LEAST_ERROR = 0.01


@dataclass(frozen=True)
class Thompson:
    """The planner `thompson`.

    Attributes:
        floor: Share of the images, 0..1, that `uniform` plans.
        discount: Factor per round, 0..1, on the weight of earlier effects.
    """

    floor: float
    discount: float

    name = "thompson"

    def plan(
        self, observation: Observation, distribution: AttributeDistribution, vocabulary: Vocabulary
    ) -> PlanDraft:
        """Return the draft of a round; that of `uniform` if there is no report."""
        arms = supported_slices(last_report(observation.rounds), distribution)
        if not arms:
            draft = Uniform().plan(observation, distribution, vocabulary)
            return draft.model_copy(update={"why": "No feedback yet: equal shares."})
        writer = PromptWriter.of(self.name, observation, distribution, vocabulary)
        n_floor = round(self.floor * observation.n_images)
        prompts: list[PromptDraft] = []
        if n_floor:
            fewer = observation.model_copy(update={"n_images": n_floor})
            prompts += Uniform().plan(fewer, distribution, vocabulary).prompts

        kept = kept_rates(observation.rounds, arms)
        beliefs = {arm.key: self._belief(arm, kept[arm.key], observation.rounds) for arm in arms}
        left_to_gain = errors(arms)
        spent: Counter[str] = Counter()
        left = observation.n_images - n_floor
        while left > 0:
            count = min(observation.images_per_prompt, left)
            worth = {
                k: min(writer.rng.gauss(*belief), left_to_gain[k]) for k, belief in beliefs.items()
            }
            spent[max(worth, key=lambda key: worth[key])] += count
            left -= count
        for arm in arms:
            if spent[arm.key]:
                why = f"accuracy {arm.accuracy.value:.2f} on {arm.key}"
                prompts += writer.of_slice(arm.attributes, spent[arm.key], why)
        favourite, n_favourite = spent.most_common(1)[0] if spent else (arms[0].key, 0)
        expected = min(1.0, max(0.01, beliefs[favourite][0] * n_favourite / 100))
        return PlanDraft(
            prompts=tuple(prompts),
            hypothesis=Hypothesis(slice=favourite, expected_change=round(expected, 4)),
            why=f"{images_go(n_favourite)} to '{favourite}', {n_floor} stay uniform.",
        )

    def _belief(self, arm: SliceScore, kept: float, rounds: Sequence[Round]) -> tuple[float, float]:
        """Return the posterior mean and standard deviation of an arm's gain per 100 images."""
        scale = max(_LEAST_ERROR, (1 - arm.accuracy.value) * kept)
        precision = 1 / (_PRIOR_DEVIATION * scale) ** 2
        total = precision * _PRIOR_GAIN * scale
        for change in slice_changes(rounds):
            if change.after.key == arm.key:
                hundreds = change.n_images / 100
                fade = self.discount ** (rounds[-1].number - change.round.number)
                precision += fade * hundreds**2 / change.effect.variance
                total += fade * hundreds * change.effect.value / change.effect.variance
        return total / precision, precision**-0.5


def build(floor: float = 0.5, discount: float = 0.8) -> Thompson:
    """Build the planner; arguments: see `Thompson`."""
    return Thompson(floor, discount)
