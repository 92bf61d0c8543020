"""Stages, progress and faults of work: shown to an observer and, within a session, journaled."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

from agent.config.settings import Settings
from agent.loop.observer import Observer
from agent.session.folder import Session
from memory.events import FaultEvent, PausedEvent


class WorkMonitor:
    """Follows work, within a session or, as in comparisons and commands, without one.

    Within a session, stages are bracketed by its control, so that it can be paused and stopped, and
    faults are journaled. Without one only the observer sees them.
    """

    def __init__(
        self, settings: Settings, observer: Observer | None = None, session: Session | None = None
    ) -> None:
        """Hold the settings.

        Args:
            settings: Those of the session where there is one.
            observer: Is shown stages, their progress and warnings; None: nobody is.
            session: The open session that the work belongs to.
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
        """The open session; only within one."""
        assert self._session is not None
        return self._session

    @session.setter
    def session(self, session: Session) -> None:
        self._session = session

    def fault(self, kind: str, message: str, n_at_once: int | None = None) -> None:
        """Show, and journal within a session, something that went wrong and was dealt with."""
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
        """Bracket a stage of round `number`, 0 for the start; raises Stopped when it must not be.

        The time between stages is a safe point: this is where a session that is paused waits.
        """
        session = self._session
        bracket = session.control.stage(name, number) if session else nullcontext()
        with bracket, self.observer.stage(name, number):
            yield

    def progress(self, stage: str, unit: str) -> Callable[[int, int], None]:
        """Return a function that takes what is done and the total, in `unit`.

        To be called where the work may be left: it raises Stopped when the session has to end.
        """
        show = self.observer.progress(stage, unit)

        def report(done: int, total: int) -> None:
            show(done, total)
            if self._session:
                self._session.control.progress(done, total, unit)

        return report
