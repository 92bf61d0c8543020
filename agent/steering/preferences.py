"""Preferences of the user for the plans of a session, and their effects.

A `Preference` names attribute values and bounds or scales their share of a plan's images. It is
created by the grammar of plain words, by slash commands, or by a language model in chat, and
journaled as an event `wish`; an event `forget` withdraws it, and `steered` records once per round
how each preference changed the plan. `agent.steering.steer` changes plans accordingly.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, get_args

from pydantic import ConfigDict, Field, model_serializer, model_validator

from agent.planners import PromptDraft
from eval.report.blocks import schedule_text
from eval.report.text import estimate_text, number
from memory.events import AdditionEvent, Event, ForgetEvent, SteeredEvent, WishEvent
from memory.records import Estimate, LaterRound, PromptSpec, Record, Round, Share, slice_key
from prompts.render import quote
from prompts.vocabulary import Vocabulary

Kind = Literal[
    "more",
    "fewer",
    "only",
    "avoid",
    "focus",
    "share",
    "at_least",
    "at_most",
    "between",
    "note",
    "mix",
    "schedule",
]  # fmt: skip
# Kinds of events that record preferences and their effects.
STEERING = (WishEvent, ForgetEvent, AdditionEvent, SteeredEvent)
# Factor of a plain "more", without "much" or "a bit", and the largest factor.
FACTOR, MAX_FACTOR = 2.0, 10.0
# Bounds of the share of generated images in training: both photographs and images are used.
SYNTHETIC = (0.05, 0.95)
# Minimum share of the images for "focus on".
FOCUS = 0.5
_WORDS = {
    "more": "more of",
    "fewer": "fewer of",
    "only": "only",
    "avoid": "avoid",
    "focus": "focus on",
    "share": "of all images {:.0%}",
    "at_least": "of all images at least {:.0%}",
    "at_most": "of all images at most {:.0%}",
    "between": "of all images {:.0%} to {:.0%}",
}


class Preference(Record):
    """A preference of the user for every plan from round `since` on.

    A minimum share of 1 or a maximum share of 0 is a constraint: a plan that violates it is changed
    or rejected. Other preferences shift images between prompts. Without `attributes` a preference
    is a note, which only a language model can follow, or sets `synthetic_share` or `schedule`.

    Attributes:
        id: Unique in the session, e.g. "w3"; "" before it is journaled.
        attributes: Values by attribute. A prompt matches if it has one of the values of each.
        min_share: Minimum share of the images, 0..1. 1: only matching prompts.
        max_share: Maximum share of the images, 0..1. 0: no matching prompts.
        factor: Factor on the planner's share, 0.1..10.
        synthetic_share: Share of generated images among the training samples of a class.
        schedule: Sizes and slice shares of the rounds from `since` on.
        text: The user's words.
        since: First round to which it applies.
    """

    id: str = ""
    attributes: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    min_share: Share | None = None
    max_share: Share | None = None
    factor: float | None = Field(None, ge=1 / MAX_FACTOR, le=MAX_FACTOR)
    synthetic_share: float | None = Field(None, ge=SYNTHETIC[0], le=SYNTHETIC[1])
    schedule: tuple[LaterRound, ...] = ()
    text: str = Field("", max_length=300)
    since: int = Field(1, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _from_journal(cls, data: Any) -> Any:
        """Convert the keys `kind`, `strength` and `share`, which journals contain."""
        if not isinstance(data, Mapping) or "kind" not in data:
            return data
        fields = dict(data)
        kind, share = fields.pop("kind"), fields.pop("share", None)
        strength = fields.pop("strength", FACTOR)
        return fields | bounds(kind, share, strength)

    @model_validator(mode="after")
    def _one_demand(self) -> Preference:
        low, high = self.min_share, self.max_share
        if self.factor is not None and (low, high) != (None, None):
            raise ValueError("a factor and a share exclude one another")
        if low is not None and high is not None and low > high:
            raise ValueError("min_share exceeds max_share")
        if self.attributes and (self.factor, low, high) == (None, None, None):
            raise ValueError("a share or a factor is needed")
        return self

    @model_serializer
    def _to_journal(self) -> dict[str, Any]:
        values = {
            "id": self.id,
            "kind": self.kind,
            "attributes": {key: list(names) for key, names in self.attributes.items()},
            "strength": self.strength,
            "share": self.share,
            "text": self.text,
            "since": self.since,
        }
        if self.kind == "between":
            values |= {"min_share": self.min_share, "max_share": self.max_share}
        if self.kind == "mix":
            values["synthetic_share"] = self.synthetic_share
        if self.schedule:
            values["schedule"] = [one.to_json() for one in self.schedule]
        return values

    @property
    def kind(self) -> Kind:
        """The kind of preference, as used in journals and by `say`."""
        low, high = self.min_share, self.max_share
        if self.synthetic_share is not None:
            return "mix"
        if self.schedule:
            return "schedule"
        if not self.attributes:
            return "note"
        if self.factor is not None:
            return "more" if self.factor >= 1 else "fewer"
        if self.is_constraint:
            return "only" if low == 1 else "avoid"
        if low is not None and high is not None:
            return "share" if low == high else "between"
        if low is not None:
            return "focus" if low == FOCUS else "at_least"
        return "at_most"

    @property
    def is_constraint(self) -> bool:
        """Whether a plan that violates it is changed or rejected."""
        return bool(self.attributes) and (self.min_share == 1 or self.max_share == 0)

    @property
    def has_share(self) -> bool:
        """Whether it bounds the share of the images without being a constraint."""
        return bool(self.attributes) and self.factor is None and not self.is_constraint

    @property
    def share(self) -> float | None:
        """The minimum share or else the maximum share; None if the kind implies it."""
        if self.kind in ("only", "avoid", "focus"):
            return None
        return self.max_share if self.min_share is None else self.min_share

    @property
    def strength(self) -> float:
        """The strength of the scaling, 1..10: the factor, or its inverse if it is below 1."""
        factor = self.factor or FACTOR
        return factor if factor >= 1 else 1 / factor

    @property
    def name(self) -> str:
        """The name of the slice that it concerns, or its quoted text if it has no attributes."""
        return slice_name(self.attributes) if self.attributes else quote(self.text, 80)

    def say(self) -> str:
        """Describe the preference in a few words."""
        if self.kind == "note":
            return quote(self.text, 200)
        if self.synthetic_share is not None:
            return f"{self.synthetic_share:.0%} of the draws of trainings are generated images"
        if self.schedule:
            return f"from round {self.since} on {schedule_text(self.schedule)}"
        times = f" (x{self.strength:.3g})" if self.factor is not None else ""
        return f"{_WORDS[self.kind].format(self.share, self.max_share)} {self.name}{times}"

    def matches(self, prompt: PromptDraft | PromptSpec, vocabulary: Vocabulary) -> bool:
        """Return whether a prompt has the attribute values that the preference concerns."""
        values = prompt.attributes
        if not self.attributes.keys() <= values.keys():
            values = {**vocabulary.parse(prompt.text), **values}
        return all(
            values[key] in wanted if key in values else _by_class(prompt, key, wanted, vocabulary)
            for key, wanted in self.attributes.items()
        )


class Addition(Record):
    """A prompt that the user adds to the next plan."""

    id: str
    prompt: PromptDraft


class PreferenceEffect(Record):
    """The effect of a preference.

    Attributes:
        preference: Id of the preference; `wish` in journals.
        before: Share of matching images before steering, 0..1.
        after: Share of matching images after steering, or in the latest plan, 0..1.
        score_before: Accuracy on its slice before its first plan, if measured.
        score_after: Accuracy on its slice after its latest plan, if measured.
    """

    model_config = ConfigDict(validate_by_name=True)

    preference: str = Field(alias="wish")
    before: Share
    after: Share
    score_before: Estimate | None = None
    score_after: Estimate | None = None

    @model_serializer
    def _to_journal(self) -> dict[str, Any]:
        return {"wish": self.preference, "before": self.before, "after": self.after}

    def say(self) -> str:
        """Describe the change of the share and, if measured, of the accuracy in one line."""
        line = f"{self.before:.0%} -> {self.after:.0%} of images"
        if self.score_before and self.score_after:
            old, new = self.score_before, self.score_after
            line += f"; accuracy {number(old.value)} -> {estimate_text(new)}"
        elif self.after and self.score_after is None:
            line += "; its slice is not measured"
        return line


def bounds(kind: str, share: float | None = None, strength: float = FACTOR) -> dict[str, Any]:
    """Return the fields of a `Preference` of a kind; raises ValueError for an unknown one."""
    if kind not in get_args(Kind):
        raise ValueError(f"unknown kind of preference: {kind!r}")
    low = {"only": 1.0, "focus": FOCUS, "share": share, "at_least": share}.get(kind)
    high = {"avoid": 0.0, "share": share, "at_most": share}.get(kind)
    factor = {"more": strength, "fewer": 1 / strength}.get(kind)
    fields = {"min_share": low, "max_share": high, "factor": factor}
    return {name: value for name, value in fields.items() if value is not None}


def opposed(one: Preference, other: Preference) -> bool:
    """Return whether two preferences for the same attribute values contradict each other."""
    if not one.attributes or one.attributes != other.attributes:
        return False
    low = max(p.min_share or 0.0 for p in (one, other))
    high = min(1.0 if p.max_share is None else p.max_share for p in (one, other))
    directions = {_direction(p) for p in (one, other)} - {0}
    return low > high or len(directions) > 1


def _direction(preference: Preference) -> int:
    """Return 1 if a preference increases its share, -1 if it decreases it, 0 if it bounds it."""
    if preference.factor is not None:
        return 1 if preference.factor >= 1 else -1
    return {"only": 1, "focus": 1, "avoid": -1}.get(preference.kind, 0)


def slice_name(attributes: Mapping[str, Sequence[str]]) -> str:
    """Return the slice name of attribute values; several values of one are joined by "|"."""
    return slice_key({key: "|".join(values) for key, values in attributes.items()})


def active_preferences(events: Iterable[Event]) -> list[Preference]:
    """Return the preferences that have not been withdrawn, oldest first."""
    active: dict[str, Preference] = {}
    for event in events:
        if isinstance(event, WishEvent):
            preference = Preference.model_validate(event.wish)
            active[preference.id] = preference
        elif isinstance(event, ForgetEvent):
            active.pop(event.id, None)
    return list(active.values())


def all_preferences(events: Iterable[Event]) -> list[Preference]:
    """Return all preferences, including withdrawn ones, oldest first."""
    stored = (event.wish for event in events if isinstance(event, WishEvent))
    return [Preference.model_validate(fields) for fields in stored]


def synthetic_share(events: Iterable[Event], number: int) -> float | None:
    """Return the share of generated images that the user sets for a round's training, or None."""
    shares = [p.synthetic_share for p in active_preferences(events) if p.since <= number]
    return next((share for share in reversed(shares) if share is not None), None)


def additions(events: Iterable[Event]) -> list[Addition]:
    """Return the additions that are not part of a plan yet."""
    waiting: dict[str, Addition] = {}
    for event in events:
        if isinstance(event, AdditionEvent):
            addition = Addition.model_validate(event.addition)
            waiting[addition.id] = addition
        elif isinstance(event, ForgetEvent):
            waiting.pop(event.id, None)
        elif isinstance(event, SteeredEvent):
            for name in event.additions:
                waiting.pop(name, None)
    return list(waiting.values())


def effects(
    preferences: Sequence[Preference], events: Sequence[Event], past: Sequence[Round]
) -> list[tuple[Preference, PreferenceEffect]]:
    """Return the effect of each preference that was applied in an evaluated round."""
    reports = {r.number: r.report for r in past if r.report}
    pairs = []
    for preference in preferences:
        moved = [
            (event.round, PreferenceEffect.model_validate(shift))
            for event in events
            if isinstance(event, SteeredEvent) and event.round in reports
            for shift in event.shifts
            if shift["wish"] == preference.id
        ]
        if not moved:
            continue
        earlier = [number for number in reports if number < moved[0][0]]
        scores = {
            number: next(
                (s.accuracy for s in reports[number].slices if s.key == preference.name), None
            )
            for number in (*earlier[-1:], max(reports))
        }
        effect = PreferenceEffect(
            preference=preference.id,
            before=moved[0][1].before,
            after=moved[-1][1].after,
            score_before=scores[earlier[-1]] if earlier else None,
            score_after=scores[max(reports)],
        )
        pairs.append((preference, effect))
    return pairs


def say_effects(pairs: Iterable[tuple[Preference, PreferenceEffect]]) -> list[str]:
    """Return one line for each preference with its effect."""
    return [f"{p.id} {p.say()}: {effect.say()}" for p, effect in pairs]


def say_preferences(preferences: Sequence[Preference]) -> list[str]:
    """Describe preferences to a language model: notes, then preferences, then constraints."""
    lines = [f"from now on: {p.text}" for p in preferences if p.kind == "note"]
    for head, is_constraint in (("prefer in every plan", False), ("every plan must", True)):
        texts = [p.say() for p in preferences if p.attributes and p.is_constraint == is_constraint]
        if texts:
            lines.append(f"{head}: {'; '.join(texts)}")
    return lines


def _by_class(
    prompt: PromptDraft | PromptSpec, key: str, values: Sequence[str], vocabulary: Vocabulary
) -> bool:
    """Return whether a prompt without a value of the class attribute matches by its class."""
    classes = {vocabulary.class_of[value] for value in values if value in vocabulary.class_of}
    return key == vocabulary.class_attribute and prompt.class_name in classes
