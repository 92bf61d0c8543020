"""The memory on a shared Chroma server, with the local index as fallback.

The items of a home are marked with a random id of the home, so that sessions of the same name on
two hosts do not replace each other's items. Searches cover the items of all homes.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import httpx

from memory.addresses import warn_of_plain_key
from memory.chroma import Embed, MemoryIndex, Result, Work, collection_of, upsert
from memory.errors import SettingsError, StorageError
from memory.files import storing, write_bytes
from memory.items import readable_items
from memory.records import digest

if TYPE_CHECKING:
    from chromadb.api.models.Collection import Collection

_CREDENTIALS = "CHROMA_CLIENT_AUTH_CREDENTIALS"
PING_TIMEOUT_S = 10.0
# Time after which a server that was unavailable is tried again.
COOL_DOWN_S = 60.0


class ServedMemory(MemoryIndex):
    """The index of a Chroma server.

    While the server is unavailable, the local index is rebuilt from the journals of this home and
    used instead; afterwards the items that the server missed are added to it. Without the server,
    `forget` and `reindex` raise StorageError, and so do other methods if `journals` is None.

    Args:
        url: Address of the server, http(s)://HOST[:PORT]; else SettingsError is raised.
        folder: Folder of the local index.
        embed: See `MemoryIndex`.
        journals: Returns the journals of this home; None: without a fallback.
        tell: See `MemoryIndex`.
    """

    def __init__(
        self,
        url: str,
        folder: Path,
        embed: Embed | None = None,
        journals: Callable[[], Iterable[Path]] | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        super().__init__(folder, embed, journals, tell)
        self.url, self._address = url, _address(url)
        if os.environ.get(_CREDENTIALS):
            warn_of_plain_key(url, "memory.url", _CREDENTIALS)
        self._state = folder.with_name(f"{folder.name}-server")
        self._is_away, self._asked_at = False, 0.0

    def forget(self, session: str, from_round: int) -> None:
        """Remove the items of a session from round `from_round` on.

        Raises StorageError while the server is unavailable.
        """
        self._asked_at = 0.0
        with self._served():
            super().forget(session, from_round)

    def reindex(self, journals: Iterable[Path]) -> int:
        """Replace this home's items on the server by those of journals; return their number."""
        items, _ = readable_items(journals, self._tell)
        with self._served() as collection:
            collection.delete(where={"owner": self._owner()})
            upsert(collection, self._vectors(items), self._owner())
        write_bytes(self._whole, b"")
        return len({item.id for item in items})

    def _use(self, work: Work[Result]) -> Result:
        """Return the result of `work` on the server's collection, or else on the local one."""
        if time.monotonic() - self._asked_at > COOL_DOWN_S or not self._is_away:
            try:
                with self._served() as collection:
                    self._catch_up(collection)
                    result = work(collection, self._owner())
            except StorageError as error:
                if self._journals is None:
                    raise
                self._leave(error)
            else:
                self._is_away = False
                return result
        return super()._use(work)

    def _leave(self, error: StorageError) -> None:
        """Switch to the local index, which is rebuilt when the server becomes unavailable."""
        assert self._journals is not None  # checked by the caller
        self._asked_at = time.monotonic()
        with storing(self._whole):
            self._whole.unlink(missing_ok=True)
        if not self._is_away:
            self._is_away = True
            self._tell(f"The memory uses the journals of this home instead: {error}")
            super().reindex(self._journals())

    def _catch_up(self, collection: Collection) -> None:
        """Add the items of this home's journals that the server lacks."""
        if self._journals is None or (self._whole.exists() and collection.count()):
            return
        # Read before the journals: an item added meanwhile is in a journal already.
        stored = collection.get(where={"owner": self._owner()}, include=["metadatas"])
        served = {str(metadata.get("item")) for metadata in stored["metadatas"] or []}
        readable, _ = readable_items(self._journals(), self._tell)
        items = {item.id: item for item in readable}
        missing = [item for item in items.values() if item.model_dump_json() not in served]
        upsert(collection, self._vectors(missing), self._owner())
        write_bytes(self._whole, b"")

    @property
    def _whole(self) -> Path:
        """The file that marks that the server had all items of this home."""
        return self._state / f"whole-{digest(self.url)}"

    def _owner(self) -> str:
        """Return the id of this home, drawn on first use."""
        path = self._state / "owner"
        if not path.exists():
            with self._locked():
                if not path.exists():
                    write_bytes(path, uuid.uuid4().hex.encode())
        with storing(path):
            return path.read_text("ascii")

    @contextmanager
    def _served(self) -> Iterator[Collection]:
        """Open the server's collection; raises StorageError when it cannot be used."""
        import chromadb
        from chromadb.config import Settings
        from chromadb.errors import ChromaError

        host, port, is_encrypted = self._address
        try:
            scheme = "https" if is_encrypted else "http"
            # Requests of the Chroma client have no timeout.
            ping = httpx.URL(scheme=scheme, host=host, port=port, path="/api/v2/heartbeat")
            httpx.get(ping, timeout=PING_TIMEOUT_S).raise_for_status()
            settings = Settings(anonymized_telemetry=False)
            client = chromadb.HttpClient(host, port, is_encrypted, settings=settings)
            yield collection_of(client)
        except (httpx.HTTPError, ChromaError) as error:
            raise StorageError(
                f"The memory server {self.url} cannot be used: {error}. Start it, for example by "
                f"`chroma run --port {port} --path FOLDER`, or set another memory.url."
            ) from error


def _address(url: str) -> tuple[str, int, bool]:
    """Return host, port and whether the connection is encrypted."""
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        parts, port = urlsplit(""), None
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.path.strip("/"):
        raise SettingsError(f"The memory server {url!r} cannot be used; expected http://HOST:PORT.")
    is_encrypted = parts.scheme == "https"
    return parts.hostname, port or (443 if is_encrypted else 8000), is_encrypted
