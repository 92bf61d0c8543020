"""Similarity of two plans for the same round."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Hashable, Mapping

from pydantic import Field

from memory.records import Plan, PromptSpec, Record, Share

# Stands for the value of an attribute that a prompt does not name.
UNNAMED = "(any)"


class Agreement(Record):
    """Two plans compared by total variation: 0 for the same mixture of images, 1 for disjoint ones.

    Attributes:
        round: number of the round of both plans.
        images: distance over combinations of class and attributes.
        classes: distance over classes.
        attributes: distance over the values of each attribute, by attribute.
        n_prompts: number of prompts of each plan.
        n_images: number of images of each plan.
        same_slice: whether their hypotheses name the same slice.
    """

    round: int = Field(ge=1)
    images: Share
    classes: Share
    attributes: dict[str, Share]
    n_prompts: tuple[int, int]
    n_images: tuple[int, int]
    same_slice: bool | None = Field(description="of the hypotheses; None where one states none")

    @property
    def overlap(self) -> float:
        """The share of images that both plans request, 0..1."""
        return 1 - self.images


def agreement(one: Plan, other: Plan) -> Agreement:
    """Return the agreement of two plans of a round; attributes that no prompt names are omitted."""
    plans = (one, other)
    names = sorted({name for plan in plans for p in plan.prompts for name in p.attributes})
    slices = [plan.hypothesis.slice if plan.hypothesis else None for plan in plans]

    def distance(cell: Callable[[PromptSpec], Hashable]) -> float:
        return total_variation(*(_mixture(plan, cell) for plan in plans))

    def value_of(name: str) -> Callable[[PromptSpec], str]:
        return lambda prompt: prompt.attributes.get(name, UNNAMED)

    return Agreement(
        round=one.round,
        images=distance(lambda p: (p.class_name, *sorted(p.attributes.items()))),
        classes=distance(lambda p: p.class_name),
        attributes={name: distance(value_of(name)) for name in names},
        n_prompts=(len(one.prompts), len(other.prompts)),
        n_images=(one.n_images, other.n_images),
        same_slice=None if None in slices else slices[0] == slices[1],
    )


def total_variation(p: Mapping[Hashable, float], q: Mapping[Hashable, float]) -> float:
    """Return the total variation distance, 0..1, of two distributions given as shares by key."""
    distance = sum(abs(p.get(key, 0.0) - q.get(key, 0.0)) for key in {**p, **q}) / 2
    return min(1.0, max(0.0, distance))


def _mixture(plan: Plan, cell: Callable[[PromptSpec], Hashable]) -> dict[Hashable, float]:
    """Return the shares of a plan's images by the cell that their prompt belongs to."""
    counts: Counter[Hashable] = Counter()
    for prompt in plan.prompts:
        counts[cell(prompt)] += prompt.count
    return {key: n / plan.n_images for key, n in counts.items()}
