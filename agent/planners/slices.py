"""Building blocks of planners that allocate images to slices: statistics, shares and prompts."""

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

# A shrunk change of a slice of +0.1 has reward 1, one of -0.1 has reward 0.
FULL_CHANGE = 0.1
# Pseudo-counts that shrink kept-rates towards 8 of 10.
_PRIOR_KEPT, _PRIOR_MADE = 8, 10
# Expected change of the slice with the most images.
_LEAST_CHANGE = 0.01


def last_report(rounds: Sequence[Round]) -> Report | None:
    """Return the last report, or None."""
    return next((r.report for r in reversed(rounds) if r.report), None)


def supported_slices(
    report: Report | None, distribution: AttributeDistribution
) -> list[SliceScore]:
    """Return the slices of a report that the distribution supports; [] without a report."""
    slices = report.slices if report else ()
    return [score for score in slices if distribution.supports(score.attributes)]


def errors(slices: Sequence[SliceScore]) -> dict[str, float]:
    """Return the error, 1 - score, of every slice by its key."""
    return {score.key: 1 - score.accuracy.value for score in slices}


def kept_rates(rounds: Sequence[Round], slices: Sequence[SliceScore]) -> dict[str, float]:
    """Return the share of kept images of every slice by its key, shrunk towards 0.8."""
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
    """The change of one slice in a round that requested images of it."""

    round: Round
    before: SliceScore
    after: SliceScore
    effect: Effect

    @property
    def n_images(self) -> int:
        """Number of images of the slice that the round requested."""
        assert self.round.plan is not None  # `slice_changes` returns only rounds with a plan
        return images_of(self.round.plan, self.after)


def images_go(n: int) -> str:
    """Return the beginning of a plan's explanation, e.g. "13 images go"."""
    return "1 image goes" if n == 1 else f"{n} images go"


def slice_changes(rounds: Sequence[Round]) -> list[SliceChange]:
    """Return the changes of the slices that each round requested images of, oldest first."""
    changes = []
    for before, after in pairwise(rounds):
        if before.report and after.report and after.plan:
            effects = slice_effects(after.plan, before.report, after.report)
            earlier = {score.key: score for score in before.report.slices}
            changes += [
                SliceChange(after, earlier[score.key], score, effects[score.key])
                for score in after.report.slices
                if score.key in earlier and any(agrees(p, score) for p in after.plan.prompts)
            ]
    return changes


def reward(effect: Effect) -> float:
    """Map the shrunk effect on a slice's score to a reward in 0..1; no effect is 0.5."""
    return min(1.0, max(0.0, 0.5 + effect.shrunk / (2 * FULL_CHANGE)))


@dataclass
class PromptWriter:
    """Writes the prompts of one plan.

    Attributes:
        distribution: Attribute combinations that can be requested.
        vocabulary: Vocabulary of the target.
        images_per_prompt: Maximum number of images per prompt.
        rng: Random generator for combinations and words.
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
        """Return the writer of a round, seeded by the planner's name, the session and the round."""
        rng = random.Random(f"{name} {observation.seed} {observation.round}")
        return cls(distribution, vocabulary, observation.images_per_prompt, rng)

    def of_rows(
        self, rows: Sequence[AttributeCombination], n_images: int, why: str
    ) -> list[PromptDraft]:
        """Return prompts for combinations sampled by frequency."""
        per_prompt = self.images_per_prompt
        return draw_prompts(rows, n_images, per_prompt, self.vocabulary, self.rng, why)

    def of_slice(self, attributes: Mapping[str, str], n_images: int, why: str) -> list[PromptDraft]:
        """Return prompts for a slice: equal shares per class, other attributes by frequency."""
        matching = [self.distribution.matching(attributes, c) for c in self.vocabulary.classes]
        by_class = [rows for rows in matching if rows]
        # Start at a random class, so that remainders do not always go to the first class.
        first = self.rng.randrange(len(by_class))
        counts = shares_to_counts([1.0] * len(by_class), n_images)
        return [
            draft
            for rows, count in zip(by_class[first:] + by_class[:first], counts, strict=True)
            for draft in self.of_rows(rows, count, why)
        ]

    def of_shares(self, shares: Sequence[SliceShare], n_images: int) -> list[PromptDraft]:
        """Return prompts for shares of the images, each of which the distribution must contain."""
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
    """Return prompts of at most `images_per_prompt` images each, with rows sampled by frequency."""
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
    """Round shares to integers that add up to `total` (largest remainder method)."""
    scale = total / sum(shares)
    floors = [int(share * scale) for share in shares]
    order = sorted(range(len(shares)), key=lambda i: floors[i] - shares[i] * scale)
    for i in order[: total - sum(floors)]:
        floors[i] += 1
    return floors


@dataclass
class SlicePlanner:
    """Allocates images to the slices of a report.

    Attributes:
        name: Name of the planner.
        shares: Returns relative shares, at least 0, by slice key from the observation and the
            slices. None: `base` plans the round.
        base: Plans the floor, and the whole round if there is no report.
        floor: Share of the images, 0..1, that `base` plans.
        report: Returns the report whose slices are used.
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
        """Return the draft that allocates images by shares; equal shares if all are 0."""
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
