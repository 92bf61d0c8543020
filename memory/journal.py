"""The journal of a session: append-only, one event per line."""

from __future__ import annotations

import contextlib
import json
import os
import sys
import threading
from collections import OrderedDict, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, NamedTuple, TypeVar, cast, overload

from pydantic import ValidationError

from memory.chain import link
from memory.errors import SessionError
from memory.events import (
    SCHEMA,
    Event,
    ForkedEvent,
    HeadEvent,
    UndoneEvent,
    kind_of,
    parse_event,
)
from memory.files import first_free, storage_error, storing, sync_folder, write_bytes
from memory.records import Round, first_problem
from memory.rounds import RoundFold, fold, is_folded

# Version of the recorded content; a session keeps the rules of the version that it began with.
# Journals of version 0 (without the field) cannot be replayed.
# 2: credits and verdicts are corrected for retraining and chance (`eval.effects`).
# 3: the graph calls the tools that are due (`agent.loop.state.due`); plans spend the budget.
# 4: plans may have levers (`agent.loop.levers`), which the tool offers.
# 6: plans may have a schedule, and name the draft that they take (`agent.loop.state.NAMES_DRAFT`).
RECORD_VERSION = 6

E = TypeVar("E", bound=Event)

# Numbers of events and rounds kept in memory: more than the events of a round, and more than the
# rounds that are looked back on.
_N_EVENTS, _N_ROUNDS = 256, 40
# Bytes at the end of a line that include its checksum.
_END_BYTES = 64


class _Line(NamedTuple):
    """Position of a line in bytes, and the indexed fields of its event.

    from_round: first undone round, for the kind `undone`, else None.
    """

    start: int
    length: int
    kind: str
    key: str | None
    round: int | None
    from_round: int | None


class Journal:
    """The journal.jsonl of a session, appended to by a single process, from any thread.

    Only the line positions of older events are kept in memory; the events are read again on
    request, so that memory and time per round do not grow with the session.

    Attributes:
        path: The file.
        torn: File with the unfinished last line of an interrupted write, or None. Such a line was
            never acknowledged, so removing it from the journal loses nothing.
        n_read: Number of lines read so far.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn: Path | None = None
        self.n_read = 0
        if not path.exists():
            write_bytes(path, b"")
        # Steering in chat appends from another thread than the session.
        self._lock = threading.Lock()
        self._lines: list[_Line] = []
        self._recent: OrderedDict[int, Event] = OrderedDict()
        self._n_bytes, self._chain = 0, ""
        for event, n_bytes in scan(path):
            self._take_in(event, n_bytes)
        self.n_read = len(self._lines)
        self._index()
        if self._n_bytes < path.stat().st_size:
            self.torn = self._cut(self._n_bytes)

    def append(self, event: E, /) -> E:
        """Write an event to the disk and return it as it will be read again.

        If the journal has an event with the same key, nothing is written and the earlier event is
        returned: work that is repeated after a crash is recorded once.

        Raises:
            StorageError: The disk is full; the journal is unchanged.
            ValueError: The event contains a number that JSON cannot represent, such as NaN.
        """
        with self._lock:
            return cast(E, self._append(event))

    @overload
    def events(self, *, undone: bool = False, since: int | None = None) -> list[Event]: ...

    @overload
    def events(
        self, *kinds: type[E], undone: bool = False, since: int | None = None
    ) -> list[E]: ...

    def events(
        self, *kinds: type[Event], undone: bool = False, since: int | None = None
    ) -> Sequence[Event]:
        """Return all events, or the events of some kinds, oldest first.

        Args:
            kinds: Classes of events; none for all.
            undone: Whether undone events are included, see `standing`.
            since: First round; events of earlier rounds and of no round are left out. None: all.
        """
        names = [kind_of(kind) for kind in kinds]
        with self._lock:
            if undone:
                lines = enumerate(self._lines)
                places = [i for i, line in lines if not names or line.kind in names]
            elif names:
                places = sorted(i for name in names for i in self._by_kind.get(name, ()))
            else:
                places = self._standing
            if since is not None:
                places = [i for i in places if (self._lines[i].round or 0) >= since]
            return self._read(places)

    def of_rounds(self, *numbers: int) -> list[Event]:
        """Return the events of some rounds, oldest first."""
        with self._lock:
            return self._read(sorted(i for n in numbers for i in self._by_round.get(n, ())))

    def count(self, kind: type[Event]) -> int:
        """Return the number of events of a kind."""
        with self._lock:
            return len(self._by_kind.get(kind_of(kind), ()))

    def appended(self, n_known: int) -> list[Event]:
        """Return the events after the first `n_known`, including undone ones."""
        with self._lock:
            return self._read(range(n_known, len(self._lines)))

    def rounds(self, last: int | None = None) -> list[Round]:
        """Return the last rounds, None for all, see the function `rounds`."""
        with self._lock:
            numbers = sorted(self._folded)
            return [self._round(n) for n in (numbers if last is None else numbers[-last:])]

    def round(self, number: int) -> Round | None:
        """Return a round, or None if it has no events."""
        with self._lock:
            return self._round(number) if number in self._folded else None

    def get(self, key: str, kind: type[E], /) -> E | None:
        """Return the event with a key, whose class is `kind`, or None."""
        with self._lock:
            event = self._get(key)
        assert event is None or isinstance(event, kind)  # keys begin with the kind
        return event

    def _get(self, key: str) -> Event | None:
        place = self._by_key.get(key)
        if place is None:
            return None
        (event,) = self._read([place])
        self._remember(place, event)
        return event

    def _append(self, event: Event) -> Event:
        if event.key is not None and (earlier := self._get(event.key)) is not None:
            return earlier
        event = event.hidden()
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        head = {"schema": SCHEMA, "time": time, "kind": event.kind}
        if event.key is not None:
            head["key"] = event.key
        text = json.dumps(head | event.content(), ensure_ascii=False, allow_nan=False)
        text = f'{text[:-1]}, "chain": "{link(self._chain, text.encode())}"}}'
        # Parsed again, so that the event is the same as after a restart.
        event = parse_event(text)
        line = text.encode() + b"\n"
        self._write(line)
        self._take_in(event, len(line))
        if isinstance(event, UndoneEvent):
            self._index()
        else:
            self._enter(len(self._lines) - 1)
        return event

    def _take_in(self, event: Event, n_bytes: int) -> None:
        first = event.from_round if isinstance(event, UndoneEvent) else None
        kind = sys.intern(event.kind)
        line = _Line(self._n_bytes, n_bytes, kind, event.key, event.round_number, first)
        self._lines.append(line)
        self._n_bytes += n_bytes
        self._chain = event.chain
        self._remember(len(self._lines) - 1, event)

    def _index(self) -> None:
        self._standing: list[int] = []
        for place, line in enumerate(self._lines):
            first = line.from_round
            if first is not None:
                self._standing = [i for i in self._standing if (self._lines[i].round or 0) < first]
            self._standing.append(place)
        standing_, self._standing = self._standing, []
        self._by_key: dict[str, int] = {}
        self._by_kind: dict[str, list[int]] = defaultdict(list)
        self._by_round: dict[int, list[int]] = defaultdict(list)
        self._folded: set[int] = set()
        self._rounds: OrderedDict[int, Round] = OrderedDict()
        for place in standing_:
            self._enter(place)

    def _enter(self, place: int) -> None:
        line = self._lines[place]
        self._standing.append(place)
        self._by_kind[line.kind].append(place)
        if line.key is not None:
            self._by_key[line.key] = place
        if line.round is not None:
            self._by_round[line.round].append(place)
            if is_folded(line.kind, line.round):
                self._folded.add(line.round)
                self._rounds.pop(line.round, None)

    def _round(self, number: int) -> Round:
        if number not in self._rounds:
            places = [i for i in self._by_round[number] if is_folded(self._lines[i].kind, number)]
            self._rounds[number] = fold(number, self._read(places))
            if len(self._rounds) > _N_ROUNDS:
                self._rounds.popitem(last=False)
        self._rounds.move_to_end(number)
        return self._rounds[number]

    def _read(self, places: Sequence[int]) -> list[Event]:
        """Return the events at line numbers, from memory or else from the file."""
        events = []
        with contextlib.ExitStack() as opened:
            handle = None
            for place in places:
                event = self._recent.get(place)
                if event is None:
                    handle = handle or opened.enter_context(self.path.open("rb"))
                    line = self._lines[place]
                    handle.seek(line.start)
                    event = parse_event(handle.read(line.length))
                    self.n_read += 1
                events.append(event)
        return events

    def _remember(self, place: int, event: Event) -> None:
        self._recent[place] = event
        self._recent.move_to_end(place)
        if len(self._recent) > _N_EVENTS:
            # The head is kept, since every round needs it.
            del self._recent[next(place for place in self._recent if place)]

    def _write(self, line: bytes) -> None:
        # Unbuffered: a buffer would be flushed again on close, after the truncation.
        with storing(self.path), self.path.open("a+b", buffering=0) as handle:
            n_before = os.fstat(handle.fileno()).st_size
            self._check_untouched(handle, n_before)
            try:
                rest = memoryview(line)
                while rest:
                    rest = rest[handle.write(rest) :]
                os.fsync(handle.fileno())
            except BaseException:
                # Also on Ctrl-C: the next line must not be appended to a part of this one.
                handle.truncate(n_before)
                raise

    def _check_untouched(self, handle: IO[bytes], n_bytes: int) -> None:
        """Raise SessionError if another process has written to the journal."""
        handle.seek(max(0, self._n_bytes - _END_BYTES))
        if n_bytes != self._n_bytes or self._chain.encode() not in handle.read():
            raise SessionError(
                f"Another process has written to {self.path}, which has {n_bytes} bytes where this "
                f"one left {self._n_bytes}. Only one may work on a session, also of two machines "
                "that share its folder. Stop the other one, and run the command again."
            )

    def _cut(self, n_whole: int) -> Path:
        torn = first_free(lambda n: self.path.with_name(f"{self.path.stem}.torn-{n}"))
        with self.path.open("rb") as handle:
            handle.seek(n_whole)
            write_bytes(torn, handle.read())
        with storing(self.path):
            os.truncate(self.path, n_whole)
            sync_folder(self.path.parent)
        return torn


def read_events(path: Path, undone: bool = False) -> list[Event]:
    """Return the events of a journal without changing it; an unfinished last line is left out.

    undone: whether undone events are included. Raises SessionError, see `scan`.
    """
    events = [event for event, _ in scan(path)]
    return events if undone else standing(events)


def standing(events: Iterable[Event]) -> list[Event]:
    """Return the events without those of rounds that were undone later.

    An event `undone` removes the events before it of round `from_round` and later rounds. The costs
    of those rounds remain spent.
    """
    kept: list[Event] = []
    for event in events:
        if isinstance(event, UndoneEvent):
            kept = [e for e in kept if (e.round_number or 0) < event.from_round]
        kept.append(event)
    return kept


def rounds(events: Iterable[Event]) -> list[Round]:
    """Fold events into one record per round, ordered by number.

    The last of several events of one kind and round is used; the seconds of a stage are summed.
    Round 0 is the baseline, if the session has one; events of no round are ignored.
    """
    return RoundFold(events).rounds()


def scan(path: Path) -> Iterator[tuple[Event, int]]:
    """Yield the events of a journal with the lengths of their lines in bytes.

    An unfinished last line is left out.

    Raises:
        SessionError: The journal does not exist, a line is damaged, or this version cannot read it.
    """
    try:
        handle = path.open("rb")
    except FileNotFoundError as error:
        raise SessionError(f"There is no journal at {path}; is it a session's folder?") from error
    except OSError as error:
        raise storage_error(path, error) from error
    with handle:
        for number, line in enumerate(handle, 1):
            if not line.endswith(b"\n"):
                return
            try:
                yield parse_event(line), len(line)
            except ValidationError as error:
                if error.errors(include_url=False)[0]["type"] != "json_invalid":
                    key, problem = first_problem(error)
                    raise SessionError(
                        f"{path}, line {number} is no event of schema {SCHEMA} that this version "
                        f"can read ({key}: {problem}); continue the session with the version of "
                        "the program that wrote it."
                    ) from error
                if not handle.read(1):
                    return
                raise SessionError(
                    f"{path}, line {number} is damaged: {error}. Restore the file from a copy, or "
                    f"cut it before line {number} and run the session again from there."
                ) from error


def find_head(events: Iterable[Event]) -> HeadEvent | None:
    """Return the event `session` that describes a session; None without one."""
    return next((event for event in events if isinstance(event, HeadEvent)), None)


def name_of(head: HeadEvent, events: Iterable[Event]) -> str:
    """Return the name of a session; of a fork, its own name and not that of its source."""
    return [head.session, *(e.session for e in events if isinstance(e, ForkedEvent))][-1]


def head_of(events: Sequence[Event]) -> HeadEvent:
    """Return the event `session` that describes a session.

    Raises:
        SessionError: There is none, or its record version is 0 or newer than this program's.
    """
    head = find_head(events)
    if head is None:
        raise SessionError("The journal has no event 'session', so it is no session's record.")
    if head.record == 0:
        raise SessionError(
            f"The session {head.session!r} was recorded by a version that did not write down "
            "what its rounds began with, so it cannot be run again or forked. It can be stepped "
            "through: shaping replay NAME"
        )
    if head.record > RECORD_VERSION:
        raise SessionError(
            f"The session {head.session!r} is a record of version {head.record}; this program "
            f"knows those up to {RECORD_VERSION}. Use the version of the program that wrote it."
        )
    return head
