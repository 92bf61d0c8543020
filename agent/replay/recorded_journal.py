"""A recorded journal that is written a second time, with each event compared."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from typing import Any, NoReturn, TypeVar

from memory.events import (
    Event,
    FallbackEvent,
    GeneratorEvent,
    OutsideEvent,
    ResumedEvent,
    StageEvent,
    ToolsEvent,
    UndoneEvent,
    WishesShownEvent,
)
from memory.journal import standing
from memory.records import Round
from memory.rounds import RoundFold

E = TypeVar("E", bound=Event)

# Events that may precede the outcome of a step.
_ON_THE_WAY = (ToolsEvent, StageEvent, FallbackEvent, GeneratorEvent, WishesShownEvent)


class Divergence(Exception):
    """The first difference between the journal and its replay.

    Attributes:
        line: Line of the journal, from 1.
        event: The recorded event.
        where: The field, e.g. "messages[1].content".
        recorded: Recorded value of the field.
        replayed: Value of the replay.
    """

    def __init__(self, line: int, event: Event, where: str, recorded: str, replayed: str) -> None:
        super().__init__(f"line {line}, {event.kind}, {where}")
        self.line, self.event, self.where = line, event, where
        self.recorded, self.replayed = recorded, replayed


class EndOfRecord(Exception):
    """The journal ends in the middle of a round."""


class RecordedJournal:
    """A journal whose `append` compares each event with the recorded one.

    Reading methods return only the events up to the place reached, as the original journal did.
    """

    def __init__(self, everything: Sequence[Event]) -> None:
        self._everything = everything
        self.recorded = events = standing(everything)
        line_of = {id(event): n for n, event in enumerate(everything, 1)}
        self._lines = [line_of[id(event)] for event in events]
        self._place = {e.key: i for i, e in enumerate(events) if e.key is not None}
        self._unkeyed: dict[str, list[int]] = defaultdict(list)
        for i, event in enumerate(events):
            if event.key is None:
                self._unkeyed[event.kind].append(i)
        self._written = [False] * len(events)
        # The events that the replay has reached.
        self.shown: list[Event] = []
        self._by_key: dict[str, Event] = {}
        self._fold = RoundFold()
        undone = [i for i, event in enumerate(events) if isinstance(event, UndoneEvent)]
        self._n_before_undone = undone[-1] if undone else 0
        self._next = 0
        self._go_on()

    @property
    def next(self) -> int:
        """The index of the first event that the replay has not reached."""
        return self._next

    @property
    def finished(self) -> bool:
        """Whether the replay has reached the end of the journal."""
        return self._next == len(self.recorded)

    def append(self, event: E, /) -> E:
        """Return the recorded event; raises Divergence if it differs from the given one."""
        if event.key is not None and event.key in self._by_key:
            return _of(type(event), self._by_key[event.key])
        if event.key is not None:
            place = self._place.get(event.key)
        else:
            unkeyed = self._unkeyed[event.kind]
            place = next((i for i in unkeyed if not self._written[i]), None)
        if place is None:
            self._diverge(event.kind, event.key, event)
        recorded = self.recorded[place]
        changed = difference(_content(recorded), _content(event))
        if changed is not None:
            raise Divergence(self._lines[place], recorded, *changed)
        self._show(place)
        self._go_on()
        return _of(type(event), recorded)

    def events(self, *kinds: type[E], since: int | None = None) -> list[E]:
        """Return the events so far, or those of some kinds, like `Journal.events`."""
        of_kinds = [event for event in self.shown if isinstance(event, kinds)]
        return [e for e in of_kinds if since is None or (e.round_number or 0) >= since]

    def of_rounds(self, *numbers: int) -> list[Event]:
        """Return the events so far of some rounds."""
        return [event for event in self.shown if event.round_number in numbers]

    def appended(self, n_known: int, /) -> list[Event]:
        """Return the events so far after the first `n_known`, including undone ones."""
        n_written = len(self._everything) if self.finished else self._lines[self._next] - 1
        return list(self._everything[n_known:n_written])

    def get(self, key: str, kind: type[E], /) -> E | None:
        """Return the event with a key among those so far, or None."""
        event = self._by_key.get(key)
        return None if event is None else _of(kind, event)

    def rounds(self, last: int | None = None) -> list[Round]:
        """Return the last rounds so far, None for all."""
        rounds = self._fold.rounds()
        return rounds if last is None else rounds[-last:]

    def round(self, number: int, /) -> Round | None:
        """Return a round, or None if it has no events so far."""
        return next((r for r in reversed(self._fold.rounds()) if r.number == number), None)

    def find(self, key: str, kind: type[E]) -> E | None:
        """Return the recorded event with a key, whether or not the replay has reached it."""
        place = self._place.get(key)
        return None if place is None else _of(kind, self.recorded[place])

    def outcome(self, key: str, kind: type[E]) -> E:
        """Return the recorded event with a key, to take its outcome before it is written again.

        Raises EndOfRecord if the journal ends here, Divergence if it continues with another event.
        """
        if event := self.find(key, kind):
            return event
        if all(isinstance(e, _ON_THE_WAY) for e in self._left()):
            raise EndOfRecord
        self._diverge(key.partition("/")[0], key)

    def upcoming(self, kind: type[E]) -> E | None:
        """Return the next event of a kind that has not been replayed, or None."""
        return next((event for event in self._left() if isinstance(event, kind)), None)

    def _left(self) -> Iterator[Event]:
        """Yield the events that have not been replayed."""
        for place in range(self._next, len(self.recorded)):
            if not self._written[place]:
                yield self.recorded[place]

    def skip_to(self, key: str) -> None:
        """Advance the replay past the event with a key without comparing events."""
        while self._next <= self._place[key]:
            if not self._written[self._next]:
                self._show(self._next)
            self._next += 1

    def refuse(self, replayed: str) -> NoReturn:
        """Raise Divergence: the replay does something else than the next event of the journal."""
        expected = self.recorded[self._next]
        name = expected.key or expected.kind
        raise Divergence(self._lines[self._next], expected, "kind", name, replayed)

    def _diverge(self, kind: str, key: str | None, event: Event | None = None) -> NoReturn:
        """Raise EndOfRecord or Divergence for an event that is not in the journal."""
        if self.finished:
            raise EndOfRecord
        expected = self.recorded[self._next]
        if event is not None and kind == expected.kind:
            changed = difference(_content(expected), _content(event))
            if changed is not None:
                raise Divergence(self._lines[self._next], expected, *changed)
        self.refuse(key or kind)

    def _go_on(self) -> None:
        """Advance past events from outside the graph and events that a crash repeated."""
        while self._next < len(self.recorded):
            event = self.recorded[self._next]
            if not self._written[self._next]:
                is_due = not isinstance(event, OutsideEvent)
                if is_due and not self._is_left_over(self._next) and not self._is_repeated(event):
                    return
                self._show(self._next)
            self._next += 1

    def _is_left_over(self, place: int) -> bool:
        """Return whether an event of no round was written during rounds that were undone later.

        The rounds that replace them write it again or do not need it. It is skipped so that later
        events of a person are taken into account.
        """
        return place < self._n_before_undone and self.recorded[place].round_number is None

    def _is_repeated(self, event: Event) -> bool:
        """Return whether an event without a key was repeated after a resumption.

        So is a `told` event whose round was interrupted before its opening.
        """
        if event.key is not None:
            return False
        if isinstance(event, WishesShownEvent) and f"opening/{event.round}" not in self._by_key:
            return True
        resumed = [i for i, e in enumerate(self.shown) if isinstance(e, ResumedEvent)]
        earlier = self.shown[: resumed[-1]] if resumed else []
        return any(e.kind == event.kind and _content(e) == _content(event) for e in earlier)

    def _show(self, place: int) -> None:
        event = self.recorded[place]
        self._written[place] = True
        self.shown.append(event)
        if event.key is not None:
            self._by_key[event.key] = event
        self._fold.add(event)


def _of(kind: type[E], event: Event) -> E:
    assert isinstance(event, kind)  # keys begin with the kind
    return event


def difference(recorded: Any, replayed: Any, where: str = "") -> tuple[str, str, str] | None:
    """Return the first place where two plain JSON values differ and both values, or None."""
    if isinstance(recorded, dict) and isinstance(replayed, dict):
        # Fields that were added to nested records since are ignored, those of an event are not.
        added = [] if where else [name for name in replayed if name not in recorded]
        for name in [*recorded, *added]:
            inner = f"{where}.{name}" if where else str(name)
            if name not in recorded or name not in replayed:
                return inner, _say(recorded.get(name)), _say(replayed.get(name))
            if inner_difference := difference(recorded[name], replayed[name], inner):
                return inner_difference
        return None
    if isinstance(recorded, list) and isinstance(replayed, list):
        for i, (old, new) in enumerate(zip(recorded, replayed, strict=False)):
            if inner_difference := difference(old, new, f"{where}[{i}]"):
                return inner_difference
        if len(recorded) != len(replayed):
            i = min(len(recorded), len(replayed))
            return f"{where}[{i}]", _say(recorded[i:]), _say(replayed[i:])
        return None
    if recorded != replayed or type(recorded) is not type(replayed):
        return where, _say(recorded), _say(replayed)
    return None


def _content(event: Event) -> dict[str, Any]:
    """Return the content of an event without fields that differ between runs."""
    content: dict[str, Any] = json.loads(json.dumps(event.content()))
    content.pop("seconds", None)
    return content


def _say(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
