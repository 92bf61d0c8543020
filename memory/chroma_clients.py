"""Chroma clients that stay open between operations until another process opens their folder.

Opening a client costs milliseconds, and its first operation loads the whole index and applies again
what was added since the index was last written. Two processes that write to one folder, each by
what it has loaded, corrupt it. So a folder belongs to whoever opened it last: under the folder's
lock a client writes who it is into a file before it opens, and a process that finds another name
there closes its own client, which writes nothing, and opens a new one.
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
    """Return the client of a folder, opened anew if others opened it or its database was replaced.

    To be called while the lock of the folder is held, and the client used no longer than that.
    Raises chromadb's ChromaError when it cannot be opened.
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
    """Close the client of a folder, if this process has one, and forget what it has loaded."""
    if entry := _opened.pop(folder.resolve(), None):
        entry.client.close()
        del entry
        # All of the index was loaded, in pieces that would lie between what is kept.
        give_back()


def _owner(folder: Path) -> str:
    try:
        return (folder / OWNER).read_text("ascii")
    except (FileNotFoundError, UnicodeDecodeError):
        return ""


def _database(folder: Path) -> tuple[int, int] | None:
    """Return what tells the database's file from another one of its name."""
    try:
        status = (folder / DATABASE).stat()
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino


@atexit.register
def _close_all() -> None:
    for place in list(_opened):
        close(place)
