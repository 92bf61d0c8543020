"""Chroma clients that stay open between operations until another process opens their folder.

Opening a client takes milliseconds, and its first operation loads the whole index and replays the
additions since the index was last written. Two processes that write to one folder from outdated
indexes corrupt it. So a folder belongs to the client that opened it last: while it holds the
folder's lock, a client writes its id to a file before it opens the folder, and a process that finds
another id there closes its own client, which writes nothing, and opens a new one.
"""

from __future__ import annotations

import atexit
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple, cast

from memory.arenas import give_back

if TYPE_CHECKING:
    from chromadb.api.client import Client

DATABASE, OWNER = "chroma.sqlite3", ".opened-by"


class _Opened(NamedTuple):
    client: Client
    owner: str
    database: tuple[int, int] | None


_opened: dict[Path, _Opened] = {}


def client_of(folder: Path) -> Client:
    """Return the client of a folder, reopened if another one opened it or the database is new.

    Call it while holding the lock of the folder, and do not use the client after releasing it.
    Raises chromadb's ChromaError if the folder cannot be opened.
    """
    import chromadb
    from chromadb.config import Settings

    place = folder.resolve()
    entry = _opened.get(place)
    if entry and entry.owner == _owner(place) and entry.database == _database(place):
        return entry.client
    close(place)
    owner = uuid.uuid4().hex
    (place / OWNER).write_text(owner, "ascii")
    settings = Settings(anonymized_telemetry=False)
    client = cast("Client", chromadb.PersistentClient(place, settings))
    _opened[place] = _Opened(client, owner, _database(place))
    return client


def close(folder: Path) -> None:
    """Close the client of a folder, if this process has one, and free its memory."""
    if entry := _opened.pop(folder.resolve(), None):
        entry.client.close()
        del entry
        # The index was loaded in many small allocations, which fragment the heap.
        give_back()


def _owner(folder: Path) -> str:
    try:
        return (folder / OWNER).read_text("ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def _database(folder: Path) -> tuple[int, int] | None:
    """Return device and inode of the database file, None if it does not exist."""
    try:
        status = (folder / DATABASE).stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


@atexit.register
def _close_all() -> None:
    for place in list(_opened):
        close(place)
