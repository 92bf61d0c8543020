"""Takes a round back: the journal says so, its files are put aside, it can be planned anew."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING

from agent.session.checkpoints import checkpoints
from memory.errors import SessionError
from memory.journal import UNDONE
from tools.data.jobs import round_folder

if TYPE_CHECKING:
    from agent.session.folder import Session
    from memory.chroma import MemoryIndex


def undo(session: Session, memory: MemoryIndex) -> int:
    """Take the latest accepted plan back, with all that came of it; return its round.

    Must not be called while the session runs. Raises SessionError when there is no plan yet.
    """
    plans = session.journal.events("plan")
    if not plans:
        raise SessionError("There is no plan yet that could be taken back.")
    number = max(int(event["plan"]["round"]) for event in plans)
    session.journal.append(UNDONE, from_round=number)
    clear_undone(session, memory)
    return number


def clear_undone(session: Session, memory: MemoryIndex) -> None:
    """Put aside what rounds that were taken back left behind; finishes what a crash interrupted.

    Their folders become rounds/NNN.undone-K. Without this the next plan of such a round would find
    their shards and take them for its own.
    """
    taken_back = session.journal.events(UNDONE)
    key = f"cleared/{len(taken_back)}"
    if not taken_back or session.journal.get(key):
        return
    first = int(taken_back[-1]["from_round"])
    numbers = [
        int(path.name)
        for path in (session.folder / "rounds").glob("[0-9]*")
        if path.name.isdecimal() and int(path.name) >= first
    ]
    for number in numbers:
        folder = round_folder(session.folder, number)
        folder.rename(folder.with_name(f"{folder.name}.undone-{len(taken_back)}"))
    _delete_threads(session, first)
    memory.forget(session.name, first)
    session.journal.append("cleared", key=key)


def _delete_threads(session: Session, first: int) -> None:
    """Delete the checkpoints of rounds from `first` on."""
    if session.settings.session.checkpoints != "sqlite":
        with checkpoints(session) as kept:
            # The latest plan is taken back, so no later round can have done more than begin.
            for number in (first, first + 1):
                kept.delete(number)
        return
    path = session.folder / "graph.sqlite"
    if not path.exists():
        return
    with closing(sqlite3.connect(path)) as connection, connection:
        tables = [
            name
            for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type='table'")
            if name in ("checkpoints", "writes")
        ]
        for table in tables:
            threads = [
                thread
                for (thread,) in connection.execute(f"SELECT DISTINCT thread_id FROM {table}")
                if int(str(thread).removeprefix("round-")) >= first
            ]
            for thread in threads:
                connection.execute(f"DELETE FROM {table} WHERE thread_id = ?", (thread,))
