"""The memory of all sessions: a Chroma index for semantic search, rebuilt from the journals.

Every operation holds a file lock on the index; see `chroma_clients` for how long it stays open.
"""

from __future__ import annotations

import re
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from memory import chroma_clients, minilm
from memory.arenas import give_back
from memory.errors import StorageError, some
from memory.files import first_free, storage_error, sync_folder
from memory.items import MemoryItem, SearchHit, read_item, readable_items

if TYPE_CHECKING:
    from chromadb.api import ClientAPI
    from chromadb.api.collection_configuration import CreateCollectionConfiguration
    from chromadb.api.models.Collection import Collection
    from chromadb.api.types import Where

COLLECTION = "shaping"
LOCK_TIMEOUT_S = 120

# Chroma's defaults find only half of the nearest of 10,000 vectors. A client that opens an index
# replays the additions since it was last written, by default up to 1,000: 0.14 s, not 0.02 s.
_CONFIGURATION: CreateCollectionConfiguration = {
    "hnsw": {
        "space": "cosine",
        "max_neighbors": 32,
        "ef_construction": 200,
        "ef_search": 200,
        "batch_size": 50,
        "sync_threshold": 100,
    }
}
_N_ADDED_AT_ONCE = 1000
_N_REPEATS = 10
# Upper bound of the rounding error of distances.
_ROUNDING = 1e-5
_UNFINISHED = ".unfinished"
_KEPT = (".lock", chroma_clients.OWNER, _UNFINISHED)
_DATABASE_FILE = re.compile(re.escape(chroma_clients.DATABASE) + "(-journal|-wal|-shm)?")
# Chroma names the folder of a vector index by a UUID.
_INDEX_FOLDER = re.compile("[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")

Result = TypeVar("Result")
Work = Callable[["Collection", str], Result]
"""Takes the collection and the owner of the items written, "" for an index of a single home."""
Embed = Callable[[Sequence[str]], list[list[float]]]


class MemoryIndex:
    """The index in `folder`, created when first needed.

    Every method raises StorageError if the index is damaged and `journals` is None (`reindex`
    repairs it), the disk is full, or another process locks the index for more than two minutes.

    Args:
        folder: Folder of the index.
        embed: Maps texts to vectors of equal length; None: the packaged MiniLM.
        journals: Returns the journals of all sessions, from which a missing or damaged index is
            rebuilt on its next use; None: it is not rebuilt.
        tell: Called with messages for the user, such as that the index is rebuilt.
    """

    def __init__(
        self,
        folder: Path,
        embed: Embed | None = None,
        journals: Callable[[], Iterable[Path]] | None = None,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.folder = folder
        self._embed = embed or (lambda texts: minilm.load().embed(texts))
        self._journals, self._tell = journals, tell

    def add(self, items: Sequence[MemoryItem]) -> None:
        """Add items; an item replaces an earlier one with the same id."""
        self._use(
            lambda collection, owner: upsert(
                collection, self._vectors(changed(collection, items, owner)), owner
            )
        )
        # The freed memory is scattered between allocations of the open index.
        give_back()

    def forget(self, session: str, from_round: int) -> None:
        """Remove the items of a session from round `from_round` on."""

        def remove(collection: Collection, owner: str) -> None:
            where = both({"session": session}, {"owner": owner} if owner else None)
            stored = collection.get(where=where, include=["metadatas"])
            items = [read_item(metadata.get("item")) for metadata in stored["metadatas"] or []]
            late = [
                name
                for name, item in zip(stored["ids"], items, strict=True)
                if item and item.round >= from_round
            ]
            if late:
                collection.delete(ids=late)

        self._use(remove)

    def search(
        self, query: str, n: int = 5, kind: str | None = None, target: str | None = None
    ) -> list[SearchHit]:
        """Return the `n` items nearest to the query, best first.

        Of equal texts of a session only the one of the latest round is returned. Damaged items are
        skipped, and their number is reported.

        Args:
            query: Text to search for.
            n: Number of items.
            kind: Kind of the items; None: all kinds.
            target: Target of the items; None: all targets.
        """
        return self.search_all([query], n, kind, target)[0]

    def search_all(
        self, queries: Sequence[str], n: int = 5, kind: str | None = None, target: str | None = None
    ) -> list[list[SearchHit]]:
        """Return the results of `search` for several queries in one operation."""
        if not queries:
            return []
        vectors = np.array(self._embed(queries), dtype=np.float32)
        where = both({"kind": kind} if kind else None, {"target": target} if target else None)
        n_near = n * _N_REPEATS
        damaged: set[str] = set()

        def look(collection: Collection, _: str) -> list[list[SearchHit]]:
            # The cost of a condition grows with the number of items that meet it, so the nearest
            # of all items are searched first.
            near = _nearest(collection, vectors, n_near, damaged)
            if where is None:
                return [_latest(hits)[:n] for hits in near]
            matching = [_within(hits, kind, target) for hits in near]
            few = [place for place, hits in enumerate(matching) if len(hits) < n]
            if few:
                rest = _nearest(collection, vectors[few], n_near, damaged, where)
                for place, hits in zip(few, rest, strict=True):
                    matching[place] = _latest(hits)
            return [hits[:n] for hits in matching]

        results = self._use(look)
        if damaged:
            self._tell(
                f"The memory skipped {len(damaged)} damaged items. To build it anew from the "
                "journals: shaping memory reindex"
            )
        return results

    def stats(self) -> dict[str, Any]:
        """Return the number of items in total (`items`) and by `kinds`, `targets` and `sessions`.

        `damaged` counts damaged items, if there are any.
        """
        got = self._use(lambda collection, _: collection.get(include=["metadatas"]))
        items = got["metadatas"] or []
        counts = {
            f"{name}s": dict(Counter(str(item.get(name, "?")) for item in items))
            for name in ("kind", "target", "session")
        }
        n_damaged = sum(read_item(item.get("item")) is None for item in items)
        return {"items": len(items), **counts} | ({"damaged": n_damaged} if n_damaged else {})

    def reindex(self, journals: Iterable[Path]) -> int:
        """Rebuild the index from journals of sessions and return its number of items.

        A damaged index is first moved to `NAME.damaged-N` beside the folder. Sessions with a
        damaged journal keep their items in the index and are reported.
        """
        items, damaged = readable_items(journals, self._tell)
        with self._locked():
            return self._rebuild(self._vectors([*self._items_of_sessions(damaged), *items]))

    def _items_of_sessions(self, names: Sequence[str]) -> list[MemoryItem]:
        """Return the readable items of sessions in the index; [] if the index is damaged."""
        if not names:
            return []
        try:
            with self._open() as collection:
                where = cast("Where", {"session": {"$in": list(names)}})
                stored = collection.get(where=where, include=["metadatas"])["metadatas"] or []
        except StorageError:
            return []
        return [item for metadata in stored if (item := read_item(metadata.get("item")))]

    def _use(self, work: Work[Result]) -> Result:
        """Return the result of `work` on the collection, which is rebuilt first if necessary."""
        with self._locked():
            if self._journals is not None:
                database = self.folder / chroma_clients.DATABASE
                # Chroma treats an empty file as a new index.
                missing = not database.exists() or not database.stat().st_size
                if not missing and not (self.folder / _UNFINISHED).exists():
                    try:
                        return self._do(work)
                    except StorageError as error:
                        self._tell(f"The memory is rebuilt from the journals: {error}")
                items, _ = readable_items(self._journals(), self._tell)
                self._rebuild(self._vectors(items))
            return self._do(work)

    def _do(self, work: Work[Result]) -> Result:
        with self._open() as collection:
            return work(collection, "")

    def _rebuild(self, vectors: Sequence[tuple[MemoryItem, list[float]]]) -> int:
        self._refuse_foreign()
        # This file marks the index as incomplete until the rebuild has finished.
        unfinished = self.folder / _UNFINISHED
        unfinished.touch()
        self._clear()
        with self._open() as collection:
            upsert(collection, vectors)
            n_items = collection.count()
        unfinished.unlink()
        return n_items

    def _vectors(self, items: Sequence[MemoryItem]) -> list[tuple[MemoryItem, list[float]]]:
        """Return the items, the last of each id, with their vectors."""
        unique = list({item.id: item for item in items}.values())
        texts = list(dict.fromkeys(item.text for item in unique))
        vector = dict(zip(texts, self._embed(texts), strict=True)) if texts else {}
        return [(item, vector[item.text]) for item in unique]

    @contextmanager
    def _locked(self) -> Iterator[None]:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not (self.folder / chroma_clients.OWNER).exists():
                self._refuse_foreign()
            with FileLock(self.folder / ".lock", timeout=LOCK_TIMEOUT_S):
                yield
        except Timeout as error:
            raise StorageError(
                f"Another process has kept the memory in {self.folder} for {LOCK_TIMEOUT_S} s. "
                "End it, or wait and run the same command again."
            ) from error
        except OSError as error:
            raise storage_error(self.folder, error) from error

    @contextmanager
    def _open(self) -> Iterator[Collection]:
        """Yield the collection, opened if necessary; the caller holds the lock."""
        from chromadb.api.shared_system_client import SharedSystemClient
        from chromadb.errors import ChromaError

        try:
            yield collection_of(chroma_clients.client_of(self.folder))
        except ChromaError as error:
            chroma_clients.close(self.folder)
            # Chroma caches a client that failed to start and would return it again.
            SharedSystemClient.clear_system_cache()
            raise StorageError(
                f"The memory in {self.folder} cannot be used: {error}. If the disk is full, free "
                "some space; otherwise rebuild it with: shaping memory reindex"
            ) from error
        except BaseException:
            # The loaded index may differ from the one on disk.
            chroma_clients.close(self.folder)
            raise

    def _refuse_foreign(self) -> None:
        """Raise StorageError if the folder contains files that are not part of an index.

        A database belongs to an index of this program if the file `.opened-by` is beside it.
        """
        foreign = [path.name for path in sorted(self.folder.iterdir()) if not _is_own(path)]
        if (self.folder / chroma_clients.DATABASE).exists() and not (
            self.folder / chroma_clients.OWNER
        ).exists():
            foreign.append(chroma_clients.DATABASE)
        if foreign:
            raise StorageError(
                f"The folder of the memory {self.folder} holds what this program did not write: "
                f"{some(foreign, 5)}. Nothing was changed. Move it elsewhere, or choose another "
                "folder with --home."
            )

    def _clear(self) -> None:
        """Remove the database, or move it aside if it is damaged.

        Call `_refuse_foreign` first. The lock file stays, since other processes may wait for it.
        """
        chroma_clients.close(self.folder)
        try:
            with self._open() as collection:
                collection.count()
        except StorageError:
            name = self.folder.name
            aside = first_free(lambda n: self.folder.with_name(f"{name}.damaged-{n}"))
            aside.mkdir()
            for path in self.folder.iterdir():
                if path.name not in _KEPT:
                    path.rename(aside / path.name)
            for folder in (aside, self.folder, aside.parent):
                sync_folder(folder)
            return
        chroma_clients.close(self.folder)
        for path in self.folder.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            elif path.name not in _KEPT:
                path.unlink()


def _is_own(path: Path) -> bool:
    """Return whether a path in the folder is part of an index."""
    if path.is_dir() and not path.is_symlink():
        files = {file.suffix for file in path.iterdir()}
        return bool(_INDEX_FOLDER.fullmatch(path.name)) and files <= {".bin", ".pickle"}
    return path.name in _KEPT or bool(_DATABASE_FILE.fullmatch(path.name))


def collection_of(client: ClientAPI) -> Collection:
    """Return the collection of all items, created if it does not exist."""
    return client.get_or_create_collection(
        COLLECTION, configuration=_CONFIGURATION, embedding_function=None
    )


def both(*conditions: Mapping[str, str] | None) -> Where | None:
    """Return the conjunction of the conditions that are not None, as a Chroma filter."""
    given = [dict(condition) for condition in conditions if condition]
    where = {"$and": given} if len(given) > 1 else given[0] if given else None
    return cast("Where | None", where)


def _nearest(
    collection: Collection,
    vectors: NDArray[np.float32],
    n: int,
    damaged: set[str],
    where: Where | None = None,
) -> list[list[SearchHit]]:
    """Return the `n` items nearest to each vector, best first.

    Damaged items are left out and their ids added to `damaged`.
    """
    results = collection.query(
        query_embeddings=vectors, n_results=n, where=where, include=["metadatas", "distances"]
    )
    nearest = []
    for names, metadatas, distances in zip(
        results["ids"], results["metadatas"] or [], results["distances"] or [], strict=True
    ):
        hits = []
        for name, metadata, distance in zip(names, metadatas, distances, strict=True):
            if item := read_item((metadata or {}).get("item")):
                hits.append(SearchHit(item=item, similarity=max(-1.0, min(1.0, 1 - distance))))
            else:
                damaged.add(name)
        nearest.append(hits)
    return nearest


def _within(near: Sequence[SearchHit], kind: str | None, target: str | None) -> list[SearchHit]:
    """Return the hits of a kind and target, None for all, that are nearer than the last of `near`.

    Among these, `near` is complete: it contains every item as near as they are, including equal
    texts of other rounds, of which `_latest` keeps one.
    """
    return _latest(
        [
            hit
            for hit in near
            if kind in (None, hit.item.kind)
            and target in (None, hit.item.target)
            and hit.similarity > near[-1].similarity + _ROUNDING
        ]
    )


def _latest(hits: Iterable[SearchHit]) -> list[SearchHit]:
    """Return hits, best first; of equal texts of a session only the one of the latest round."""
    latest: dict[tuple[str, str, str], SearchHit] = {}
    for hit in hits:
        identity = (hit.item.session, hit.item.kind, hit.item.text)
        if identity not in latest or latest[identity].item.round < hit.item.round:
            latest[identity] = hit
    return sorted(latest.values(), key=lambda h: (-h.similarity, h.item.id))


def changed(collection: Collection, items: Sequence[MemoryItem], owner: str) -> list[MemoryItem]:
    """Return the items that are missing in a collection or differ from its version of them."""
    stored: dict[str, str] = {}
    names = [_name(item, owner) for item in items]
    for start in range(0, len(names), _N_ADDED_AT_ONCE):
        part = list(dict.fromkeys(names[start : start + _N_ADDED_AT_ONCE]))
        got = collection.get(ids=part, include=["metadatas"])
        items_ = [str(metadata.get("item")) for metadata in got["metadatas"] or []]
        stored |= zip(got["ids"], items_, strict=True)
    last = dict(zip(names, items, strict=True))
    return [item for name, item in last.items() if stored.get(name) != item.model_dump_json()]


def _name(item: MemoryItem, owner: str) -> str:
    return f"{owner}/{item.id}" if owner else item.id


def upsert(
    collection: Collection, vectors: Sequence[tuple[MemoryItem, list[float]]], owner: str = ""
) -> None:
    """Add or replace items with their vectors; owner: home of the items, "" if not shared."""
    owned = {"owner": owner} if owner else {}
    for start in range(0, len(vectors), _N_ADDED_AT_ONCE):
        part = vectors[start : start + _N_ADDED_AT_ONCE]
        collection.upsert(
            ids=[_name(item, owner) for item, _ in part],
            embeddings=np.array([vector for _, vector in part], dtype=np.float32),
            documents=[item.text for item, _ in part],
            metadatas=[
                {
                    "kind": item.kind,
                    "target": item.target,
                    "session": item.session,
                    "item": item.model_dump_json(),
                    **owned,
                }
                for item, _ in part
            ],
        )
