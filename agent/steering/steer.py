"""Adjust plans to user preferences.

Let s be the share of a planner's images that match a preference, and k the strength of the
preference. The share becomes

    more      k max(s, 0.05), at most 0.9 and at least s
    fewer     s / k
    a share   s clipped to min_share..max_share

Images are taken from all other prompts (or, if the share falls, from the matching ones) in
proportion to their counts. They are replaced by prompts drawn from the attribute distribution,
class by class, so that a preference on brightness does not change the shares of the classes.
Preferences with a share are applied last, and avoid moving images that match another of them.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from agent.planners import (
    AttributeCombination,
    AttributeDistribution,
    PlanDraft,
    PromptDraft,
)
from agent.planners.slices import draw_prompts, shares_to_counts
from agent.steering.preferences import Addition, Preference, PreferenceEffect
from memory.records import Plan, PromptSpec
from prompts.render import quote
from prompts.vocabulary import Vocabulary

_LEAST, _MOST = 0.05, 0.9
# Deviation from a preferred share above which a preference counts as not followed.
_MISSED = 0.1


def steer(
    draft: PlanDraft,
    preferences: Sequence[Preference],
    distribution: AttributeDistribution,
    vocabulary: Vocabulary,
    images_per_prompt: int,
    seed: str,
) -> tuple[PlanDraft, tuple[PreferenceEffect, ...]]:
    """Adjust a planner's draft to preferences without changing its number of images.

    Args:
        draft: The planner's draft.
        preferences: Active preferences. Their constraints must be satisfiable, see `possible`.
        distribution: Attribute combinations that can be drawn.
        vocabulary: Vocabulary of the target.
        images_per_prompt: Maximum number of images per new prompt.
        seed: Seed for new prompts; equal arguments give equal drafts.

    Returns:
        The draft, and for each preference the share of images before and after.
    """
    followed = [p for p in preferences if p.attributes]
    if not followed or not draft.prompts:
        return draft, ()
    rows = _allowed_rows(distribution, followed, vocabulary)
    rng = random.Random(f"steer {seed}")
    steering = _Steering(followed, rows, vocabulary, images_per_prompt, rng)
    prompts = steering.without_broken(list(draft.prompts))
    bounded = [p for p in followed if p.has_share]
    # Preferences with a share interact, so they are applied three times if there are several.
    turns = bounded * (3 if len(bounded) > 1 else 1)
    for preference in (*(p for p in followed if p.factor is not None), *turns):
        prompts = steering.shifted(prompts, preference)
    effects = _effects(followed, draft.prompts, prompts, vocabulary)
    return draft.model_copy(update={"prompts": tuple(prompts)}), effects


@dataclass(frozen=True)
class _Steering:
    """Moves images between the prompts of one draft; rows: combinations allowed by constraints."""

    preferences: Sequence[Preference]
    rows: Sequence[AttributeCombination]
    vocabulary: Vocabulary
    images_per_prompt: int
    rng: random.Random

    def without_broken(self, prompts: list[PromptDraft]) -> list[PromptDraft]:
        """Replace the prompts that violate a constraint."""
        kept = [p for p in prompts if not breaks(p, self.preferences, self.vocabulary)]
        if len(kept) == len(prompts) or not self.rows:
            return prompts
        replaced = [p for p in prompts if breaks(p, self.preferences, self.vocabulary)]
        return kept + self._draw(self.rows, replaced, "instead of what the user does not want")

    def shifted(self, prompts: list[PromptDraft], preference: Preference) -> list[PromptDraft]:
        """Return prompts with the target share of a preference, as far as other ones allow."""
        matching = [p for p in prompts if preference.matches(p, self.vocabulary)]
        others = [p for p in prompts if not preference.matches(p, self.vocabulary)]
        n_matching, total = _n_images(matching), _n_images(prompts)
        n = round(_target_share(preference, n_matching / total) * total) - n_matching
        if n < 0:
            givers, takers = matching, others
            rows = [r for r in self.rows if not preference.matches(as_draft(r), self.vocabulary)]
        else:
            givers, takers = others, matching
            rows = [
                row
                for row in _variants(self.rows, preference, self.vocabulary)
                if not breaks(as_draft(row), self.preferences, self.vocabulary)
            ]
        spared = [
            p for p in self.preferences if p.has_share and p != preference and preference.has_share
        ]
        capped = [p for p in spared if p.max_share is not None]
        exact = [p for p in capped if p.min_share is not None]
        rows = [row for row in rows if not self._matches(as_draft(row), capped)] or rows
        free = [p for p in givers if not self._matches(p, exact)]
        if n > 0 or _n_images(free) >= -n:
            takers, givers = [*takers, *(p for p in givers if self._matches(p, exact))], free
        n = min(abs(n), _n_images(givers))
        if n <= 0 or not rows:
            return prompts
        left = scaled(givers, _n_images(givers) - n)
        return [*takers, *left, *self._draw(rows, _difference(givers, left), preference.say())]

    def _matches(self, prompt: PromptDraft, preferences: Sequence[Preference]) -> bool:
        return any(p.matches(prompt, self.vocabulary) for p in preferences)

    def _draw(
        self, rows: Sequence[AttributeCombination], replaced: Sequence[PromptDraft], why: str
    ) -> list[PromptDraft]:
        """Draw prompts with as many images of each class as are replaced.

        For a class without rows, all rows are used.
        """
        counts: Counter[str | None] = Counter()
        for prompt in replaced:
            counts[prompt.class_name] += prompt.count
        drawn = []
        for name, n in sorted(counts.items(), key=lambda item: str(item[0])):
            of_class = [row for row in rows if row.class_name == name] or list(rows)
            drawn += draw_prompts(
                of_class, n, self.images_per_prompt, self.vocabulary, self.rng, why
            )
        return drawn


def add(
    draft: PlanDraft, extra: Sequence[Addition], n_images: int, vocabulary: Vocabulary
) -> PlanDraft:
    """Add prompts to a draft, reducing its other counts so that the total is at most `n_images`."""
    if not extra:
        return draft
    prompts = [addition.prompt for addition in extra]
    left = max(0, n_images - _n_images(prompts))
    others = scaled(draft.prompts, min(left, _n_images(draft.prompts)))
    return draft.model_copy(update={"prompts": (*others, *prompts)})


def share(
    preference: Preference, prompts: Sequence[PromptDraft | PromptSpec], vocabulary: Vocabulary
) -> float:
    """Return the share of images that match a preference, 0..1; 0 without images."""
    total = _n_images(prompts)
    matching = _n_images([p for p in prompts if preference.matches(p, vocabulary)])
    return matching / total if total else 0.0


def broken(plan: Plan, preferences: Sequence[Preference], vocabulary: Vocabulary) -> list[str]:
    """Return the constraints that a plan violates, in words; empty if there are none."""
    problems = []
    for preference in preferences:
        wrong = [p for p in plan.prompts if breaks(p, [preference], vocabulary)]
        if wrong:
            n_more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            problems.append(
                f"the user said {preference.say()} ({preference.id}), which prompt "
                f"{quote(wrong[0].text, 80)}{n_more} breaks"
            )
    return problems


def ignored(
    plan: Plan, before: Plan | None, preferences: Sequence[Preference], vocabulary: Vocabulary
) -> list[str]:
    """Return the preferences that a plan does not follow, in words; before: the previous plan."""
    problems = []
    for preference in preferences:
        now = share(preference, plan.prompts, vocabulary)
        was = share(preference, before.prompts, vocabulary) if before else None
        missed = abs(_target_share(preference, now) - now)
        if preference.kind == "focus" and missed > 0:
            problem = f"gets only {now:.0%} of the images"
        elif preference.has_share and missed > _MISSED:
            problem = f"gets {now:.0%} of the images"
        elif was is not None and (
            (preference.kind == "more" and now <= was < _MOST)
            or (preference.kind == "fewer" and now >= was > 0)
        ):
            problem = f"is not followed: {was:.0%} before, {now:.0%} now"
        else:
            continue
        problems.append(f"{preference.id} ({preference.say()}) {problem}")
    return problems


def changes_of_share(
    plan: Plan, before: Plan | None, preferences: Sequence[Preference], vocabulary: Vocabulary
) -> tuple[PreferenceEffect, ...]:
    """Return the share of each preference in the previous plan and in a plan."""
    old = before.prompts if before else plan.prompts
    return _effects([p for p in preferences if p.attributes], old, plan.prompts, vocabulary)


def possible(
    preferences: Sequence[Preference], distribution: AttributeDistribution, vocabulary: Vocabulary
) -> bool:
    """Return whether any attribute combination satisfies all constraints."""
    return bool(_allowed_rows(distribution, preferences, vocabulary))


def drawable(
    preference: Preference,
    preferences: Sequence[Preference],
    distribution: AttributeDistribution,
    vocabulary: Vocabulary,
) -> bool:
    """Return whether any combination that matches a preference satisfies all constraints."""
    rows = _variants(_allowed_rows(distribution, preferences, vocabulary), preference, vocabulary)
    return any(not breaks(as_draft(row), preferences, vocabulary) for row in rows)


def breaks(
    prompt: PromptDraft | PromptSpec, preferences: Sequence[Preference], vocabulary: Vocabulary
) -> bool:
    """Return whether a prompt violates a constraint among the preferences."""
    return any(
        p.matches(prompt, vocabulary) == (p.max_share == 0) for p in preferences if p.is_constraint
    )


def as_draft(row: AttributeCombination) -> PromptDraft:
    """Return a prompt with the attributes and class of a row, and a count of 1."""
    return PromptDraft(class_name=row.class_name, attributes=row.attributes, count=1)


def scaled(prompts: Sequence[PromptDraft], total: int) -> list[PromptDraft]:
    """Scale the counts of prompts proportionally to add up to `total`; drop those that become 0."""
    if not prompts:
        return []
    counts = shares_to_counts([p.count for p in prompts], total)
    return [
        p.model_copy(update={"count": count})
        for p, count in zip(prompts, counts, strict=True)
        if count
    ]


def _allowed_rows(
    distribution: AttributeDistribution, preferences: Sequence[Preference], vocabulary: Vocabulary
) -> list[AttributeCombination]:
    """Return the combinations that satisfy all constraints.

    Combinations that no photograph has are added only if "only" would leave none.
    """
    rows = list(distribution.rows)
    for preference in preferences:
        if preference.kind == "only":
            rows = _variants(rows, preference, vocabulary)
    return [row for row in rows if not breaks(as_draft(row), preferences, vocabulary)]


def _variants(
    rows: Sequence[AttributeCombination], preference: Preference, vocabulary: Vocabulary
) -> list[AttributeCombination]:
    """Return the rows that match a preference or, if none does, all rows modified to match."""
    matching = [row for row in rows if preference.matches(as_draft(row), vocabulary)]
    return matching or [_changed(row, preference, vocabulary) for row in rows]


def _changed(
    row: AttributeCombination, preference: Preference, vocabulary: Vocabulary
) -> AttributeCombination:
    wanted = {
        key: row.attributes[key] if row.attributes.get(key) in values else values[0]
        for key, values in preference.attributes.items()
    }
    attributes = {**row.attributes, **wanted}
    for key, needs in vocabulary.requires.items():
        for other, allowed in needs.items():
            if key in attributes and attributes.get(other) not in allowed:
                if key in wanted and other not in wanted:
                    attributes[other] = allowed[0]
                else:
                    attributes.pop(key)
    class_name = vocabulary.class_name(attributes) or row.class_name
    return row.model_copy(update={"attributes": attributes, "class_name": class_name})


def _effects(
    preferences: Sequence[Preference],
    before: Sequence[PromptDraft | PromptSpec],
    after: Sequence[PromptDraft | PromptSpec],
    vocabulary: Vocabulary,
) -> tuple[PreferenceEffect, ...]:
    shares = [[share(p, prompts, vocabulary) for prompts in (before, after)] for p in preferences]
    return tuple(
        PreferenceEffect(preference=p.id, before=old, after=new)
        for p, (old, new) in zip(preferences, shares, strict=True)
    )


def _n_images(prompts: Sequence[PromptDraft | PromptSpec]) -> int:
    return sum(p.count for p in prompts)


def _target_share(preference: Preference, now: float) -> float:
    if preference.kind == "more":
        return max(now, min(_MOST, max(now, _LEAST) * preference.strength))
    if preference.kind == "fewer":
        return now / preference.strength
    low, high = preference.min_share, preference.max_share
    return min(max(now, low or 0.0), 1.0 if high is None else high)


def _difference(before: Sequence[PromptDraft], after: Sequence[PromptDraft]) -> list[PromptDraft]:
    """Return the number of images removed from each class, as prompts without text."""
    taken: Counter[str | None] = Counter()
    for prompt in before:
        taken[prompt.class_name] += prompt.count
    for prompt in after:
        taken[prompt.class_name] -= prompt.count
    return [PromptDraft(class_name=name, count=n) for name, n in taken.items() if n > 0]
