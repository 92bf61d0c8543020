from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from memory.chroma import MemoryIndex, items_from_events
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
    journal.append("session", session="s", target="toy")
    journal.append("lesson", lesson=Lesson(id="s/1", round=1, text="dark cells help").to_json())
    told: list[str] = []
    index = MemoryIndex(tmp_path / "memory", embed, lambda: [journal.path], told.append)
    index.add(items_from_events(read_events(journal.path)))
    damage(tmp_path / "memory" / "chroma.sqlite3")
    assert [hit.item.text for hit in index.search("help")] == ["dark cells help"]
    assert index.stats()["items"] == 1
    assert not (tmp_path / "memory" / ".unfinished").exists()
