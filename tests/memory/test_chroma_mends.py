from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from chromadb import Collection

from memory.chroma import MemoryIndex
from memory.errors import StorageError
from memory.events import HeadEvent, LessonEvent
from memory.items import MemoryItem, items_from_events
from memory.journal import Journal, read_events
from memory.records import Lesson


def embed(texts: object) -> list[list[float]]:
    return [[1.0, float(len(text))] for text in texts]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b"garbage" * 1000),
        lambda path: path.write_bytes(b""),
        lambda path: path.unlink(),
        lambda path: path.with_name(".unfinished").touch(),
    ],
    ids=["garbage", "empty", "removed", "unfinished"],
)
def test_a_damaged_index_is_rebuilt_from_the_journals(
    tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    journal = Journal(tmp_path / "journal.jsonl")
    journal.append(HeadEvent(session="s", target="toy"))
    lesson = Lesson(id="s/1", round=1, text="dark cells help")
    journal.append(LessonEvent(lesson=lesson))
    told: list[str] = []
    index = MemoryIndex(tmp_path / "memory", embed, lambda: [journal.path], told.append)
    index.add(items_from_events(read_events(journal.path)))
    damage(tmp_path / "memory" / "chroma.sqlite3")
    assert [hit.item.text for hit in index.search("help")] == ["dark cells help"]
    assert index.stats()["items"] == 1
    assert not (tmp_path / "memory" / ".unfinished").exists()


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


@pytest.mark.parametrize(
    "name",
    [
        "thesis.txt",
        "notes/thesis.txt",
        "chroma.sqlite3",
        "0a1b2c3d-0000-4000-8000-000000000000/thesis.txt",
    ],
)
@pytest.mark.parametrize("journals", [None, lambda: []], ids=["alone", "with journals"])
def test_files_of_a_stranger_are_named_and_stay(
    tmp_path: Path, name: str, journals: Callable[[], list[Path]] | None
) -> None:
    folder = tmp_path / "memory"
    (folder / name).parent.mkdir(parents=True)
    (folder / name).write_text("years of work")
    before = _contents(tmp_path)
    index = MemoryIndex(folder, embed, journals)
    uses: list[Callable[[], object]] = [
        index.stats,
        lambda: index.search("help"),
        lambda: index.reindex([]),
        lambda: index.forget("s", 1),
    ]
    for use in uses:
        with pytest.raises(StorageError, match=name.partition("/")[0]):
            use()
        assert _contents(tmp_path) == before


def test_files_of_a_stranger_beside_an_index_stay(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    index = MemoryIndex(folder, embed, lambda: [])
    index.add([])
    (folder / "thesis.txt").write_text("years of work")
    assert index.stats()["items"] == 0
    for damage in (lambda path: path.write_bytes(b"garbage" * 1000), Path.unlink):
        with pytest.raises(StorageError, match=r"thesis\.txt"):
            index.reindex([])
        damage(folder / "chroma.sqlite3")
        with pytest.raises(StorageError, match=r"thesis\.txt"):
            index.stats()
        assert (folder / "thesis.txt").read_text() == "years of work"


def _lesson(name: str) -> MemoryItem:
    return MemoryItem(
        id=name, kind="lesson", text=f"lesson {name}", target="toy", session="s", round=1
    )


@pytest.mark.parametrize(
    "metadata",
    [
        {"item": '{"id": "b", "colour": "of a later version"}'},
        {"item": "{garbage"},
        {"item": ""},
        {"other": "value"},
    ],
)
def test_a_damaged_item_is_counted_and_the_others_are_found(
    tmp_path: Path, metadata: dict[str, str]
) -> None:
    told: list[str] = []
    index = MemoryIndex(tmp_path / "memory", embed, tell=told.append)
    index.add([_lesson("a"), _lesson("b"), _lesson("c")])

    def damage(collection: Collection, _: str) -> None:
        embedding = collection.get(ids=["b"], include=["embeddings"])["embeddings"]
        collection.delete(ids=["b"])
        collection.add(ids=["b"], embeddings=embedding, metadatas=[metadata])

    index._use(damage)
    assert [hit.item.id for hit in index.search("lesson")] == ["a", "c"]
    assert [text for text in told if "1 damaged items" in text and "reindex" in text]
    assert index.stats()["items"] == 3
    assert index.stats()["damaged"] == 1
    index.add([_lesson("b")])
    assert "damaged" not in index.stats()
    index.forget("s", 1)
    assert index.stats()["items"] == 0


def test_a_damaged_journal_does_not_stop_a_rebuild(tmp_path: Path) -> None:
    good, bad = tmp_path / "good" / "journal.jsonl", tmp_path / "bad" / "journal.jsonl"
    for path in (good, bad):
        journal = Journal(path)
        journal.append(HeadEvent(session=path.parent.name, target="toy"))
        journal.append(LessonEvent(lesson=Lesson(id=f"{path}/1", round=1, text="dark cells help")))
    bad.write_bytes(b"garbage\n" + bad.read_bytes())
    told: list[str] = []
    index = MemoryIndex(tmp_path / "memory", embed, tell=told.append)
    assert index.reindex([bad, good]) == 1
    assert len(told) == 1
    assert "1 sessions were not read. bad: " in told[0]
