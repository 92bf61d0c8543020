"""Steering: what a person wishes of the next plans, and how every plan comes to obey it.

A wish names values of attributes and a kind. `only` and `avoid` are constraints: a plan that breaks
one is changed or refused. The others are preferences: they shift images between prompts. With s the
share of a planner's images that a wish names, k its strength and p the share that it asks for, the
share becomes

    more      max(k s, k / 20), at most 0.9
    fewer     s / k
    focus     at least 0.5
    share     p
    at_least  max(s, p)
    at_most   min(s, p)

The images that move are taken from all other prompts in proportion to their counts, and go to
prompts drawn from the palette, class by class, so a wish on brightness leaves the shares of the
classes as they are. Wishes with a share come last, and spare what the others of them name. `note`
is a wish in words that only a language model can follow.

Wishes are events of the journal: `wish`, `forget` and, once per round, `steered`.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Literal

from pydantic import Field

from agent.planners import (
    AttributeCombination,
    AttributeDistribution,
    PlanDraft,
    PromptDraft,
    draw_prompts,
    shares_to_counts,
)
from eval.report.text import estimate_text, number
from memory.journal import Event
from memory.records import Estimate, Plan, PromptSpec, Record, Round, Share, slice_key
from prompts.render import quote
from prompts.vocabulary import Vocabulary

Kind = Literal["more", "fewer", "only", "avoid", "focus", "share", "at_least", "at_most", "note"]

CONSTRAINTS = ("only", "avoid")
SHARES = ("share", "at_least", "at_most")
# Kinds of events that say what is wished and what came of it.
STEERING = ("wish", "forget", "addition", "steered")
# What a wish asks for without "much" or "a bit".
STRENGTH = 2.0
_LEAST, _MOST, _FOCUS = 0.05, 0.9, 0.5
_SAID = {
    "more": "more of",
    "fewer": "fewer of",
    "only": "only",
    "avoid": "avoid",
    "focus": "focus on",
    "share": "of all images",
    "at_least": "of all images at least",
    "at_most": "of all images at most",
}
# By how much a plan may miss a share that is wished before it counts as not followed.
_MISSED = 0.1


class Wish(Record):
    """What a person wants of every plan from round `since` on.

    attributes: values by attribute; a prompt is meant if it has one of the values of each. share:
    of the images, of the kinds that ask for one. text: as it was said.
    """

    id: str
    kind: Kind
    attributes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    strength: float = Field(STRENGTH, ge=1, le=10)
    share: Share | None = None
    text: str = Field("", max_length=300)
    since: int = Field(ge=1)

    @property
    def name(self) -> str:
        """What it is about, as slices are named."""
        return slice_name(self.attributes) if self.attributes else quote(self.text, 80)

    def say(self) -> str:
        """Say the wish in a few words."""
        if self.kind == "note":
            return quote(self.text, 200)
        if self.kind in SHARES:
            return f"{_SAID[self.kind]} {self.share or 0:.0%} {self.name}"
        times = f" (x{self.strength:.3g})" if self.kind in ("more", "fewer") else ""
        return f"{_SAID[self.kind]} {self.name}{times}"

    def means(self, prompt: PromptDraft | PromptSpec, vocabulary: Vocabulary) -> bool:
        """Tell whether a prompt is one of those that the wish is about."""
        said = prompt.attributes
        if not self.attributes.keys() <= said.keys():
            said = {**vocabulary.parse(prompt.text), **said}
        return all(
            said[key] in values if key in said else _by_class(prompt, key, values, vocabulary)
            for key, values in self.attributes.items()
        )


class Addition(Record):
    """A prompt that a person adds to the next plan."""

    id: str
    prompt: PromptDraft


class Shift(Record):
    """The share of a plan's images that a wish is about, before and after steering."""

    wish: str
    before: Share
    after: Share


class Effect(Record):
    """What became of a wish: shares of the first and the last plan, the slice before and after."""

    wish: Wish
    rounds: int = Field(ge=1, description="plans since then")
    before: Share
    after: Share
    score_before: Estimate | None
    score_after: Estimate | None

    def say(self) -> str:
        """Say it in a line."""
        line = f"{self.wish.id} {self.wish.say()}: {self.before:.0%} -> {self.after:.0%} of images"
        if self.score_before and self.score_after:
            old, new = self.score_before, self.score_after
            line += f"; accuracy {number(old.value)} -> {estimate_text(new)}"
        elif self.wish.kind != "avoid":
            line += "; its slice is not measured" if self.score_after is None else ""
        return line


def slice_name(attributes: Mapping[str, Sequence[str]]) -> str:
    """Return values by attribute as slices are named, several values joined by "|"."""
    return slice_key({key: "|".join(values) for key, values in attributes.items()})


def wishes(events: Iterable[Event]) -> list[Wish]:
    """Return the wishes that hold, the oldest first."""
    found: dict[str, Wish] = {}
    for event in events:
        if event["kind"] == "wish":
            wish = Wish.model_validate(event["wish"])
            found[wish.id] = wish
        elif event["kind"] == "forget":
            found.pop(event["id"], None)
    return list(found.values())


def ever_wished(events: Iterable[Event]) -> list[Wish]:
    """Return all wishes, those that were taken back too, the oldest first."""
    return [Wish.model_validate(event["wish"]) for event in events if event["kind"] == "wish"]


def additions(events: Iterable[Event]) -> list[Addition]:
    """Return the additions that no plan has taken up yet."""
    found: dict[str, Addition] = {}
    for event in events:
        if event["kind"] == "addition":
            addition = Addition.model_validate(event["addition"])
            found[addition.id] = addition
        elif event["kind"] == "forget":
            found.pop(event["id"], None)
        elif event["kind"] == "steered":
            for name in event["additions"]:
                found.pop(name, None)
    return list(found.values())


def steer(
    draft: PlanDraft,
    wanted: Sequence[Wish],
    palette: AttributeDistribution,
    vocabulary: Vocabulary,
    images_per_prompt: int,
    seed: str,
) -> tuple[PlanDraft, tuple[Shift, ...]]:
    """Return a planner's draft as the wishes want it, with as many images, and what they moved.

    The same arguments give the same draft. `wanted` must leave something to draw, see `possible`.
    """
    said = [wish for wish in wanted if wish.kind != "note"]
    if not said or not draft.prompts:
        return draft, ()
    rng = random.Random(f"steer {seed}")
    rows = _allowed_rows(palette, said, vocabulary)
    prompts = list(draft.prompts)
    before = {wish.id: share(wish, prompts, vocabulary) for wish in said}

    broken = [p for p in prompts if breaks(p, said, vocabulary)]
    if broken and rows:
        why = "instead of what the user does not want"
        kept = [p for p in prompts if not breaks(p, said, vocabulary)]
        prompts = kept + _draw(rows, broken, images_per_prompt, vocabulary, rng, why)
    shares = [wish for wish in said if wish.kind in SHARES]
    # A wish with a share may move what another one counts, so these have a second and third turn.
    turns = shares * (3 if len(shares) > 1 else 1)
    for wish in (*(w for w in said if w.kind not in (*CONSTRAINTS, *SHARES)), *turns):
        spared = [other for other in shares if other is not wish] if wish in shares else []
        prompts = _shift(prompts, wish, rows, said, spared, vocabulary, images_per_prompt, rng)
    shifts = tuple(
        Shift(wish=wish.id, before=before[wish.id], after=share(wish, prompts, vocabulary))
        for wish in said
    )
    steered = draft.model_copy(update={"prompts": tuple(prompts)})
    return steered, shifts


def add(
    draft: PlanDraft, extra: Sequence[Addition], n_images: int, vocabulary: Vocabulary
) -> PlanDraft:
    """Return a draft with additions, its other counts lowered so that `n_images` are kept."""
    if not extra:
        return draft
    prompts = [addition.prompt for addition in extra]
    left = max(0, n_images - sum(p.count for p in prompts))
    total = sum(p.count for p in draft.prompts)
    others = scaled(draft.prompts, min(left, total))
    return draft.model_copy(update={"prompts": (*others, *prompts)})


def share(wish: Wish, prompts: Sequence[PromptDraft | PromptSpec], vocabulary: Vocabulary) -> float:
    """Return the share of images that a wish is about; 0 without images."""
    total = sum(p.count for p in prompts)
    meant = sum(p.count for p in prompts if wish.means(p, vocabulary))
    return meant / total if total else 0.0


def broken(plan: Plan, wanted: Sequence[Wish], vocabulary: Vocabulary) -> list[str]:
    """Return how a plan breaks constraints; an empty list if it keeps them."""
    problems = []
    for wish in wanted:
        wrong = [p for p in plan.prompts if breaks(p, [wish], vocabulary)]
        if wrong:
            n_more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
            problems.append(
                f"the user said {wish.say()} ({wish.id}), which prompt {quote(wrong[0].text, 80)}"
                f"{n_more} breaks"
            )
    return problems


def ignored(
    plan: Plan, before: Plan | None, wanted: Sequence[Wish], vocabulary: Vocabulary
) -> list[str]:
    """Return which preferences a plan does not follow, measured against the plan before it."""
    found = []
    for wish in wanted:
        now = share(wish, plan.prompts, vocabulary)
        was = share(wish, before.prompts, vocabulary) if before else None
        if wish.kind == "focus" and now < _FOCUS:
            found.append(f"{wish.id} ({wish.say()}) gets only {now:.0%} of the images")
        elif abs(_target_share(wish, now) - now) > _MISSED and wish.kind in SHARES:
            found.append(f"{wish.id} ({wish.say()}) gets {now:.0%} of the images")
        elif was is not None and (
            (wish.kind == "more" and now <= was < _MOST)
            or (wish.kind == "fewer" and now >= was > 0)
        ):
            found.append(
                f"{wish.id} ({wish.say()}) is not followed: {was:.0%} before, {now:.0%} now"
            )
    return found


def compare(
    plan: Plan, before: Plan | None, wanted: Sequence[Wish], vocabulary: Vocabulary
) -> tuple[Shift, ...]:
    """Return how the shares of wishes changed from the plan of one round to that of the next."""
    old = before.prompts if before else plan.prompts
    return tuple(
        Shift(
            wish=wish.id,
            before=share(wish, old, vocabulary),
            after=share(wish, plan.prompts, vocabulary),
        )
        for wish in wanted
        if wish.kind != "note"
    )


def say_wishes(wanted: Sequence[Wish]) -> list[str]:
    """Say wishes for a language model: preferences together, constraints together, notes apart."""
    said = [f"from now on: {wish.text}" for wish in wanted if wish.kind == "note"]
    for head, is_constraint in (("prefer in every plan", False), ("every plan must", True)):
        own = [
            wish.say()
            for wish in wanted
            if wish.kind != "note" and (wish.kind in CONSTRAINTS) == is_constraint
        ]
        if own:
            said.append(f"{head}: {'; '.join(own)}")
    return said


def say_effects(
    wanted: Sequence[Wish], events: Sequence[Event], past: Sequence[Round]
) -> list[str]:
    """Say what became of the wishes so far, in one text or none."""
    found = effects(wanted, events, past)
    return [f"so far: {'; '.join(effect.say() for effect in found)}"] if found else []


def possible(
    wanted: Sequence[Wish], palette: AttributeDistribution, vocabulary: Vocabulary
) -> bool:
    """Tell whether the constraints together leave anything to draw."""
    return bool(_allowed_rows(palette, wanted, vocabulary))


def drawable(
    wish: Wish, wanted: Sequence[Wish], palette: AttributeDistribution, vocabulary: Vocabulary
) -> bool:
    """Tell whether constraints leave anything to draw of what a wish means."""
    rows = _variants(_allowed_rows(palette, wanted, vocabulary), wish, vocabulary)
    return any(not breaks(as_draft(row), wanted, vocabulary) for row in rows)


def effects(wanted: Sequence[Wish], events: Sequence[Event], past: Sequence[Round]) -> list[Effect]:
    """Return what became of each wish that has been in a plan whose round was measured."""
    reports = {r.number: r.report for r in past if r.report}
    found = []
    for wish in wanted:
        moved = [
            (event["round"], Shift.model_validate(shift))
            for event in events
            if event["kind"] == "steered" and event["round"] in reports
            for shift in event["shifts"]
            if shift["wish"] == wish.id
        ]
        if not moved:
            continue
        first, last = moved[0], moved[-1]
        earlier = [number for number in reports if number < first[0]]

        def score(number: int, wish: Wish = wish) -> Estimate | None:
            report = reports[number]
            assert report is not None
            return next((s.accuracy for s in report.slices if s.key == wish.name), None)

        found.append(
            Effect(
                wish=wish,
                rounds=len(moved),
                before=first[1].before,
                after=last[1].after,
                score_before=score(max(earlier)) if earlier else None,
                score_after=score(max(reports)),
            )
        )
    return found


def _by_class(
    prompt: PromptDraft | PromptSpec, key: str, values: Sequence[str], vocabulary: Vocabulary
) -> bool:
    """Tell whether a prompt that names no value of the class attribute is meant by its class."""
    meant = {vocabulary.class_of[value] for value in values if value in vocabulary.class_of}
    return key == vocabulary.class_attribute and prompt.class_name in meant


def breaks(
    prompt: PromptDraft | PromptSpec, wanted: Sequence[Wish], vocabulary: Vocabulary
) -> bool:
    """Tell whether a prompt breaks a constraint among the wishes."""
    return any(
        wish.means(prompt, vocabulary) == (wish.kind == "avoid")
        for wish in wanted
        if wish.kind in CONSTRAINTS
    )


def _allowed_rows(
    palette: AttributeDistribution, wanted: Sequence[Wish], vocabulary: Vocabulary
) -> list[AttributeCombination]:
    """Return what may be drawn; combinations that no photograph has only where nothing else is."""
    rows = list(palette.rows)
    for wish in wanted:
        if wish.kind == "only":
            rows = _variants(rows, wish, vocabulary)
    return [row for row in rows if not breaks(as_draft(row), wanted, vocabulary)]


def as_draft(row: AttributeCombination) -> PromptDraft:
    """Return a prompt for what a row of a palette shows."""
    return PromptDraft(class_name=row.class_name, attributes=row.attributes, count=1)


def _variants(
    rows: Sequence[AttributeCombination], wish: Wish, vocabulary: Vocabulary
) -> list[AttributeCombination]:
    """Return the rows that a wish means or, if there are none, all rows changed to be so."""
    meant = [row for row in rows if wish.means(as_draft(row), vocabulary)]
    return meant or [_changed(row, wish, vocabulary) for row in rows]


def _changed(row: AttributeCombination, wish: Wish, vocabulary: Vocabulary) -> AttributeCombination:
    wanted = {
        key: row.attributes[key] if row.attributes.get(key) in values else values[0]
        for key, values in wish.attributes.items()
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


def _shift(
    prompts: list[PromptDraft],
    wish: Wish,
    rows: Sequence[AttributeCombination],
    wanted: Sequence[Wish],
    spared: Sequence[Wish],
    vocabulary: Vocabulary,
    images_per_prompt: int,
    rng: random.Random,
) -> list[PromptDraft]:
    """Return prompts with the share that a wish wants, as far as `spared` wishes leave images."""

    def is_of(prompt: PromptDraft, *kinds: Kind) -> bool:
        return any(w.kind in kinds and w.means(prompt, vocabulary) for w in spared)

    meant = [p for p in prompts if wish.means(p, vocabulary)]
    others = [p for p in prompts if not wish.means(p, vocabulary)]
    n_meant, total = _n_images(meant), _n_images(prompts)
    n = round(_target_share(wish, n_meant / total) * total) - n_meant
    if n < 0:
        givers, takers = meant, others
        pool = [row for row in rows if not wish.means(as_draft(row), vocabulary)]
    else:
        givers, takers = others, meant
        pool = [
            row
            for row in _variants(rows, wish, vocabulary)
            if not breaks(as_draft(row), wanted, vocabulary)
        ]
    pool = [row for row in pool if not is_of(as_draft(row), "share", "at_most")] or pool
    free = [p for p in givers if not is_of(p, "share")]
    if n > 0 or _n_images(free) >= -n:
        takers, givers = [*takers, *(p for p in givers if is_of(p, "share"))], free
    n = min(abs(n), _n_images(givers))
    if n <= 0 or not pool:
        return prompts
    left = scaled(givers, _n_images(givers) - n)
    taken = _difference(givers, left)
    drawn = _draw(pool, taken, images_per_prompt, vocabulary, rng, wish.say())
    return [*takers, *left, *drawn]


def _n_images(prompts: Sequence[PromptDraft]) -> int:
    return sum(p.count for p in prompts)


def _target_share(wish: Wish, now: float) -> float:
    if wish.kind == "more":
        return max(now, min(_MOST, max(now, _LEAST) * wish.strength))
    if wish.kind in SHARES and wish.share is not None:
        most = max(now, wish.share) if wish.kind == "at_least" else wish.share
        return min(now, wish.share) if wish.kind == "at_most" else most
    return max(now, _FOCUS) if wish.kind == "focus" else now / wish.strength


def scaled(prompts: Sequence[PromptDraft], total: int) -> list[PromptDraft]:
    """Return the prompts with counts in the same proportions that add up to `total`."""
    if not prompts:
        return []
    counts = shares_to_counts([p.count for p in prompts], total)
    return [
        p.model_copy(update={"count": count})
        for p, count in zip(prompts, counts, strict=True)
        if count
    ]


def _difference(before: Sequence[PromptDraft], after: Sequence[PromptDraft]) -> list[PromptDraft]:
    """Return per class how many images were taken away, as prompts without text."""
    taken: Counter[str | None] = Counter()
    for prompt in before:
        taken[prompt.class_name] += prompt.count
    for prompt in after:
        taken[prompt.class_name] -= prompt.count
    return [PromptDraft(class_name=name, count=n) for name, n in taken.items() if n > 0]


def _draw(
    rows: Sequence[AttributeCombination],
    instead_of: Sequence[PromptDraft],
    images_per_prompt: int,
    vocabulary: Vocabulary,
    rng: random.Random,
    why: str,
) -> list[PromptDraft]:
    """Draw as many images of each class as are given away, where the rows have that class."""
    counts: Counter[str | None] = Counter()
    for prompt in instead_of:
        counts[prompt.class_name] += prompt.count
    drawn = []
    for class_name, n in sorted(counts.items(), key=lambda item: str(item[0])):
        own = [row for row in rows if row.class_name == class_name] or list(rows)
        drawn += draw_prompts(own, n, images_per_prompt, vocabulary, rng, why)
    return drawn
