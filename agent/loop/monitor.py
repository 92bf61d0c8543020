"""Stages, progress and faults of work, shown to an observer and, in a session, journaled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from agent.config.settings import Settings
from agent.loop.observer import Observer
from agent.session.folder import Session
from memory.events import FaultEvent, PausedEvent


class WorkMonitor:
    """Reports stages, progress and faults of work, with a session or, as in comparisons, without.

    With a session, its control can pause and stop the work between stages, and faults are
    journaled. Without one, they are only shown to the observer.
    """

    def __init__(
        self, settings: Settings, observer: Observer | None = None, session: Session | None = None
    ) -> None:
        """Store the arguments and connect the session's control to the observer.

        Args:
            settings: Settings, used if there is no session.
            observer: Shows stages, progress and warnings. None: nothing is shown.
            session: The open session that the work belongs to, if any.
        """
        self.observer = observer or Observer()
        self._settings, self._session = settings, session
        if session:
            session.control.on_pause = self.observer.paused
            session.control.on_resume = self._resumed

    @property
    def settings(self) -> Settings:
        """The settings; those of a session may change between rounds."""
        return self._session.settings if self._session else self._settings

    @property
    def session(self) -> Session:
        """The open session; must not be read without one."""
        assert self._session is not None
        return self._session

    @session.setter
    def session(self, session: Session) -> None:
        self._session = session

    def fault(self, kind: str, message: str, n_at_once: int | None = None) -> None:
        """Show a fault that was handled and, in a session, journal it."""
        if self._session:
            number = self._session.control.round
            self._session.journal.append(
                FaultEvent(what=kind, message=message, round=number, n_at_once=n_at_once)
            )
        self.observer.warn(message)

    def _resumed(self, why: str, seconds: float) -> None:
        self.observer.resumed()
        session, message = self.session, f"Waited {seconds:.0f} s: {why}"
        session.journal.append(PausedEvent(message=message, round=session.control.round))

    @contextmanager
    def stage(self, name: str, number: int) -> Iterator[None]:
        """Run a stage of round `number`, 0 for the start of a session.

        Raises Stopped if the session has to end. A paused session waits here, before the stage.
        """
        session = self._session
        bracket = session.control.stage(name, number) if session else nullcontext()
        with bracket, self.observer.stage(name, number):
            yield

    def progress(self, stage: str, unit: str) -> Callable[[int, int], None]:
        """Return a function that is called with the finished amount and the total, in `unit`.

        Call it where the work may be interrupted: it raises Stopped if the session has to end.
        """
        show = self.observer.progress(stage, unit)

        def report(done: int, total: int) -> None:
            show(done, total)
            if self._session:
                self._session.control.progress(done, total, unit)

        return report
