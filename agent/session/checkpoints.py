"""Checkpoint storage of the round graph: a file of the session, or a Postgres database.

In a database each round of each session is a separate thread, named by the session and a digest of
the first event of its journal, so that sessions of the same name on two hosts do not collide.
"""

from __future__ import annotations

import importlib.util
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.checkpoint.sqlite import SqliteSaver

from memory.errors import SettingsError, StorageError
from memory.events import HeadEvent
from memory.records import digest

if TYPE_CHECKING:
    from agent.session.folder import Session

# Advisory lock for creating the tables: two sessions that create them at once both fail.
_SETUP_LOCK = 7_209_113_460_551
_SETUP_PAUSE_S = 0.1


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of a session's rounds; prefix: of the names of threads in a database."""

    saver: BaseCheckpointSaver[Any]
    prefix: str = ""

    def thread(self, number: int) -> RunnableConfig:
        """Return the LangGraph thread of a round."""
        return {"configurable": {"thread_id": f"{self.prefix}round-{number}"}}

    def has(self, number: int) -> bool:
        """Return whether a round has checkpoints, i.e. has begun and not ended."""
        return self.saver.get_tuple(self.thread(number)) is not None

    def delete(self, number: int) -> None:
        """Delete the checkpoints of a round."""
        self.saver.delete_thread(f"{self.prefix}round-{number}")


@contextmanager
def checkpoints(session: Session) -> Iterator[Checkpoints]:
    """Open the checkpoints of a session whose journal has a head event.

    Raises:
        StorageError: They cannot be written.
        SettingsError: The packages for a database are not installed.
    """
    place = session.settings.session.checkpoints
    if place == "sqlite":
        with _in_file(session.folder / "graph.sqlite") as saver:
            yield Checkpoints(saver)
    else:
        head = session.journal.get("session", HeadEvent)
        assert head is not None  # it has begun
        with _in_database(place) as saver:
            yield Checkpoints(saver, f"{session.name}-{digest(head.to_json())}/")


class _AtomicSaver(SqliteSaver):
    """A SqliteSaver that rolls back failed writes instead of committing a part of them."""

    @contextmanager
    def cursor(self, transaction: bool = True) -> Iterator[sqlite3.Cursor]:
        """Yield a cursor whose statements are committed together or not at all."""
        with self.lock:
            self.setup()
            cursor = self.conn.cursor()
            try:
                yield cursor
            except BaseException:
                self.conn.rollback()
                raise
            else:
                if transaction:
                    self.conn.commit()
            finally:
                cursor.close()


@contextmanager
def _in_file(path: Path) -> Iterator[SqliteSaver]:
    connection = sqlite3.connect(path, check_same_thread=False)
    try:
        yield _AtomicSaver(connection)
    except sqlite3.OperationalError as error:
        raise StorageError(
            f"The checkpoints in {path} could not be written: {error}. Make sure that the disk "
            "has space, then run the same command again; finished work is kept."
        ) from error
    finally:
        connection.close()


@contextmanager
def _in_database(url: str) -> Iterator[BaseCheckpointSaver[Any]]:
    needed = ("psycopg", "langgraph.checkpoint.postgres")
    if not all(importlib.util.find_spec(name) for name in needed):
        raise SettingsError(
            "session.checkpoints is a Postgres database, but its packages are not installed. Add "
            "them with: pip install '.[postgres]'"
        )
    import psycopg
    from langgraph.checkpoint.postgres import PostgresSaver

    try:
        with PostgresSaver.from_conn_string(url) as saver:
            _set_up(saver)
            yield saver
    except psycopg.Error as error:
        raise StorageError(
            f"The checkpoints in {url} cannot be used: {str(error).strip()}. Make sure that the "
            "database runs and lets you in (password: PGPASSWORD or ~/.pgpass), then run the same "
            "command again; finished work is kept."
        ) from error


def _set_up(saver: Any) -> None:
    """Create the tables, one session at a time, without blocking inside a transaction."""
    while True:
        row = saver.conn.execute("SELECT pg_try_advisory_lock(%s) AS ours", (_SETUP_LOCK,))
        if row.fetchone()["ours"]:
            break
        time.sleep(_SETUP_PAUSE_S)
    try:
        saver.setup()
    finally:
        saver.conn.execute("SELECT pg_advisory_unlock(%s)", (_SETUP_LOCK,))
