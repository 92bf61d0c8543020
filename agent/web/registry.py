"""The sessions of a home folder: hosted by this process, or only read."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from queue import SimpleQueue
from typing import Literal, NamedTuple

from agent.chat.conversation import Conversation
from agent.chat.live import LiveSession, SessionEvent
from agent.chat.overview import say_progress
from agent.config.settings import Settings, with_changes
from agent.session.control import condition
from agent.session.folder import (
    folder_of,
    next_name,
    open_session,
    state_of,
    stored_settings,
)
from eval.report.blocks import Block, Line
from memory.errors import SessionError, ShapingError
from memory.events import Event, RoundDoneEvent
from memory.journal import read_events, rounds
from memory.records import Round, digest

# Turns of the chat that are stored for later viewers.
MAX_ENTRIES = 200

Mode = Literal["here", "free", "elsewhere"]
"""here: hosted by this process; free: open in no process; elsewhere: open in another process."""


@dataclass(frozen=True)
class ChatTurn:
    """A turn of the chat.

    Attributes:
        text: Line of a user; "": a message of the session.
        blocks: The reply or message.
    """

    text: str
    blocks: Sequence[Block]


class SessionSnapshot(NamedTuple):
    """A session at one moment.

    Attributes:
        name: Name of the session.
        mode: Which process has it open.
        state: A state of `agent.chat.live` if it is hosted here, else of `agent.session.folder`.
        status: One line of text: round, stage, and the process if it is another one.
        done: Finished units of the current stage.
        total: Units of the current stage; 0 if they are not counted.
        rounds: All rounds so far.
        n_done: Number of finished rounds.
        n_rounds: Number of rounds by the settings.
        brain: Name of the brain.
    """

    name: str
    mode: Mode
    state: str
    status: str
    done: int
    total: int
    rounds: Sequence[Round]
    n_done: int
    n_rounds: int
    brain: str


class HostedSession:
    """A session opened by this process, with one chat for all viewers.

    Raises:
        ShapingError: As of `open_session`.
    """

    def __init__(self, settings: Settings, name: str, auto_s: float | None) -> None:
        self._error: Exception | None = None
        self._lock = threading.RLock()
        with ExitStack() as stack:
            self.live = LiveSession(stack.enter_context(open_session(settings, name)), auto_s)
            stack.callback(self.live.close)
            self.conversation = Conversation(self.live)
            self.entries = [ChatTurn("", [Line(self.live.components.target.notice, "dim")])]
            self._open = stack.pop_all()
        events = self.live.listen()
        self._thread = threading.Thread(
            target=self._follow, args=(events,), name=f"host of {name}", daemon=True
        )
        self._thread.start()

    @property
    def is_open(self) -> bool:
        """Whether the session is still open in this process."""
        return self._thread.is_alive()

    @property
    def plan_mark(self) -> str:
        """Digest of the pending plan, which changes with every edit; "": no plan is pending."""
        question = self.live.question
        return digest(question.plan.to_json()) if question and question.plan else ""

    def submit(self, line: str, plan_mark: str = "") -> None:
        """Execute a line of the chat and append its reply.

        Args:
            line: A slash command or plain words.
            plan_mark: `plan_mark` of the plan that the line refers to; "": no particular plan.

        Raises:
            SessionError: Another plan is pending by now; nothing was done.
        """
        with self._lock:
            if plan_mark and self.plan_mark not in ("", plan_mark):
                raise SessionError(
                    "The plan has changed since this page showed it, so nothing was done. "
                    "Look at the plan that waits now."
                )
            before, blocks = self.live.question, self.conversation.say(line)
            if line.startswith(("/edit", "/add")) and self.live.question is not before:
                blocks = [Line("The plan on this page is changed.", "good")]
            self._append(line, blocks)

    def close(self) -> None:
        """End the session at its next safe point and release it."""
        if self.is_open:
            self.live.tell("end")
            self._thread.join()
        if self._error is not None and not isinstance(self._error, ShapingError):
            raise self._error

    def _follow(self, events: SimpleQueue[SessionEvent]) -> None:
        """Append the events of the session to the chat, and close the session at its end."""
        try:
            with self._open:
                while (event := events.get()).kind != "end":
                    self._append("", self._blocks_of(event))
        except Exception as error:
            self._error = error  # raised again by `close`

    def _blocks_of(self, event: SessionEvent) -> Sequence[Block]:
        """Return the blocks of an event; a plan is shown elsewhere on the page."""
        if event.kind == "question" and event.record.kind == "plan":
            return [Line(f"The plan of round {event.record.round} waits for you.", "bold")]
        return self.conversation.show(event)

    def _append(self, text: str, blocks: Sequence[Block]) -> None:
        with self._lock:
            self.entries = [*self.entries, ChatTurn(text, blocks)][-MAX_ENTRIES:]


class SessionRegistry:
    """All sessions of a home folder, some of them hosted by this process.

    Args:
        home: Home folder.
        settings_of: Returns the settings of a new session of a preset.
        auto_s: Seconds after which a plan is approved without an answer; None: never.
    """

    def __init__(
        self, home: Path, settings_of: Callable[[str], Settings], auto_s: float | None = None
    ) -> None:
        self.home = home
        self._settings_of, self._auto_s = settings_of, auto_s
        self._hosted: dict[str, HostedSession] = {}
        self._read: dict[str, tuple[object, list[Event], list[Round]]] = {}
        self._lock = threading.Lock()

    def hosted(self, name: str) -> HostedSession | None:
        """Return a session hosted by this process; None: it is not."""
        session = self._hosted.get(name)
        return session if session is not None and session.is_open else None

    def open(self, name: str, settings: Settings | None = None) -> HostedSession:
        """Return a session hosted by this process, opening it if necessary.

        Args:
            name: Name of the session.
            settings: Settings of a new session; None: the stored ones.

        Raises:
            SessionError: Another process has it open.
        """
        with self._lock:
            session = self.hosted(name)
            if session is None:
                if settings is None:
                    settings = with_changes(
                        stored_settings(self.home, name), [f"session.name={name}"]
                    )
                session = self._hosted[name] = HostedSession(settings, name, self._auto_s)
            return session

    def begin(self, preset: str) -> str:
        """Open a new session of a preset and return its name."""
        return self.open_as_set(self._settings_of(preset))

    def open_as_set(self, settings: Settings) -> str:
        """Open the session named by settings, or a new one, and return its name."""
        name = settings.session.name or next_name(self.home, settings.stem)
        self.open(name, settings)
        return name

    def release(self, name: str) -> None:
        """Close a hosted session at its next safe point, so that other programs can open it."""
        if session := self.hosted(name):
            session.close()

    def close(self) -> None:
        """Release all sessions."""
        for name in list(self._hosted):
            self.release(name)

    def settings(self, name: str) -> Settings:
        """Return the settings of a session; raises SettingsError if it does not exist."""
        if session := self.hosted(name):
            return session.live.session.settings
        return stored_settings(self.home, name)

    def rounds(self, name: str) -> Sequence[Round]:
        """Return the rounds of a session so far."""
        return self._journal(name)[1]

    def snapshot(self, name: str) -> SessionSnapshot:
        """Return a snapshot of a session; raises SettingsError if it does not exist."""
        events, past = self._journal(name)
        settings = self.settings(name)
        mode: Mode = "free"
        state: str
        if session := self.hosted(name):
            progress = session.live.progress
            mode, state, status = "here", progress.state, say_progress(session.live)
            done, total = progress.done, progress.total
        else:
            now = condition(folder_of(self.home, name))
            state = status = state_of(now, events, settings.session.rounds)
            done = total = 0
            if now.state in ("running", "paused", "stuck"):
                mode = "elsewhere"
                if beat := now.heartbeat:
                    place = f"round {beat.round}: {beat.stage}" if beat.stage else beat.why
                    status = f"{state} in process {beat.holder.pid} on {beat.holder.host}"
                    status += f", {place}" if place else ""
                    done, total = beat.done, beat.total
        return SessionSnapshot(
            name=name,
            mode=mode,
            state=state,
            status=status,
            done=done,
            total=total,
            rounds=past,
            n_done=sum(isinstance(event, RoundDoneEvent) for event in events),
            n_rounds=settings.session.rounds,
            brain=settings.brain,
        )

    def _journal(self, name: str) -> tuple[list[Event], list[Round]]:
        """Return the events and rounds of a session, cached until its journal changes."""
        path = folder_of(self.home, name) / "journal.jsonl"
        if not path.exists():
            stored_settings(self.home, name)
            return [], []
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        cached = self._read.get(name)
        if cached is None or cached[0] != stamp:
            events = read_events(path)
            cached = self._read[name] = (stamp, events, rounds(events))
        return cached[1], cached[2]
