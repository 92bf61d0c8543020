"""Undo of a round: it is journaled, files are moved aside, and the round can be planned again."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agent.session.checkpoints import checkpoints
from memory.errors import SessionError
from memory.events import ClearedEvent, PlanEvent, UndoneEvent
from memory.files import first_free
from tools.data.jobs import round_folder

if TYPE_CHECKING:
    from agent.session.folder import Session
    from memory.chroma import MemoryIndex


def undo(session: Session, memory: MemoryIndex) -> int:
    """Undo the latest accepted plan with its results, and return its round.

    Must not be called while the session runs.

    Raises:
        SessionError: There is no plan yet.
    """
    plans = session.journal.events(PlanEvent)
    if not plans:
        raise SessionError("There is no plan yet to undo.")
    number = max(event.plan.round for event in plans)
    session.journal.append(UndoneEvent(from_round=number))
    clear_undone(session, memory)
    return number


def clear_undone(session: Session, memory: MemoryIndex) -> None:
    """Move the files of undone rounds aside; completes an undo that a crash interrupted.

    Their folders are renamed to rounds/NNN.undone-K, so that the next plan of such a round does not
    reuse their shards.
    """
    taken_back = session.journal.events(UndoneEvent)
    key = f"cleared/{len(taken_back)}"
    if not taken_back or session.journal.get(key, ClearedEvent):
        return
    first = taken_back[-1].from_round
    numbers = [
        int(path.name)
        for path in (session.folder / "rounds").glob("[0-9]*")
        if path.name.isdecimal() and int(path.name) >= first
    ]
    for number in numbers:
        folder = round_folder(session.folder, number)
        folder.rename(_aside(folder, len(taken_back)))
    with checkpoints(session) as saved:
        # The latest plan is undone, so at most the round after it has begun.
        for number in (first, first + 1):
            saved.delete(number)
    memory.forget(session.name, first)
    session.journal.append(ClearedEvent(key=key))


def _aside(folder: Path, n_undone: int) -> Path:
    name = f"{folder.name}.undone-{n_undone}"
    return first_free(lambda n: folder.with_name(name if n == 1 else f"{name}-{n}"))
