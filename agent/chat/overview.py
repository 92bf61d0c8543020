"""Current records of a live session: rounds, plans, preferences and slices.

Records are read on every call, since the session continues during the chat.
"""

from __future__ import annotations

from agent.chat.answers import iou_by_class
from agent.chat.live import LiveSession
from agent.chat.preferences import PreferenceStore
from agent.loop.schedule import schedule
from agent.loop.validation import slice_attributes
from agent.steering.arguments import unquoted
from agent.steering.lexicon import Lexicon
from agent.steering.preferences import FOCUS, Preference
from memory.errors import ToolError, some
from memory.records import LaterRound, Plan, Report, Round
from prompts.printable import one_line
from prompts.vocabulary import Vocabulary


class Overview:
    """The current records of one live session, and the words of its target."""

    def __init__(self, live: LiveSession) -> None:
        self._live = live
        self.vocabulary: Vocabulary = live.components.target.vocabulary
        self.preferences = PreferenceStore(live.session, live.components.target)
        self.lexicon: Lexicon = self.preferences.lexicon

    def rounds(self) -> list[Round]:
        """Return all rounds so far."""
        return self._live.session.rounds()

    def last_report(self) -> Report | None:
        """Return the last report; None: there is none yet."""
        return next((r.report for r in reversed(self.rounds()) if r.report), None)

    def last_plan(self) -> Plan | None:
        """Return the last accepted plan; None: there is none yet."""
        return next((r.plan for r in reversed(self.rounds()) if r.plan), None)

    def schedule(self) -> dict[int, LaterRound]:
        """Return the scheduled future rounds by number."""
        past = self.rounds()
        number = 1 + max((r.number for r in past if r.report), default=0)
        return schedule(self.preferences.active(), past, number)

    def slices(self) -> list[str]:
        """Return the slices of the last report, or all attribute values before the first report."""
        if report := self.last_report():
            return [score.key for score in report.slices]
        return [
            f"{key}={name}" for key, names in self.vocabulary.attributes.items() for name in names
        ]

    def with_pixel_classes(self) -> Lexicon:
        """Return the lexicon of the target with the pixel classes of the last report."""
        report = self.last_report()
        names = list(iou_by_class(report)) if report else []
        return Lexicon(self.vocabulary, names) if names else self.lexicon

    def pixel_classes_in(self, text: str) -> dict[str, tuple[str, ...]]:
        """Return the pixel classes named in a text under the key "iou"; {}: none."""
        named = self.with_pixel_classes().read(text)[0]
        return {"iou": named["iou"]} if "iou" in named else {}

    def slice_of(self, text: str) -> Preference:
        """Return a preference of kind "focus" for the slice named in a text.

        Raises:
            ToolError: The text names no slice, or values that exclude each other.
        """
        given = slice_attributes(unquoted(text))
        if given is not None:
            if problems := self.vocabulary.problems(given):
                raise ToolError(f"{'; '.join(problems)}.")
            return Preference(
                attributes={key: (name,) for key, name in given.items()}, min_share=FOCUS
            )
        attributes, _ = self.lexicon.read(text)
        if attributes:
            return Preference(attributes=attributes, min_share=FOCUS)
        if named := self.pixel_classes_in(text):
            (name, *_) = named["iou"]
            raise ToolError(f"{name!r} is a class of pixels: /failures {name} says how good it is.")
        near = self.lexicon.near(text.lower().split()[:20])
        hint = f" Near words: {', '.join(near)}." if near else ""
        raise ToolError(
            f"{one_line(text, 60)!r} names no slice of the target.{hint} "
            f"Slices: {some(self.slices(), 12)}"
        )


def say_progress(live: LiveSession) -> str:
    """Return the progress of a session in one line."""
    now = live.progress
    if now.state == "waiting":
        auto = "" if now.auto_s is None else f", approved by itself in {now.auto_s:.0f} s"
        what = "a plan waits for you" if live.question and live.question.plan else "it asks you"
        return f"round {now.round}: {what}{auto}"
    if now.state != "working":
        state = live.before if now.state == "idle" else now.state
        states = {"open": "stopped", "failed": "stopped by an error"}
        return states.get(state, state)
    text = f"round {now.round}: " if now.round else ""
    text += now.stage or "deciding"
    if now.total:
        text += f" {now.done}/{now.total} {now.unit}"
        if now.done and now.per_s:
            text += f", {(now.total - now.done) / now.per_s:.0f} s left"
    return text
