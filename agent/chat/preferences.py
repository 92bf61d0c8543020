"""User preferences of a session: journaled, checked against one another, and revoked."""

from __future__ import annotations

import itertools
import re
from collections.abc import Sequence
from functools import cached_property

from agent.chat.answers import current_share
from agent.loop.levers import schedule_problems
from agent.loop.schedule import images_left, left_over
from agent.planners import AttributeDistribution, distribution_of
from agent.session.folder import Session
from agent.steering.arguments import number_of, unquoted
from agent.steering.lexicon import Lexicon
from agent.steering.preferences import (
    FACTOR,
    FOCUS,
    STEERING,
    SYNTHETIC,
    Addition,
    Preference,
    PreferenceEffect,
    active_preferences,
    additions,
    effects,
    opposed,
)
from agent.steering.steer import drawable, possible
from eval.report.blocks import Block, Line
from memory.errors import ToolError, unknown
from memory.events import (
    AdditionEvent,
    ForgetEvent,
    OpeningEvent,
    ProposedEvent,
    SteeredEvent,
    WishEvent,
)
from memory.records import LaterRound, Round, slice_key
from prompts.printable import one_line
from tools.settings import DEFAULT_SHARE, DstmSettings
from tools.targets import Target

SCHEDULE = "/budget schedule 100, 300 60% SLICE, 200"
MADE_BEFORE = Line(
    "The pending plan was made before; /approve accepts it as it is, /reject requests a new one."
)
# More preferences would overload the user and the prompt of a language model.
MAX_PREFERENCES = 30


class PreferenceStore:
    """The preferences of one session, read from its journal and written to it."""

    def __init__(self, session: Session, target: Target) -> None:
        self._session = session
        self._journal = session.journal
        self._target = target
        self._vocabulary = target.vocabulary

    @cached_property
    def lexicon(self) -> Lexicon:
        """Words of the target and their everyday variants."""
        return Lexicon(self._vocabulary)

    @cached_property
    def _distribution(self) -> AttributeDistribution:
        least = self._session.settings.feedback.min_support
        return distribution_of(self._target, least)

    def active(self) -> list[Preference]:
        """Return the active preferences, oldest first."""
        return active_preferences(self._journal.events(*STEERING))

    def additions(self) -> list[Addition]:
        """Return the additions that are not part of a plan yet."""
        return additions(self._journal.events(*STEERING))

    def effects(self) -> list[tuple[Preference, PreferenceEffect]]:
        """Return the measured effects of active preferences; unmeasured ones are left out."""
        events = self._journal.events(*STEERING)
        return effects(active_preferences(events), events, self._session.rounds())

    def ids(self) -> list[str]:
        """Return the ids of active preferences and open additions, which the user can revoke."""
        return [p.id for p in self.active()] + [addition.id for addition in self.additions()]

    def changed_after(self, question: str) -> bool:
        """Return whether a preference was stated or revoked after a plan was proposed.

        Args:
            question: Key of the approval request of the plan, approval/ROUND/CALL.
        """
        events = self._journal.events(ProposedEvent, WishEvent, ForgetEvent)
        return f"proposed/{question.removeprefix('approval/')}" in [e.key for e in events[:-1]]

    def next_round(self) -> int:
        """Return the number of the round after the last accepted plan."""
        plans = [r.plan for r in self._session.rounds() if r.plan]
        return plans[-1].round + 1 if plans else 1

    def take_all(self, preferences: Sequence[Preference], text: str) -> list[Block]:
        """Adopt the preferences of a sentence, except for those that conflict, with the reasons."""
        blocks: list[Block] = []
        conflicts = [p for p in itertools.combinations(preferences, 2) if self._exclude(*p)]
        for one, other in conflicts:
            text = f'"{one.say()}" and "{other.say()}" contradict each other'
            blocks.append(Line(f"Not taken: {text}. Say one of them.", "error"))
        for preference in preferences:
            if any(preference in pair for pair in conflicts):
                continue
            try:
                blocks += self.take(preference, text)
            except ToolError as error:
                blocks.append(Line(f"Not taken: {one_line(str(error))}", "error"))
        return blocks

    def take(self, preference: Preference, text: str) -> list[Block]:
        """Adopt and journal a preference; return its confirmation.

        Args:
            preference: The preference; its id and round are set here.
            text: Words of the user, stored if the preference has no text.

        Raises:
            ToolError: It cannot be followed with the active preferences, or these are too many.
        """
        active = self.active()
        if len(active) >= MAX_PREFERENCES:
            raise ToolError(f"{MAX_PREFERENCES} preferences are active; /forget ID removes one.")
        number = 1 + len(self._journal.events(WishEvent, undone=True))
        since = preference.since if preference.schedule else self.next_round()
        fields = {"id": f"w{number}", "since": since}
        new = preference.model_copy(update={"text": preference.text or text[:300], **fields})
        same = [p for p in active if p.attributes == new.attributes]
        for old in same:
            if new.factor is None and new.say() == old.say():
                return [Line(f"That is already active: {old.id} {old.say()}.")]
        is_bounded = new.has_share or new.kind in ("mix", "schedule")
        replaced = [p for p in same if is_bounded and p.kind == new.kind]
        others = [p for p in active if p not in replaced]
        self._check(new, others)
        self._journal.append(WishEvent(key=f"wish/{new.id}", wish=new.to_json()))
        for old in replaced:
            self._journal.append(ForgetEvent(key=f"forget/{old.id}", id=old.id))
        blocks: list[Block] = [
            Line(f"Understood: {new.say()} ({new.id}), from the next plan on.", "good")
        ]
        if replaced:
            blocks.append(Line(f"It takes the place of {_names(replaced)}."))
        if beside := [p for p in same if new.attributes and p.kind != new.kind]:
            hold, them = ("hold", "ID removes one") if beside[1:] else ("holds", "removes it")
            text = f"{_names(beside)} about the same data {hold} too; /forget {them}."
            blocks.append(Line(text, "warning"))
        idle = [
            p.id
            for p in others
            if new.is_constraint
            and p.attributes
            and not p.is_constraint
            and not drawable(p, [*others, new], self._distribution, self._vocabulary)
        ]
        if idle:
            ids = ", ".join(idle)
            text = f"No effect under this constraint: {ids}; /forget ID removes one."
            blocks.append(Line(text, "warning"))
        return blocks

    def _exclude(self, one: Preference, other: Preference) -> bool:
        """Return whether two preferences of a sentence can be followed alone but not together."""
        pairs = (one, other), (other, one)
        return opposed(one, other) or any(
            self._fails(new, [old]) and not self._fails(new, []) for new, old in pairs
        )

    def _fails(self, new: Preference, others: Sequence[Preference]) -> bool:
        try:
            self._check(new, others)
        except ToolError:
            return True
        return False

    def _check(self, new: Preference, others: Sequence[Preference]) -> None:
        """Raise ToolError if a preference cannot be followed together with others."""
        constraints = [p for p in others if p.is_constraint]
        beside = f" beside {_names(constraints)}" if constraints else ""
        if new.is_constraint:
            if not possible([*others, new], self._distribution, self._vocabulary):
                raise ToolError(f"{new.say()}{beside} leaves nothing to draw. /forget ID helps.")
            return
        opposite = [p for p in others if opposed(new, p) and not (new.factor and p.factor)]
        if opposite:
            raise ToolError(f"{new.say()} contradicts {_names(opposite)}. /forget ID removes one.")
        if new.kind in ("fewer", "at_most", "note", "mix", "schedule"):
            return
        disjoint = [
            p
            for p in others
            if p.has_share
            and p.min_share
            and any(not {*v} & {*new.attributes.get(k, v)} for k, v in p.attributes.items())
        ]
        total = sum(p.min_share or 0 for p in (new, *disjoint))
        if new.min_share and total > 1.0001:
            names = _names(disjoint)
            raise ToolError(
                f"with {names} that is {total:.0%} of the images. /forget ID removes one."
            )
        if not drawable(new, others, self._distribution, self._vocabulary):
            raise ToolError(f"{new.say()}{beside}: nothing of it can be drawn. /forget ID helps.")

    def mix(self, text: str, dstm: DstmSettings, past: Sequence[Round]) -> list[Block]:
        """Adopt a share of generated images in training: "20%", "less" or "more".

        Raises:
            ToolError: The DSTM is not trained on both kinds, or the share is out of bounds.
        """
        if dstm.train_on != "real+synthetic":
            raise ToolError(f"dstm.train_on is {dstm.train_on}: there is nothing to mix.")
        now = current_share(dstm, past, self.active()) or DEFAULT_SHARE
        low, high = SYNTHETIC
        if text in ("less", "more"):
            share = round(min(max(now * (FACTOR if text == "more" else 1 / FACTOR), low), high), 3)
        else:
            share = number_of(text.rstrip("% "), 0, 100) / (100 if "%" in text else 1)
        if not low <= share <= high:
            raise ToolError(f"Say less, more, or a share of {low:.0%} to {high:.0%}.")
        return self.take(Preference(synthetic_share=share), f"synthetic {text}")

    def schedule(self, text: str) -> list[Block]:
        """Adopt a schedule of the images of all future rounds: "100, 300 60% poly, 200".

        Raises:
            ToolError: The text cannot be parsed, or exceeds the remaining rounds or images.
        """
        settings, past, later = self._session.settings, self._session.rounds(), []
        opened = [event.round for event in self._journal.events(OpeningEvent)]
        number, known = 1 + max(opened, default=0), {r.number: r for r in past}
        for part in re.split(r"[,;]|(?<=\d) (?=\d+\b(?!%))|\band\b(?= *\d)", text):
            size = re.fullmatch(
                r"(\d{1,6})(?: images)?(?: (\d+)%)?(?: (?:of |for )?(.+))?", part.strip()
            )
            if size is None:
                raise ToolError(f"{one_line(part, 60)!r} is no number of images, as in {SCHEDULE}.")
            named, unknown_words = self.lexicon.read(size[3] or "")
            if unknown_words or ((size[3] or size[2]) and not named):
                name = one_line(size[3] or part, 60)
                raise ToolError(f"{name!r} names no slice of the target.")
            name = slice_key({key: values[0] for key, values in named.items()})
            shares = {name: int(size[2]) / 100 if size[2] else FOCUS} if named else {}
            later.append(LaterRound(n_images=size[1], shares=shares))
        held, sizes = self.active(), [one.n_images for one in later]
        rounds = [known.get(n, Round(number=n)) for n in range(1, number)]
        spare = sum(left_over(settings, held, past, one) for one in rounds)
        left, n_rounds = (
            images_left(settings, spare, past, number),
            settings.session.rounds - number + 1,
        )
        if problems := schedule_problems(sizes, later, n_rounds, left, self._vocabulary):
            raise ToolError(f"From round {number} on: {'; '.join(problems)}.")
        return self.take(Preference(schedule=tuple(later), since=number), f"schedule {text}")

    def forget(self, text: str) -> list[Block]:
        """Revoke preferences and additions: by ids, by the values named in the text, or all.

        Raises:
            ToolError: Nothing matches the text.
        """
        ids, text = self.ids(), unquoted(text)
        named = self.lexicon.read(text)[0]
        chosen = text.split() if {*text.split()} <= {*ids} else ids if text == "all" else []
        if not chosen and named:
            chosen = [
                p.id
                for p in self.active()
                if all({*v} & {*p.attributes.get(k, ())} for k, v in named.items())
            ]
        if not chosen:
            if not ids:
                raise ToolError("There is no preference to forget.")
            raise ToolError(unknown("preference", one_line(text, 40), ids))
        known = {p.id: f"{p.id} ({p.say()})" for p in self.active()}
        for name in chosen:
            self._journal.append(ForgetEvent(key=f"forget/{name}", id=name))
        names = ", ".join(known.get(name, name) for name in chosen)
        return [Line(f"Forgotten: {names}.", "good")]

    def back(self, text: str = "") -> list[Block]:
        """Revoke the last addition, or preferences of one sentence, that no plan has followed."""
        steered = self._journal.events(SteeredEvent)
        followed = {shift["wish"] for event in steered for shift in event.shifts}
        # Keys contain the id: wish/w3, addition/a1.
        events = self._journal.events(WishEvent, AdditionEvent)
        ids = [str(event.key).partition("/")[2] for event in events]
        active = self.ids()
        open_ids = [name for name in ids if name in active and name not in followed]
        if open_ids:
            # Preferences of one sentence have the same text.
            texts = {p.id: p.text for p in self.active()}
            last = texts.get(open_ids[-1])
            later = itertools.takewhile(lambda name: texts.get(name) == last, reversed(open_ids))
            return self.forget(" ".join(sorted(later) if last else open_ids[-1:]))
        number = self.next_round() - 1
        if not number:
            return [Line("There is nothing that could be taken back.")]
        return [
            Line(
                f"No preference is newer than the plan of round {number}; /undo takes that plan "
                "back, with its images and model."
            )
        ]


def _names(preferences: Sequence[Preference]) -> str:
    return " and ".join(f"{p.id} ({p.say()})" for p in preferences)
