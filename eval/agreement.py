"""How alike two plans for the same round are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Mapping

from pydantic import Field

from memory.records import Plan, Record, Share

# Value of an attribute that a prompt does not name.
UNNAMED = "(any)"


class Agreement(Record):
    """Two plans compared: distances are total variations, 0 for the same mixture, 1 for disjoint.

    images: of the combinations of class and attributes; classes: of the classes; attributes: of
    the values of each.
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
        """The share of images that both plans ask for, 0..1."""
        return 1 - self.images


def agreement(one: Plan, other: Plan) -> Agreement:
    """Compare two plans of a round; an attribute that no prompt names is left out."""
    names = sorted({name for plan in (one, other) for p in plan.prompts for name in p.attributes})
    slices = [plan.hypothesis.slice if plan.hypothesis else None for plan in (one, other)]
    cells = [
        _mixture(plan, {p.id: (p.class_name, *sorted(p.attributes.items())) for p in plan.prompts})
        for plan in (one, other)
    ]
    classes = [_mixture(plan, {p.id: p.class_name for p in plan.prompts}) for plan in (one, other)]
    return Agreement(
        round=one.round,
        images=total_variation(*cells),
        classes=total_variation(*classes),
        attributes={
            name: total_variation(
                *(
                    _mixture(plan, {p.id: p.attributes.get(name, UNNAMED) for p in plan.prompts})
                    for plan in (one, other)
                )
            )
            for name in names
        },
        n_prompts=(len(one.prompts), len(other.prompts)),
        n_images=(one.n_images, other.n_images),
        same_slice=None if None in slices else slices[0] == slices[1],
    )


def total_variation(p: Mapping[Hashable, float], q: Mapping[Hashable, float]) -> float:
    """Return half the summed differences of two distributions, 0..1."""
    distance = sum(abs(p.get(key, 0.0) - q.get(key, 0.0)) for key in {**p, **q}) / 2
    return min(1.0, max(0.0, distance))


def _mixture(plan: Plan, names: Mapping[str, Hashable]) -> dict[Hashable, float]:
    """Return the share of a plan's images by the name of their prompt."""
    counts: Counter[Hashable] = Counter()
    for prompt in plan.prompts:
        counts[names[prompt.id]] += prompt.count
    return {name: n / plan.n_images for name, n in counts.items()}
