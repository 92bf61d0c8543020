"""What a conversation looks up of its live session: rounds, plans, wishes, and its target's words.

Nothing is kept but the words: a session goes on while a person talks.
"""

from __future__ import annotations

from functools import cached_property

from agent.chat.live import LiveSession
from agent.loop.validation import slice_attributes
from agent.planners import AttributeDistribution, distribution_of
from agent.steering.arguments import unquoted
from agent.steering.lexicon import Lexicon
from agent.steering.preferences import (
    FOCUS,
    STEERING,
    Addition,
    Effect,
    Preference,
    active_preferences,
    additions,
    effects,
)
from memory.errors import ToolError, some
from memory.records import Plan, Report, Round
from prompts.printable import one_line
from prompts.vocabulary import Vocabulary


class Overview:
    """One live session as it is now."""

    def __init__(self, live: LiveSession) -> None:
        self._live = live

    @cached_property
    def vocabulary(self) -> Vocabulary:
        """The target's words."""
        return self._live.bench.target.vocabulary

    @cached_property
    def lexicon(self) -> Lexicon:
        """The target's words as people say them."""
        return Lexicon(self.vocabulary)

    @cached_property
    def palette(self) -> AttributeDistribution:
        """The combinations of attributes that the target's generator split has."""
        return distribution_of(self._live.bench.target)

    def wishes(self) -> list[Preference]:
        """Return the wishes that hold, the oldest first."""
        return active_preferences(self._live.session.journal.events(*STEERING))

    def additions(self) -> list[Addition]:
        """Return the additions that no plan has taken up yet."""
        return additions(self._live.session.journal.events(*STEERING))

    def effects(self) -> list[tuple[Preference, Effect]]:
        """Return what became of the wishes so far."""
        events = self._live.session.journal.events(*STEERING)
        return effects(active_preferences(events), events, self.rounds())

    def rounds(self) -> list[Round]:
        """Return all rounds so far."""
        return self._live.session.rounds()

    def last_report(self) -> Report | None:
        """Return the last report, or None before there is one."""
        return next((r.report for r in reversed(self.rounds()) if r.report), None)

    def last_plan(self) -> Plan | None:
        """Return the last plan that was accepted, or None before there is one."""
        return next((r.plan for r in reversed(self.rounds()) if r.plan), None)

    def next_plan(self) -> int:
        """Return the round whose plan is the next to be accepted."""
        plan = self.last_plan()
        return plan.round + 1 if plan else 1

    def slices(self) -> list[str]:
        """Return the keys of the slices that the last report has measured."""
        report = self.last_report()
        return [score.key for score in report.slices] if report else []

    def values(self) -> list[str]:
        """Return all values of attributes as slices name them, e.g. brightness=dark."""
        return [f"{k}={v}" for k, known in self.vocabulary.attributes.items() for v in known]

    def meant(self, text: str) -> Preference:
        """Return a wish that stands for the slice that a text names.

        Raises ToolError for a text that names none.
        """
        given = slice_attributes(unquoted(text))
        if given is not None:
            if problems := self.vocabulary.problems(given):
                raise ToolError(f"{'; '.join(problems)}.")
            attributes: dict[str, tuple[str, ...]] = {k: (v,) for k, v in given.items()}
        else:
            attributes, _ = self.lexicon.read(text)
            if not attributes:
                raise ToolError(self.unknown_slice(text))
        return Preference(attributes=attributes, min_share=FOCUS)

    def unknown_slice(self, text: str) -> str:
        """Say that a text names no slice, and which ones there are."""
        known = self.slices() if self.last_report() else self.values()
        near = self.lexicon.near(text.lower().split()[:20])
        hint = f" Near words: {', '.join(near)}." if near else ""
        return (
            f"{one_line(text, 60)!r} names no slice of the target.{hint} Slices: {some(known, 12)}"
        )


def say_progress(live: LiveSession) -> str:
    """Say in one line where a session stands."""
    now = live.progress
    if now.state == "waiting":
        auto = "" if now.auto_s is None else f", approved by itself in {now.auto_s:.0f} s"
        what = "a plan waits for you" if live.question and live.question.plan else "it asks you"
        return f"round {now.round}: {what}{auto}"
    if now.state != "working":
        return {"idle": "stopped", "finished": "finished", "failed": "stopped by an error"}.get(
            now.state, now.state
        )
    where = f"round {now.round}: " if now.round else ""
    said = f"{where}{now.stage or 'deciding'}"
    if now.total:
        said += f" {now.done}/{now.total} {now.unit}"
        if now.done and now.per_s:
            said += f", {(now.total - now.done) / now.per_s:.0f} s left"
    return said
