"""Planners that give slices shares of the images: their state, their shares, their prompts."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple, Self

from agent.planners import (
    AttributeCombination,
    AttributeDistribution,
    Observation,
    PlanDraft,
    Planner,
    PromptDraft,
    SliceShare,
)
from eval.effects import Effect, agrees, images_of, slice_effects
from memory.records import Hypothesis, Report, Round, SliceScore, slice_key
from prompts.vocabulary import Vocabulary

Shares = Callable[[Observation, Sequence[SliceScore]], Mapping[str, float] | None]

# A shrunk change of +0.1 in a slice counts as a full success, -0.1 as a full failure.
FULL_CHANGE = 0.1
# The share of kept images is drawn towards 8 of 10 where few were made.
_PRIOR_KEPT, _PRIOR_MADE = 8, 10
# What a plan expects at least of the slice that it favours.
_LEAST_CHANGE = 0.01


def last_report(rounds: Sequence[Round]) -> Report | None:
    """Return the newest report, if there is one."""
    return next((r.report for r in reversed(rounds) if r.report), None)


def supported_slices(
    report: Report | None, distribution: AttributeDistribution
) -> list[SliceScore]:
    """Return the slices of a report that the distribution can supply; none without a report."""
    slices = report.slices if report else ()
    return [score for score in slices if distribution.supports(score.attributes)]


def errors(slices: Sequence[SliceScore]) -> dict[str, float]:
    """Return what is left to gain on every slice, 1 - its score, by its key."""
    return {score.key: 1 - score.accuracy.value for score in slices}


def kept_rates(rounds: Sequence[Round], slices: Sequence[SliceScore]) -> dict[str, float]:
    """Return the share of kept images per slice, drawn towards 0.8 where few were made."""
    made: Counter[str] = Counter()
    kept: Counter[str] = Counter()
    for past in rounds:
        if past.plan and past.batch:
            prompts = {p.id: p for p in past.plan.prompts}
            for quality in past.batch.quality:
                for score in slices:
                    if agrees(prompts[quality.prompt_id], score):
                        made[score.key] += quality.n_made
                        kept[score.key] += quality.n_kept
    return {s.key: (kept[s.key] + _PRIOR_KEPT) / (made[s.key] + _PRIOR_MADE) for s in slices}


class SliceChange(NamedTuple):
    """What a round did to one slice that it asked for."""

    round: Round
    before: SliceScore
    after: SliceScore
    effect: Effect

    @property
    def n_images(self) -> int:
        """Images that the round asked for of the slice."""
        assert self.round.plan is not None  # `slice_changes` names rounds with a plan only
        return images_of(self.round.plan, self.after)


def images_go(n: int) -> str:
    """Return the beginning of a plan's reason, e.g. "13 images go"."""
    return "1 image goes" if n == 1 else f"{n} images go"


def slice_changes(rounds: Sequence[Round]) -> list[SliceChange]:
    """Return the changes of every slice that a round asked for, oldest first."""
    found = []
    for before, after in pairwise(rounds):
        if before.report and after.report and after.plan:
            effects = slice_effects(after.plan, before.report, after.report)
            earlier = {score.key: score for score in before.report.slices}
            found += [
                SliceChange(after, earlier[score.key], score, effects[score.key])
                for score in after.report.slices
                if score.key in earlier and any(agrees(p, score) for p in after.plan.prompts)
            ]
    return found


def reward(effect: Effect) -> float:
    """Map the shrunk effect on a slice's score to 0..1; none is 0.5."""
    return min(1.0, max(0.0, 0.5 + effect.shrunk / (2 * FULL_CHANGE)))


@dataclass
class PromptWriter:
    """Writes the prompts of one plan.

    Attributes:
        distribution: Combinations of attributes that can be asked for.
        vocabulary: Words of the target.
        images_per_prompt: The most images of a prompt.
        rng: Draws combinations and words.
    """

    distribution: AttributeDistribution
    vocabulary: Vocabulary
    images_per_prompt: int
    rng: random.Random

    @classmethod
    def of(
        cls,
        name: str,
        observation: Observation,
        distribution: AttributeDistribution,
        vocabulary: Vocabulary,
    ) -> Self:
        """Return the writer of a planner, by its name, for a round."""
        rng = random.Random(f"{name} {observation.seed} {observation.round}")
        return cls(distribution, vocabulary, observation.images_per_prompt, rng)

    def of_rows(
        self, rows: Sequence[AttributeCombination], n_images: int, why: str
    ) -> list[PromptDraft]:
        """Return prompts for combinations, drawn by frequency."""
        per_prompt = self.images_per_prompt
        return draw_prompts(rows, n_images, per_prompt, self.vocabulary, self.rng, why)

    def of_slice(self, attributes: Mapping[str, str], n_images: int, why: str) -> list[PromptDraft]:
        """Return prompts for a slice, its classes in equal shares, the rest as often as is real."""
        matching = [self.distribution.matching(attributes, c) for c in self.vocabulary.classes]
        by_class = [rows for rows in matching if rows]
        # From a place drawn at random, so that single images do not always go to the first class.
        first = self.rng.randrange(len(by_class))
        counts = shares_to_counts([1.0] * len(by_class), n_images)
        return [
            draft
            for rows, count in zip(by_class[first:] + by_class[:first], counts, strict=True)
            for draft in self.of_rows(rows, count, why)
        ]

    def of_shares(self, shares: Sequence[SliceShare], n_images: int) -> list[PromptDraft]:
        """Return prompts for shares of the images; the distribution has some of each."""
        counts = shares_to_counts([one.share for one in shares], n_images)
        return [
            draft
            for one, count in zip(shares, counts, strict=True)
            for draft in self.of_slice(
                one.where, count, f"{one.share:.0%} {slice_key(one.where)}".strip()
            )
        ]


def draw_prompts(
    rows: Sequence[AttributeCombination],
    n_images: int,
    images_per_prompt: int,
    vocabulary: Vocabulary,
    rng: random.Random,
    why: str,
) -> list[PromptDraft]:
    """Say `n_images` images as prompts of at most `images_per_prompt`, rows drawn by frequency."""
    drafts = []
    weights = [r.n for r in rows] if any(r.n for r in rows) else None
    while n_images > 0:
        count = min(images_per_prompt, n_images)
        row = rng.choices(rows, weights=weights)[0]
        drafts.append(
            PromptDraft(
                text=vocabulary.caption(row.attributes, rng),
                class_name=row.class_name,
                attributes=row.attributes,
                count=count,
                why=why,
            )
        )
        n_images -= count
    return drafts


def shares_to_counts(shares: Sequence[float], total: int) -> list[int]:
    """Round shares to whole numbers that add up to `total` (largest remainder)."""
    scale = total / sum(shares)
    floors = [int(share * scale) for share in shares]
    order = sorted(range(len(shares)), key=lambda i: floors[i] - shares[i] * scale)
    for i in order[: total - sum(floors)]:
        floors[i] += 1
    return floors


@dataclass
class SlicePlanner:
    """Gives the slices of a report their shares of the images.

    Attributes:
        name: Name of the planner.
        shares: Maps what is known and the slices to shares, at least 0, by the slice's key. None:
            nothing is known of the slices yet.
        base: Plans the floor, and everything while there is no report.
        floor: Share of the images, 0..1, that `base` plans.
        report: Returns the report whose slices count.
    """

    name: str
    shares: Shares
    base: Planner
    floor: float = 0.0
    report: Callable[[Sequence[Round]], Report | None] = last_report

    def plan(
        self, observation: Observation, distribution: AttributeDistribution, vocabulary: Vocabulary
    ) -> PlanDraft:
        """Return the draft of a round."""
        slices = supported_slices(self.report(observation.rounds), distribution)
        shares = self.shares(observation, slices) if slices else None
        if shares is None:
            return self.base.plan(observation, distribution, vocabulary)
        return self.allocate(shares, slices, observation, distribution, vocabulary)

    def allocate(
        self,
        shares: Mapping[str, float],
        slices: Sequence[SliceScore],
        observation: Observation,
        distribution: AttributeDistribution,
        vocabulary: Vocabulary,
    ) -> PlanDraft:
        """Return the plan that gives slices their shares of the images; equal ones if all are 0."""
        writer = PromptWriter.of(self.name, observation, distribution, vocabulary)
        n_floor = round(self.floor * observation.n_images)
        prompts: list[PromptDraft] = []
        if n_floor:
            fewer = observation.model_copy(update={"n_images": n_floor})
            prompts += self.base.plan(fewer, distribution, vocabulary).prompts
        weights = [shares[score.key] for score in slices]
        if not sum(weights) > 0:
            weights = [1.0] * len(slices)
        counts = shares_to_counts(weights, observation.n_images - n_floor)
        for score, count in zip(slices, counts, strict=True):
            why = f"score {score.accuracy.value:.2f} on {score.key}"
            prompts += writer.of_slice(score.attributes, count, why)
        favourite, n_favourite = max(zip(slices, counts, strict=True), key=lambda pair: pair[1])
        parts = [f"{images_go(n_favourite)} to '{favourite.key}'"]
        if n_others := sum(counts) - n_favourite:
            parts.append(f"{n_others} to other slices")
        if n_floor:
            parts.append(f"{n_floor} are spread evenly")
        return PlanDraft(
            prompts=tuple(prompts),
            hypothesis=Hypothesis(slice=favourite.key, expected_change=_LEAST_CHANGE),
            why=f"{', '.join(parts)}.",
        )
