"""A session that runs in a thread of its own while a user watches and steers it.

`LiveSession` is independent of the user interface: it starts, pauses, stops and undoes, passes
questions to the user and decisions to the session, and sends events to its listeners.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, Literal

from agent.config.sections import LimitSettings
from agent.loop.approval import ApprovalDecision, ApprovalRequest
from agent.loop.components import Components
from agent.loop.observer import Observer
from agent.session.control import Condition, request, requested
from agent.session.folder import Session, state_of, store_settings
from agent.session.limits import Ending
from agent.session.undo import clear_undone, undo
from eval.report.text import plural
from memory.errors import ShapingError, Stopped
from memory.records import Plan, Round

LiveState = Literal["idle", "working", "waiting", "paused", "finished", "failed"]
"""idle: not started, or stopped; waiting: for an answer; finished: a limit was reached."""

AT_REST = ("idle", "finished", "failed")
# Seconds between heartbeats while waiting for an answer, and at rest.
_BEAT_S = 0.5
_REST_S = 5.0


@dataclass(frozen=True)
class Progress:
    """Progress of a live session.

    Attributes:
        state: See `LiveState`.
        round: Number of the round; 0: before the first.
        stage: Name of the current stage.
        done: Finished units of the stage.
        total: Units of the stage; 0: not counted.
        unit: Name of the units, e.g. "images".
        per_s: Units per second.
        auto_s: Seconds until the plan is approved without an answer; None: never.
    """

    state: LiveState
    round: int = 0
    stage: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""
    per_s: float = 0.0
    auto_s: float | None = None


@dataclass(frozen=True)
class SessionEvent:
    """An event of a live session.

    Attributes:
        kind: "stage", "plan", "question", "round", "warning", "state", "blocks", or a kind that an
            interface sends itself.
        text: Description in one line.
        record: The plan, question, round or blocks (`eval.report.blocks`) of the event.
    """

    kind: str
    text: str = ""
    record: Any = None


def _state_before(session: Session) -> str:
    events, control = session.journal.events(), session.control
    if control.killed or not events:
        return "stopped" if events else "not started"
    return state_of(Condition("ended", control.before), events, session.settings.session.rounds)


class LiveSession:
    """One open session and the thread that runs it.

    Attributes:
        auto_s: Seconds after which a plan is approved without an answer; None: never.
        error: The error that the last run failed with; None: none.
        before: State of the session when it was opened; "stopped" once it has run.
        question: The open question; None: none.
        due_budget: Changes of the budget that apply from the next round on.
    """

    def __init__(self, session: Session, auto_s: float | None = None) -> None:
        self.components = Components.of_session(session, _LiveObserver(self))
        self.auto_s = auto_s
        self.error: Exception | None = None
        self.before = _state_before(session)
        self.question: ApprovalRequest | None = None
        self._answer: ApprovalDecision | None = None
        self._deadline: float | None = None
        self._progress = Progress("idle")
        self._stage_began = 0.0
        self._listeners: list[queue.SimpleQueue[SessionEvent]] = []
        self._changed = threading.Condition()
        self._wanted = False
        self._closing = False
        # Actions to perform, in order, once the session has stopped.
        self._due: list[Callable[[], None]] = []
        self._after_round = self._undoes = False
        self.due_budget: dict[str, float] = {}
        self._thread = threading.Thread(target=self._work, name="session", daemon=True)
        self._thread.start()

    @property
    def session(self) -> Session:
        """The session; its settings may change between rounds."""
        return self.components.session

    @property
    def progress(self) -> Progress:
        """The current progress."""
        now, deadline = self._progress, self._deadline
        if deadline is not None and now.state == "waiting":
            return replace(now, auto_s=max(0.0, deadline - time.monotonic()))
        return now

    def listen(self) -> queue.SimpleQueue[SessionEvent]:
        """Return a queue of all events from now on."""
        listener: queue.SimpleQueue[SessionEvent] = queue.SimpleQueue()
        self._listeners.append(listener)
        return listener

    def tell(self, kind: str, text: str = "", record: Any = None) -> None:
        """Send an event to all listeners."""
        for listener in list(self._listeners):
            listener.put(SessionEvent(kind, text, record))

    def start(self) -> None:
        """Start or continue the session; cancels a pause."""
        with self._changed:
            if not self._due:
                self._after_round = False
                request(self.session.folder, "continue")
            elif requested(self.session.folder) == "pause":
                # A budget change is due at the end of the round, an undo at a stop.
                request(self.session.folder, "continue" if self._after_round else "stop_now")
            if self._progress.state in AT_REST:
                self._wanted = True
            self._changed.notify_all()

    def pause(self) -> None:
        """Hold the session at its next safe point: between shards, steps or stages."""
        request(self.session.folder, "pause")

    def stop(self, after_round: bool = False) -> None:
        """End the work at the next safe point, or before the next round; nothing is lost."""
        with self._changed:
            self._after_round = after_round
            if not after_round:
                self._halt()

    def undo(self) -> bool:
        """Undo the latest accepted plan and plan its round again; False: an undo is in progress."""

        def take_back() -> None:
            self._undoes = False
            number = undo(self.session, self.components.memory)
            self.tell("state", f"Round {number} is taken back; it is planned anew.")
            self._wanted = True

        with self._changed:
            if self._undoes:
                return False
            self._undoes = True
            self._due.append(take_back)
            self._halt()
            return True

    def change_budget(self, **changes: float) -> None:
        """Change the number of rounds, images per round, or limits from the next round on.

        A session that ended by its budget continues; one that was stopped or failed does not.
        """
        limits = {name: changes[name] for name in changes.keys() & LimitSettings.model_fields}
        sizes = {name: value for name, value in changes.items() if name not in limits}
        goes_on = self._progress.state not in ("idle", "failed")

        def change() -> None:
            session, old = self.session, self.session.settings
            new_limits = old.limits.model_copy(update=limits)
            new_session = old.session.model_copy(update=sizes)
            settings = old.model_copy(update={"session": new_session, "limits": new_limits})
            session.control.keep(new_limits)
            store_settings(session.folder, settings)
            self.components.session = replace(session, settings=settings)
            self._wanted = self._wanted or goes_on
            self.due_budget = dict(self.due_budget.items() - changes.items())

        with self._changed:
            self.due_budget |= changes
            runs = self._progress.state not in AT_REST
            self._after_round = runs and (not self._due or self._after_round)
            self._due.append(change)
            self._changed.notify_all()

    def answer(self, answer: ApprovalDecision) -> bool:
        """Answer the open question; False: there is none, or it is already answered."""
        with self._changed:
            if self.question is None or self._answer is not None:
                return False
            self._answer = answer
            self._changed.notify_all()
            return True

    def ask_again(self, question: ApprovalRequest) -> None:
        """Replace the open question by an edited one and restart its clock."""
        with self._changed:
            if self.question is not None and self.question.key == question.key:
                self.question = question
                self._start_clock()

    def wait(self, timeout_s: float | None = None) -> LiveState:
        """Wait until the session is at rest, paused or needs an answer; return its state."""
        with self._changed:
            self._changed.wait_for(lambda: self._settled(), timeout_s)
            return self._progress.state

    def close(self, timeout_s: float | None = None) -> bool:
        """Stop at the next safe point and end the thread; return whether it has ended.

        Raises:
            Exception: The error that the session failed with, unless it is a ShapingError.
        """
        with self._changed:
            self._closing = True
            self._halt()
        self._thread.join(timeout_s)
        if self.error is not None and not isinstance(self.error, ShapingError):
            raise self.error
        return not self._thread.is_alive()

    # -- thread --------------------------------------------------------------------------------

    def _work(self) -> None:
        while True:
            with self._changed:
                while not (self._wanted or self._closing or self._due):
                    # A stop request needs no action at rest.
                    with suppress(Stopped):
                        self.session.control.rest("open in a chat")
                    self._changed.wait(_REST_S)
                # Due actions are performed before the thread ends.
                due, self._due = self._due, []
                if not due:
                    if self._closing:
                        return
                    self._wanted = False
                    self._progress = replace(self._progress, state="working")
            try:
                for action in due:
                    action()
                if not due:
                    self._run()
            except Exception as error:
                # Reported here and raised by `close`; otherwise it would end with the thread.
                self.error = error
                self._set("failed")
                self.tell("state", f"The session stopped by an error: {error}")

    def _run(self) -> None:
        from agent.autonomous.report import write_report
        from agent.autonomous.results import write_results
        from agent.autonomous.runner import run_rounds
        from agent.autonomous.thumbnails import show_start

        self.error, self.before = None, "stopped"
        n_before = self.session.n_done()
        control, journal = self.session.control, self.session.journal
        state: LiveState
        try:
            clear_undone(self.session, self.components.memory)
            control.check(between_stages=True)
            if picture := show_start(self.components):
                self.tell("state", f"Photographs that the session starts from: {picture}")
            ending, state = run_rounds(self.components), "finished"
        except Stopped as error:
            ending, state = Ending(error.rule, str(error)), "idle"
        request(self.session.folder, "continue")
        if not self._due or self._closing:
            n_done = self.session.n_done()
            journal.append(ending.event(n_done))
            text = "Stopped" if state == "idle" else f"Finished: {ending.message}"
            text = f"{text}. Rounds done: {n_done}."
            settings, folder = self.session.settings, self.session.folder
            if state != "idle" and (n_done > n_before or not (folder / "best").exists()):
                page = write_report(settings.home, folder.name, self.components.without_session())
                places = [page, *write_results(self.session)]
                text += f" Written: {', '.join(map(str, places))}."
            self.tell("state", text)
        self._set(state, stage="", done=0, total=0)

    def _halt(self) -> None:
        self._after_round = False
        self.question = None
        if self._progress.state not in AT_REST:
            request(self.session.folder, "stop_now")
        self._changed.notify_all()

    def _settled(self) -> bool:
        state = self._progress.state
        if self._due and (not self._after_round or state in AT_REST):
            return False
        if state == "waiting":
            # With a deadline the session continues without an answer.
            is_open = self._answer is None and self.question is not None
            return is_open and self._deadline is None
        return state in (*AT_REST, "paused") and not self._wanted

    def _set(self, state: LiveState | None = None, **where: Any) -> None:
        with self._changed:
            self._progress = replace(self._progress, state=state or self._progress.state, **where)
            self._changed.notify_all()

    def _start_clock(self) -> None:
        self._deadline = None if self.auto_s is None else time.monotonic() + self.auto_s


class _LiveObserver(Observer):
    """Observer that reports the work of the thread to its live session."""

    interactive = True
    approves = True

    def __init__(self, live: LiveSession) -> None:
        self._live = live

    def ask(self, question: ApprovalRequest) -> ApprovalDecision:
        """Wait for an answer; raises Stopped if the session has to end first."""
        live = self._live
        with live._changed:
            live.question, live._answer = question, None
            if question.kind == "plan":
                live._start_clock()
        control, folder = live.session.control, live.session.folder
        control.worked()
        live._set("waiting", round=question.round, stage="", done=0, total=0)
        live.tell("question", question.text, question)
        try:
            while True:
                control.rest("waits for an answer in a chat")
                is_held = requested(folder) == "pause"
                with live._changed:
                    if is_held and question.kind == "plan":
                        live._start_clock()
                    is_late = live._deadline is not None and time.monotonic() >= live._deadline
                    if live._answer is None and is_late:
                        return ApprovalDecision(verdict="approve", by="nobody")
                    live._changed.wait_for(lambda: live._answer is not None, _BEAT_S)
                    if live._answer is not None:
                        return live._answer
        finally:
            with live._changed:
                live.question = live._answer = live._deadline = None
            live._set("working")

    @contextmanager
    def stage(self, name: str, number: int) -> Iterator[None]:
        """Track a stage, and send an event when it ends."""
        live, started = self._live, time.monotonic()
        outside = live._progress
        live._stage_began = started
        live._set(round=number or outside.round, stage=name, done=0, total=0)
        yield
        live._set(stage=outside.stage, done=outside.done, total=outside.total)
        seconds = time.monotonic() - started
        if seconds >= 0.05:
            where = f"round {number}: " if number else ""
            live.tell("stage", f"{where}{name} done in {seconds:.1f} s")

    def progress(self, stage: str, unit: str) -> Callable[[int, int], None]:
        """Return a callback that counts the finished units of the stage."""
        live = self._live

        def report(done: int, total: int) -> None:
            per_s = done / max(time.monotonic() - live._stage_began, 1e-6)
            live._set(done=done, total=total, unit=unit, per_s=per_s)

        return report

    def planned(self, plan: Plan) -> None:
        """Send an event about an accepted plan."""
        live = self._live
        live._set(round=plan.round)
        size = f"{plural(plan.n_images, 'image')} from {plural(len(plan.prompts), 'prompt')}"
        live.tell("plan", f"round {plan.round}: plan accepted, {size}, by {plan.author}", plan)

    def round_done(self, current: Round) -> None:
        """Send the finished round, and request a stop if one is due after it."""
        live = self._live
        live.tell("round", f"round {current.number} is done", current)
        with live._changed:
            if live._after_round:
                live._after_round = False
                request(live.session.folder, "stop")

    def warn(self, text: str) -> None:
        """Send a warning."""
        self._live.tell("warning", text)

    def paused(self, why: str) -> None:
        """Send that the session is paused, with the reason if nobody requested it."""
        self._live._set("paused")
        is_asked = requested(self._live.session.folder) == "pause"
        self._live.tell("state", "Paused; /continue resumes." if is_asked else f"Paused: {why}")

    def resumed(self) -> None:
        """Send that the session continues."""
        self._live._set("waiting" if self._live.question else "working")
        self._live.tell("state", "The session continues.")
