"""The sessions that a web page shows: those that this process holds, and those it only reads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

from agent.chat.conversation import Conversation
from agent.chat.live import Happened, LiveSession
from agent.chat.overview import say_progress
from agent.config.settings import Settings, with_changes
from agent.session.control import condition
from agent.session.folder import (
    SessionInfo,
    folder_of,
    list_sessions,
    next_name,
    open_session,
    state_of,
    stored_settings,
)
from eval.report.blocks import Block, Line
from memory.errors import SessionError, ShapingError
from memory.journal import Event, read_events, rounds
from memory.records import Round, digest

# Of what was said, so much is kept for those who come later.
MAX_ENTRIES = 200

Mode = Literal["here", "free", "elsewhere"]
"""here: this process holds the session; free: nobody does; elsewhere: another process does."""


@dataclass(frozen=True)
class Entry:
    """A turn of the chat: what a person said, "" for the session itself, and what was shown."""

    said: str
    blocks: Sequence[Block]


class Progress(NamedTuple):
    """How far the stage in hand is, in `unit`; total is 0 where that is not counted."""

    done: int
    total: int
    unit: str


class Sight(NamedTuple):
    """A session at one moment, as its folder or this process knows it.

    state: of `agent.chat.live` for a session held here, else of `agent.session.folder`; told: one
    line.
    """

    name: str
    mode: Mode
    state: str
    told: str
    progress: Progress
    rounds: Sequence[Round]
    n_done: int
    n_rounds: int
    brain: str


class Room:
    """A session that this process holds, and what is said in it; shared by all who look at it.

    Raises what `open_session` raises.
    """

    def __init__(self, settings: Settings, name: str, auto_s: float | None) -> None:
        self.entries: list[Entry] = []
        self._error: Exception | None = None
        self._lock = threading.RLock()
        self._opened = threading.Event()
        self._thread = threading.Thread(
            target=self._hold, args=(settings, name, auto_s), name=f"room {name}", daemon=True
        )
        self._thread.start()
        self._opened.wait()
        if self._error is not None:
            raise self._error

    @property
    def open(self) -> bool:
        """Whether the session is still held."""
        return self._thread.is_alive()

    @property
    def plan_mark(self) -> str:
        """What tells the plan that waits from any other, also from itself before an edit."""
        question = self.live.question
        return digest(question.plan.to_json()) if question and question.plan else ""

    def say(self, line: str, seen: str = "") -> None:
        """Do what a line asks for; what is shown in return is added for everybody.

        seen: the mark of the plan that the line is about. Raises SessionError, and does nothing,
        when another plan waits by now.
        """
        with self._lock:
            if seen and self.plan_mark not in ("", seen):
                raise SessionError(
                    "The plan has changed since this page showed it, so nothing was done. "
                    "Look at the plan that waits now."
                )
            before, shown = self.live.question, self.talk.say(line)
            if line.startswith(("/edit", "/add")) and self.live.question is not before:
                shown = [Line("The plan above is changed.", "good")]
            self._add(line, shown)

    def close(self) -> None:
        """End the session at its next safe point and let go of it."""
        if self.open:
            self.live.tell("end")
            self._thread.join()
        if self._error is not None and not isinstance(self._error, ShapingError):
            raise self._error

    def _hold(self, settings: Settings, name: str, auto_s: float | None) -> None:
        # A lock of a file is let go by the thread that took it, so this one opens and closes.
        try:
            with open_session(settings, name) as session:
                self.live = LiveSession(session, auto_s)
                self.talk = Conversation(self.live)
                heard = self.live.listen()
                self._opened.set()
                try:
                    self._add("", [Line(self.live.bench.target.notice, "dim")])
                    while (happened := heard.get()).kind != "end":
                        self._add("", self._show(happened))
                finally:
                    self.live.close()
        except Exception as error:
            # Raised again by the thread that made the room, or that closes it.
            self._error = error
        finally:
            self._opened.set()

    def _show(self, happened: Happened) -> Sequence[Block]:
        """Return what to show in the chat; a plan has a place of its own on the page."""
        if happened.kind == "question" and happened.record.kind == "plan":
            return [Line(f"The plan of round {happened.record.round} waits for you above.", "bold")]
        return self.talk.show(happened)

    def _add(self, said: str, blocks: Sequence[Block]) -> None:
        with self._lock:
            self.entries = [*self.entries, Entry(said, blocks)][-MAX_ENTRIES:]


class Hall:
    """The sessions of a home folder, and the rooms of those that this process holds.

    begin: settings of a new session of a preset; auto_s: as of `LiveSession`.
    """

    def __init__(
        self, home: Path, begin: Callable[[str], Settings], auto_s: float | None = None
    ) -> None:
        self.home = home
        self._begin, self._auto_s = begin, auto_s
        self._rooms: dict[str, Room] = {}
        self._folded: dict[str, tuple[object, list[Event], list[Round]]] = {}
        self._lock = threading.Lock()

    def sessions(self) -> list[SessionInfo]:
        """Return all sessions, the latest first."""
        return list_sessions(self.home)

    def room(self, name: str) -> Room | None:
        """Return the room of a session that is held here, or None."""
        room = self._rooms.get(name)
        return room if room is not None and room.open else None

    def enter(self, name: str, settings: Settings | None = None) -> Room:
        """Return the room of a session, taking the session if nobody has it.

        settings: of a new session. Raises SessionError when another process has it.
        """
        with self._lock:
            found = self.room(name)
            if found is None:
                if settings is None:
                    own = [f"session.name={name}", f"home={self.home}"]
                    settings = with_changes(stored_settings(self.home, name), own)
                found = self._rooms[name] = Room(settings, name, self._auto_s)
            return found

    def begin(self, preset: str) -> str:
        """Make a session of a preset, held here, and return its name."""
        return self.begin_with(self._begin(preset))

    def begin_with(self, settings: Settings) -> str:
        """Open the session that settings name, or a new one, and return its name."""
        name = settings.session.name or next_name(self.home, settings.stem)
        self.enter(name, settings)
        return name

    def leave(self, name: str) -> None:
        """Let go of a session, at its next safe point, so that other programs can have it."""
        room = self.room(name)
        if room is not None:
            room.close()

    def close(self) -> None:
        """Let go of all sessions."""
        for name in list(self._rooms):
            self.leave(name)

    def settings(self, name: str) -> Settings:
        """Return the settings of a session, with this home; raises SettingsError for no session."""
        return stored_settings(self.home, name).model_copy(update={"home": self.home})

    def folder(self, name: str) -> Path:
        """Return the folder of a session; raises SettingsError for what is no plain name."""
        return folder_of(self.home, name)

    def rounds(self, name: str) -> Sequence[Round]:
        """Return the rounds of a session so far."""
        return self._fold(name)[1]

    def look(self, name: str) -> Sight:
        """Return what a session does now; raises SettingsError when there is no such session."""
        room = self.room(name)
        events, past = self._fold(name)
        n_done = sum(event["kind"] == "round_done" for event in events)
        mode: Mode
        state: str
        if room is not None:
            settings, now = room.live.session.settings, room.live.progress
            told = say_progress(room.live)
            progress, mode, state = Progress(now.done, now.total, now.unit), "here", now.state
        else:
            settings, found = self.settings(name), condition(self.folder(name))
            state = state_of(found, events, settings.session.rounds)
            is_held = found.state in ("running", "paused", "stuck")
            mode = "elsewhere" if is_held else "free"
            told, progress = state, Progress(0, 0, "")
            if is_held and (beat := found.heartbeat):
                where = f"round {beat.round}: {beat.stage}" if beat.stage else beat.why
                told = f"{state} in process {beat.holder.pid} on {beat.holder.host}, {where}"
                progress = Progress(beat.done, beat.total, beat.unit)
        n_rounds = settings.session.rounds
        return Sight(name, mode, state, told, progress, past, n_done, n_rounds, settings.brain)

    def _fold(self, name: str) -> tuple[list[Event], list[Round]]:
        """Return the events and rounds of a session, read again only when there are new ones."""
        path = self.folder(name) / "journal.jsonl"
        if not path.exists():
            stored_settings(self.home, name)
            return [], []
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        known = self._folded.get(name)
        if known is None or known[0] != stamp:
            events = read_events(path)
            known = self._folded[name] = (stamp, events, rounds(events))
        return known[1], known[2]
