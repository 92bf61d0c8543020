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
from collections.abc import Mapping
from itertools import pairwise

from agent.planners import (
    Observation,
    Palette,
    PlanDraft,
    PromptDraft,
    draw_prompts,
    shares_to_counts,
)
from agent.planners.uniform import Uniform
from eval.credit import agrees, shrunk_change
from memory.records import Hypothesis, Report, Round, SliceScore
from prompts.vocabulary import Vocabulary

# A shrunk change of +0.1 in a slice counts as a full success, -0.1 as a full failure.
_FULL_CHANGE = 0.1


class Thompson:
    """The planner `thompson`; floor: share of uniform prompts; discount: memory of rewards."""

    name = "thompson"

    def __init__(self, floor: float, discount: float, min_support: int) -> None:
        self._floor = floor
        self._discount = discount
        self._min_support = min_support

    def plan(self, observation: Observation, palette: Palette, vocabulary: Vocabulary) -> PlanDraft:
        """Return the draft of a round; uniform while there is no report yet."""
        report = _last_report(observation.rounds)
        arms = self._arms(report, palette) if report else []
        if not arms:
            draft = Uniform().plan(observation, palette, vocabulary)
            return draft.model_copy(update={"why": "No feedback yet: equal shares."})
        rng = random.Random(f"thompson {observation.seed} {observation.round}")
        n_floor = round(self._floor * observation.n_images)
        prompts: list[PromptDraft] = []
        if n_floor:
            fewer = observation.model_copy(update={"n_images": n_floor})
            prompts += Uniform().plan(fewer, palette, vocabulary).prompts

        beliefs = self._beliefs(observation.rounds)
        kept = _kept_rates(observation.rounds, arms)
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
                prompts += self._prompts(arm, spent[arm.key], observation, palette, vocabulary, rng)
        favourite, n_favourite = spent.most_common(1)[0] if spent else (arms[0].key, 0)
        a, b = beliefs[favourite]
        expected = max(0.01, (a / (a + b) - 0.5) * 2 * _FULL_CHANGE)
        return PlanDraft(
            prompts=tuple(prompts),
            hypothesis=Hypothesis(slice=favourite, expected_change=round(expected, 4)),
            why=f"{n_favourite} images go to '{favourite}', {n_floor} stay uniform.",
        )

    def _arms(self, report: Report, palette: Palette) -> list[SliceScore]:
        """Return the slices that the palette can supply."""

        def support(attributes: Mapping[str, str]) -> int:
            return sum(
                row.n
                for row in palette.rows
                if all(row.attributes.get(k) == v for k, v in attributes.items())
            )

        return [s for s in report.slices if support(s.attributes) >= self._min_support]

    def _beliefs(self, rounds: tuple[Round, ...]) -> dict[str, tuple[float, float]]:
        """Fold the history into Beta parameters per slice; one prior success and failure."""
        successes: dict[str, float] = defaultdict(float)
        failures: dict[str, float] = defaultdict(float)
        for before, after in pairwise(rounds):
            if not (before.report and after.report and after.plan):
                continue
            for key in successes | failures:
                successes[key] *= self._discount
                failures[key] *= self._discount
            earlier = {s.key: s for s in before.report.slices}
            for score in after.report.slices:
                used = any(agrees(prompt, score) for prompt in after.plan.prompts)
                if used and score.key in earlier:
                    reward = _reward(earlier[score.key], score)
                    successes[score.key] += reward
                    failures[score.key] += 1 - reward
        return defaultdict(
            lambda: (1.0, 1.0),
            {key: (1 + successes[key], 1 + failures[key]) for key in successes | failures},
        )

    def _prompts(
        self,
        arm: SliceScore,
        n_images: int,
        observation: Observation,
        palette: Palette,
        vocabulary: Vocabulary,
        rng: random.Random,
    ) -> list[PromptDraft]:
        """Prompts for a slice, its classes in equal shares."""
        by_class = {
            name: rows
            for name in vocabulary.classes
            if (rows := palette.matching(arm.attributes, name))
        }
        counts = shares_to_counts([1.0] * len(by_class), n_images)
        size = observation.images_per_prompt
        why = f"accuracy {arm.accuracy.value:.2f} on {arm.key}"
        return [
            draft
            for rows, count in zip(by_class.values(), counts, strict=True)
            for draft in draw_prompts(rows, count, size, vocabulary, rng, why)
        ]


def _last_report(rounds: tuple[Round, ...]) -> Report | None:
    return next((r.report for r in reversed(rounds) if r.report), None)


def _reward(before: SliceScore, after: SliceScore) -> float:
    """Map the shrunk change of a slice's accuracy to 0..1; no change is 0.5."""
    return min(1.0, max(0.0, 0.5 + shrunk_change(before, after) / (2 * _FULL_CHANGE)))


def _kept_rates(rounds: tuple[Round, ...], arms: list[SliceScore]) -> dict[str, float]:
    """Return the share of kept images per slice, drawn towards 0.8 where few were made."""
    made: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for past in rounds:
        if past.plan and past.batch:
            prompts = {p.id: p for p in past.plan.prompts}
            for quality in past.batch.quality:
                for arm in arms:
                    if agrees(prompts[quality.prompt_id], arm):
                        made[arm.key] += quality.n_made
                        kept[arm.key] += quality.n_kept
    return {arm.key: (kept[arm.key] + 8) / (made[arm.key] + 10) for arm in arms}


def build(floor: float = 0.5, discount: float = 0.8, min_support: int = 10) -> Thompson:
    """Build the planner."""
    return Thompson(floor, discount, min_support)
