"""A session's journal that is written a second time, and compared with what it held."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from memory.events import kind_of
from memory.journal import UNDONE, Event, RoundFold, round_of, standing
from memory.records import Round

# What the graph of a round writes; all else comes from outside of it and is taken as it is.
GRAPH_KINDS = frozenset(
    [
        "opening",
        "tools",
        "fallback",
        "model_call",
        "tool_call",
        "illegal_call",
        "told",
        "proposed",
        "steered",
        "plan",
        "generator",
        "stage",
        "batch",
        "training",
        "report",
        "failures",
        "credits",
        "verdict",
        "lesson",
        "round_done",
    ]
)
# What is written before the outcome that it leads to.
_ON_THE_WAY = frozenset(["tools", "stage", "fallback", "generator", "told"])
# What differs from run to run.
_VOLATILE = frozenset(["schema", "time", "kind", "key", "chain", "seconds"])


class Divergence(Exception):
    """The first place where the program does something else than the journal says.

    line: of the journal, from 1; where: the field, e.g. "messages[1].content"; recorded and
    replayed: what each of them has there.
    """

    def __init__(self, line: int, event: Event, where: str, recorded: str, replayed: str) -> None:
        super().__init__(f"line {line}, {event['kind']}, {where}")
        self.line, self.event, self.where = line, event, where
        self.recorded, self.replayed = recorded, replayed


class EndOfRecord(Exception):
    """The journal ends here, in the middle of a round."""


class RecordedJournal:
    """A journal that is written again: each event is compared with the recorded one.

    It shows only what had been written before, as the real one did at that time.
    """

    def __init__(self, everything: Sequence[Event]) -> None:
        self._everything = everything
        self.recorded = events = standing(everything)
        line_of = {id(event): n for n, event in enumerate(everything, 1)}
        self._lines = [line_of[id(event)] for event in events]
        self._place = {e["key"]: i for i, e in enumerate(events) if "key" in e}
        self._unkeyed: dict[str, list[int]] = defaultdict(list)
        for i, event in enumerate(events):
            if "key" not in event:
                self._unkeyed[event["kind"]].append(i)
        self._known = [False] * len(events)
        self._shown: list[Event] = []
        self._by_key: dict[str, Event] = {}
        self._fold = RoundFold()
        undone = [i for i, event in enumerate(events) if event["kind"] == UNDONE]
        self._n_before_undone = undone[-1] if undone else 0
        self._next = 0
        self._go_on()

    @property
    def next(self) -> int:
        """The index of the first event that has not been written again."""
        return self._next

    @property
    def finished(self) -> bool:
        """Tell whether all has been written again."""
        return self._next == len(self.recorded)

    def append(self, kind: Event | str, /, *, key: str | None = None, **data: Any) -> Any:
        """Return the recorded event; raises Divergence when it is another one."""
        if isinstance(kind, Event):
            key, data, kind = kind.key, kind.content(), kind.kind
        if key is not None and key in self._by_key:
            return self._by_key[key]
        place = self._find(kind, key)
        if place is None:
            self._diverge({"kind": kind, **data})
        event = self.recorded[place]
        # As the journal would read it back.
        found = difference(_plain(event), _plain(json.loads(json.dumps(data))))
        if found:
            raise Divergence(self._lines[place], event, *found)
        self._show(place)
        self._go_on()
        return event

    def events(
        self, *kinds: type[Event] | str, undone: bool = False, since: int | None = None
    ) -> list[Any]:
        """Return the events so far, as `Journal.events` does."""
        names = [kind if isinstance(kind, str) else kind_of(kind) for kind in kinds]
        found = self._everything[: self._n_written()] if undone else self._shown
        return [
            e
            for e in found
            if (not names or e["kind"] in names) and (since is None or (round_of(e) or 0) >= since)
        ]

    def count(self, kind: type[Event] | str) -> int:
        """Return how many events so far are of a kind."""
        name = kind if isinstance(kind, str) else kind_of(kind)
        return sum(e["kind"] == name for e in self._shown)

    def of_rounds(self, *numbers: int) -> list[Event]:
        """Return the events so far of some rounds."""
        return [e for e in self._shown if round_of(e) in numbers]

    def appended(self, n_known: int) -> list[Event]:
        """Return the events so far but for the first ones, undone ones among them."""
        return list(self._everything[n_known : self._n_written()])

    def _n_written(self) -> int:
        """Return how many lines had been written when what is due now was not."""
        return len(self._everything) if self.finished else self._lines[self._next] - 1

    def get(self, key: str, kind: type[Event] = Event, /) -> Any:
        """Return an event of those so far."""
        return self._by_key.get(key)

    def rounds(self, last: int | None = None) -> list[Round]:
        """Return the rounds so far, or the last few of them."""
        found = self._fold.rounds()
        return found if last is None else found[-last:]

    def round(self, number: int) -> Round | None:
        """Return one of the rounds so far, or None."""
        return next((r for r in reversed(self._fold.rounds()) if r.number == number), None)

    def find(self, key: str) -> Event | None:
        """Return the recorded event with this key, written again or not."""
        place = self._place.get(key)
        return None if place is None else self.recorded[place]

    def outcome(self, key: str) -> Event:
        """Return what came from outside under this key, before it is written again.

        Raises EndOfRecord when the journal ends here, Divergence when it goes on otherwise.
        """
        if event := self.find(key):
            return event
        places = range(self._next, len(self.recorded))
        left = [self.recorded[i]["kind"] for i in places if not self._known[i]]
        if _ON_THE_WAY.issuperset(left):
            raise EndOfRecord
        self._diverge({"kind": key.partition("/")[0], "key": key})

    def upcoming(self, kind: str) -> Event | None:
        """Return the next event of a kind that has not been written again, or None."""
        return next(
            (
                self.recorded[i]
                for i in range(self._next, len(self.recorded))
                if not self._known[i] and self.recorded[i]["kind"] == kind
            ),
            None,
        )

    def skip_to(self, key: str) -> None:
        """Show all up to the event with this key as if it had been written again."""
        while self._next <= self._place[key]:
            if not self._known[self._next]:
                self._show(self._next)
            self._next += 1

    def refuse(self, replayed: str) -> NoReturn:
        """Raise that something else comes next than the journal says."""
        expected = self.recorded[self._next]
        name = str(expected.get("key", expected["kind"]))
        raise Divergence(self._lines[self._next], expected, "kind", name, replayed)

    def _find(self, kind: str, key: str | None) -> int | None:
        if key is not None:
            return self._place.get(key)
        return next((i for i in self._unkeyed[kind] if not self._known[i]), None)

    def _diverge(self, data: Mapping[str, Any]) -> NoReturn:
        """Raise what is due when the program does what the journal does not hold."""
        if self.finished:
            raise EndOfRecord
        expected = self.recorded[self._next]
        if data["kind"] == expected["kind"]:
            found = difference(_plain(expected), _plain({**data}))
            if found:
                raise Divergence(self._lines[self._next], expected, *found)
        self.refuse(str(data.get("key", data["kind"])))

    def _go_on(self) -> None:
        """Show what came from outside since the last event, and what a crash made twice."""
        while self._next < len(self.recorded):
            event = self.recorded[self._next]
            if not self._known[self._next]:
                is_due = event["kind"] in GRAPH_KINDS and not self._is_left_over(self._next)
                if is_due and not self._is_repeated(event):
                    return
                self._show(self._next)
            self._next += 1

    def _is_left_over(self, place: int) -> bool:
        """Tell whether an event of no round was written in rounds that were taken back later.

        The rounds that are made instead write it again, or do not need it; what a person said
        behind it counts before that.
        """
        return place < self._n_before_undone and round_of(self.recorded[place]) is None

    def _is_repeated(self, event: Event) -> bool:
        """Tell whether an event without a key was written again after a resumption."""
        if "key" in event:
            return False
        resumed = next(
            (i for i in reversed(range(len(self._shown))) if self._shown[i]["kind"] == "resumed"),
            None,
        )
        return resumed is not None and any(
            e["kind"] == event["kind"] and _plain(e) == _plain(event) for e in self._shown[:resumed]
        )

    def _show(self, place: int) -> None:
        event = self.recorded[place]
        self._known[place] = True
        self._shown.append(event)
        if "key" in event:
            self._by_key[event["key"]] = event
        self._fold.add(event)


def difference(recorded: Any, replayed: Any, where: str = "") -> tuple[str, str, str] | None:
    """Return the first place where two values of plain JSON differ, and both values there."""
    if isinstance(recorded, dict) and isinstance(replayed, dict):
        # A field that a record has got since is no difference; of an event itself it is.
        added = [] if where else [name for name in replayed if name not in recorded]
        for name in [*recorded, *added]:
            inner = f"{where}.{name}" if where else str(name)
            if name not in recorded or name not in replayed:
                return inner, _say(recorded.get(name)), _say(replayed.get(name))
            if found := difference(recorded[name], replayed[name], inner):
                return found
        return None
    if isinstance(recorded, list) and isinstance(replayed, list):
        for i, (old, new) in enumerate(zip(recorded, replayed, strict=False)):
            if found := difference(old, new, f"{where}[{i}]"):
                return found
        if len(recorded) != len(replayed):
            i = min(len(recorded), len(replayed))
            return f"{where}[{i}]", _say(recorded[i:]), _say(replayed[i:])
        return None
    if recorded != replayed or type(recorded) is not type(replayed):
        return where, _say(recorded), _say(replayed)
    return None


def _plain(event: Event | Mapping[str, Any]) -> dict[str, Any]:
    return {k: v for k, v in event.items() if k not in _VOLATILE}


def _say(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
