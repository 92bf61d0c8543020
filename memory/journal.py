"""The append-only record of a session: what is not in the journal did not happen."""

from __future__ import annotations

import hashlib
import json
import os
import re
import threading
from collections import defaultdict
from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from memory.errors import SessionError
from memory.files import storage_error, sync_folder, write_bytes
from memory.records import Round

SCHEMA = 1

Event = dict[str, Any]

_RESERVED = {"schema", "time", "chain"}
# How a line ends: the checksum of the line and of the one before it.
_CHAIN = re.compile(rb', "chain": "([0-9a-f]{16})"\}')
_CHAIN_BYTES = 30
UNDONE = "undone"
_RECORDS = ("plan", "batch", "training", "report")
_PARTS = ("failures", "credits", "verdict")
_FOLDED = frozenset([*_RECORDS, *_PARTS, "stage", "fallback"])


class Journal:
    """One session's journal.jsonl, open for appending by a single process, from any thread.

    `torn` is the file that holds what a crash had left of an unfinished last line, or None. Such
    a line was never acknowledged, so cutting it off loses nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.torn: Path | None = None
        if not path.exists():
            write_bytes(path, b"")
        self._events, n_whole = _parse(path)
        if n_whole < path.stat().st_size:
            self.torn = self._cut(n_whole)
        # Who steers a session appends beside the thread that runs it.
        self._lock = threading.Lock()
        self._index()

    def append(self, kind: str, *, key: str | None = None, **data: Any) -> Event:
        """Write one event of plain JSON values and return it once it is on the disk.

        With a `key` that is already there nothing is written and the earlier event is returned:
        work that runs again after a crash is recorded once. Raises StorageError when the disk is
        full; the journal is as before then.
        """
        with self._lock:
            return self._append(kind, key, data)

    def events(self, kind: str | None = None, undone: bool = False) -> list[Event]:
        """Return all events, or those of one kind, oldest first; see `standing` for `undone`."""
        found = self._events if undone else self._standing
        return [event for event in found if kind is None or event["kind"] == kind]

    def rounds(self) -> list[Round]:
        """Return the rounds so far, see `rounds`."""
        with self._lock:
            return self._fold.rounds()

    def get(self, key: str) -> Event | None:
        """Return the event with this key, or None."""
        return self._by_key.get(key)

    def _append(self, kind: str, key: str | None, data: dict[str, Any]) -> Event:
        if key is not None and key in self._by_key:
            return self._by_key[key]
        if clash := _RESERVED & data.keys():
            raise ValueError(f"event data must not be named {', '.join(sorted(clash))}")
        time = datetime.now(UTC).isoformat(timespec="milliseconds")
        head: Event = {"schema": SCHEMA, "time": time, "kind": kind}
        if key is not None:
            head["key"] = key
        text = json.dumps(head | data, ensure_ascii=False, allow_nan=False)
        before = self._events[-1].get("chain", "") if self._events else ""
        text = f'{text[:-1]}, "chain": "{_link(before, text.encode())}"}}'
        self._write(text.encode() + b"\n")
        # Read back, so that an event is the same now and after a restart.
        event: Event = json.loads(text)
        self._events.append(event)
        self._standing.append(event)
        self._fold.add(event)
        if key is not None:
            self._by_key[key] = event
        if kind == UNDONE:
            self._index()
        return event

    def _index(self) -> None:
        self._standing = standing(self._events)
        self._by_key = {event["key"]: event for event in self._standing if "key" in event}
        self._fold = RoundFold(self._standing)

    def _write(self, line: bytes) -> None:
        try:
            # Unbuffered: a buffer would be flushed again on close, after the truncation.
            with self.path.open("ab", buffering=0) as handle:
                n_before = os.fstat(handle.fileno()).st_size
                try:
                    rest = memoryview(line)
                    while rest:
                        rest = rest[handle.write(rest) :]
                    os.fsync(handle.fileno())
                except BaseException:
                    # Also for Ctrl-C: the next line must not be glued to half of this one.
                    handle.truncate(n_before)
                    raise
        except OSError as error:
            raise storage_error(self.path, error) from error

    def _cut(self, n_whole: int) -> Path:
        n = 1
        while (torn := self.path.with_name(f"{self.path.stem}.torn-{n}")).exists():
            n += 1
        with self.path.open("rb") as handle:
            handle.seek(n_whole)
            write_bytes(torn, handle.read())
        try:
            os.truncate(self.path, n_whole)
            sync_folder(self.path.parent)
        except OSError as error:
            raise storage_error(self.path, error) from error
        return torn


def read_events(path: Path, undone: bool = False) -> list[Event]:
    """Return the events of a journal without changing it; an unfinished last line is left out.

    With `undone` also those that were taken back. Raises SessionError when there is no such journal
    or a line within it is damaged.
    """
    events = _parse(path)[0]
    return events if undone else standing(events)


def standing(events: Iterable[Event]) -> list[Event]:
    """Return the events that count: all but those of rounds that were taken back later.

    An event `undone` takes back what was recorded before it of round `from_round` and later ones.
    What those rounds have cost is spent all the same.
    """
    found: list[Event] = []
    for event in events:
        if event["kind"] == UNDONE:
            found = [e for e in found if (round_of(e) or 0) < event["from_round"]]
        found.append(event)
    return found


def round_of(event: Event) -> int | None:
    """Return the round that an event belongs to, or None."""
    for holder in (event, *(event.get(name) for name in (*_RECORDS, "lesson"))):
        if isinstance(holder, dict) and "round" in holder:
            return int(holder["round"])
    return None


def changed_lines(path: Path) -> list[int]:
    """Return the numbers of the lines that are not as they were written, or follow a gap.

    Lines of a version that wrote no checksums are taken as they are.
    """
    changed = []
    before = ""
    for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
        tail = _CHAIN.fullmatch(line[-_CHAIN_BYTES:])
        found = tail[1].decode() if tail else ""
        if tail:
            intact = found == _link(before, line[:-_CHAIN_BYTES] + b"}")
        else:
            intact = not before and b'"chain"' not in line[-_CHAIN_BYTES - 8 :]
        if not intact:
            changed.append(number)
        before = found
    return changed


def seal(lines: Iterable[bytes]) -> list[bytes]:
    """Return lines whose text was changed on purpose with checksums that fit again."""
    sealed = []
    before = ""
    for line in lines:
        text = line.rstrip(b"\n")
        if _CHAIN.fullmatch(text[-_CHAIN_BYTES:]):
            text = text[:-_CHAIN_BYTES] + b"}"
        before = _link(before, text)
        sealed.append(text[:-1] + f', "chain": "{before}"}}\n'.encode())
    return sealed


class RoundFold:
    """Rounds, folded from events as they come; only rounds with new events are folded again."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._new = [event for event in events if event["kind"] in _FOLDED]
        self._events: dict[int, list[Event]] = defaultdict(list)
        self._rounds: dict[int, Round] = {}

    def add(self, event: Event) -> None:
        """Take in the next event."""
        if event["kind"] in _FOLDED:
            self._new.append(event)

    def rounds(self) -> list[Round]:
        """Return the rounds so far, see `rounds`."""
        for event in self._new:
            kind = event["kind"]
            number = event[kind]["round"] if kind in _RECORDS else event.get("round", 0)
            if number >= 1:
                self._events[number].append(event)
                self._rounds.pop(number, None)
        self._new = []
        for number in self._events.keys() - self._rounds.keys():
            self._rounds[number] = _fold(number, self._events[number])
        return [self._rounds[number] for number in sorted(self._rounds)]


def rounds(events: Iterable[Event]) -> list[Round]:
    """Fold events into one record per round, ordered by number.

    Of several events of one kind and round the last counts; the seconds of a stage add up. What
    belongs to no round (number 0, such as a report before the first plan) is left out.
    """
    return RoundFold(events).rounds()


def _fold(number: int, events: Iterable[Event]) -> Round:
    parts: dict[str, Any] = {}
    for event in events:
        kind = event["kind"]
        if kind == "stage":
            seconds = parts.setdefault("seconds", {})
            seconds[event["stage"]] = seconds.get(event["stage"], 0.0) + event["seconds"]
        elif kind == "fallback":
            parts["fallbacks"] = parts.get("fallbacks", 0) + 1
        else:
            parts[kind] = event[kind]
    try:
        return Round(number=number, **parts)
    except ValidationError as error:
        raise SessionError(
            "The journal holds a round that this version cannot read; continue the session with "
            f"the version that began it. {error}"
        ) from error


def _link(before: str, line: bytes) -> str:
    """Return the checksum of a line that follows one with the checksum `before`."""
    return hashlib.sha256(before.encode() + line).hexdigest()[:16]


def _parse(path: Path) -> tuple[list[Event], int]:
    """Return the events and how many bytes their whole lines take."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError as error:
        raise SessionError(f"There is no journal at {path}; is it a session's folder?") from error
    unfinished = lines.pop()
    events: list[Event] = []
    n_whole = 0
    for number, line in enumerate(lines, 1):
        try:
            event = json.loads(line.decode())
        except ValueError as error:
            if number == len(lines) and not unfinished:
                break
            raise SessionError(
                f"{path}, line {number} is damaged: {error}. Restore the file from a copy, or cut "
                f"it before line {number} and run the session again from there."
            ) from error
        if not isinstance(event, dict) or event.get("schema") != SCHEMA or "kind" not in event:
            raise SessionError(
                f"{path}, line {number} is not an event of schema {SCHEMA}; continue the session "
                "with the version of the program that wrote it."
            )
        events.append(event)
        n_whole += len(line) + 1
    return events, n_whole
