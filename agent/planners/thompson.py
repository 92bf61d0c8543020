"""Discounted Thompson sampling over slices, with a floor (ALGORITHMS: planners).

An arm is a slice of the last report. Its reward is the change of the slice's accuracy in a round
that spent images on it, shrunk by its binomial error; old rewards fade. What an arm is worth is
its sampled reward times what is left to gain (its error rate) times its kept-rate, so a slice
that the generator cannot draw does not swallow the budget. A floor of uniform prompts stays,
since sparse greedy allocations did badly.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict

from agent.planners import AttributeDistribution, Observation, PlanDraft, PromptDraft
from agent.planners.slices import (
    FULL_CHANGE,
    MIN_SUPPORT,
    changes,
    curriculum_slices,
    kept_rates,
    last_report,
    reward,
    slice_prompts,
    supported_slices,
)
from agent.planners.uniform import Uniform
from memory.records import Hypothesis, Round
from prompts.vocabulary import Vocabulary


class Thompson:
    """The planner `thompson`; floor: share of uniform prompts; discount: memory of rewards.

    min_support: photographs of the generator split that a slice needs; curriculum: see
    `curriculum_slices`.
    """

    name = "thompson"

    def __init__(self, floor: float, discount: float, min_support: int, curriculum: bool) -> None:
        self._floor = floor
        self._discount = discount
        self._min_support = min_support
        self._curriculum = curriculum

    def plan(
        self, observation: Observation, distribution: AttributeDistribution, vocabulary: Vocabulary
    ) -> PlanDraft:
        """Return the draft of a round; uniform while there is no report yet."""
        arms = supported_slices(last_report(observation.rounds), distribution, self._min_support)
        if self._curriculum:
            arms = curriculum_slices(arms)
        if not arms:
            draft = Uniform().plan(observation, distribution, vocabulary)
            return draft.model_copy(update={"why": "No feedback yet: equal shares."})
        rng = random.Random(f"thompson {observation.seed} {observation.round}")
        n_floor = round(self._floor * observation.n_images)
        prompts: list[PromptDraft] = []
        if n_floor:
            fewer = observation.model_copy(update={"n_images": n_floor})
            prompts += Uniform().plan(fewer, distribution, vocabulary).prompts

        beliefs = self._beliefs(observation.rounds)
        kept = kept_rates(observation.rounds, arms)
        spent: Counter[str] = Counter()
        left = observation.n_images - n_floor
        while left > 0:
            count = min(observation.images_per_prompt, left)
            worth = {
                arm.key: rng.betavariate(*beliefs[arm.key])
                * (1 - arm.accuracy.value)
                * kept[arm.key]
                for arm in arms
            }
            spent[max(worth, key=lambda key: worth[key])] += count
            left -= count
        for arm in arms:
            if spent[arm.key]:
                why = f"accuracy {arm.accuracy.value:.2f} on {arm.key}"
                prompts += slice_prompts(
                    arm.attributes, spent[arm.key], observation, distribution, vocabulary, rng, why
                )
        favourite, n_favourite = spent.most_common(1)[0] if spent else (arms[0].key, 0)
        a, b = beliefs[favourite]
        expected = max(0.01, (a / (a + b) - 0.5) * 2 * FULL_CHANGE)
        return PlanDraft(
            prompts=tuple(prompts),
            hypothesis=Hypothesis(slice=favourite, expected_change=round(expected, 4)),
            why=f"{n_favourite} images go to '{favourite}', {n_floor} stay uniform.",
        )

    def _beliefs(self, rounds: tuple[Round, ...]) -> dict[str, tuple[float, float]]:
        """Fold the history into Beta parameters per slice; one prior success and failure."""
        successes: dict[str, float] = defaultdict(float)
        failures: dict[str, float] = defaultdict(float)
        for change in changes(rounds):
            fade = self._discount ** (rounds[-1].number - change.round.number)
            gained = reward(change.effect)
            successes[change.after.key] += fade * gained
            failures[change.after.key] += fade * (1 - gained)
        return defaultdict(
            lambda: (1.0, 1.0),
            {key: (1 + successes[key], 1 + failures[key]) for key in successes | failures},
        )


def build(
    floor: float = 0.5,
    discount: float = 0.8,
    min_support: int = MIN_SUPPORT,
    curriculum: bool = False,
) -> Thompson:
    """Build the planner."""
    return Thompson(floor, discount, min_support, curriculum)
