from __future__ import annotations

import json
import math
import subprocess
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from memory.chroma import MemoryIndex
from memory.errors import StorageError
from memory.events import HeadEvent
from memory.items import MemoryItem, items_from_events
from memory.journal import Journal
from tests.events import event

ROOT = Path(__file__).parents[2]


def embed(texts: Sequence[str]) -> list[list[float]]:
    """Hash words into 509 dimensions: texts are near when they share words."""
    vectors = []
    for text in texts:
        vector = [1e-3] * 509
        for word in text.lower().split():
            vector[zlib.crc32(word.encode()) % 509] += 1.0
        norm = math.hypot(*vector)
        vectors.append([x / norm for x in vector])
    return vectors


def item(name: str, text: str, **changes: Any) -> MemoryItem:
    plain = {"id": name, "kind": "prompt", "text": text, "target": "elpv", "session": "s"}
    return MemoryItem.model_validate(plain | {"round": 1} | changes)


def estimate(value: float, n: int) -> dict[str, float]:
    return {"value": value, "low": 0.0, "high": 1.0, "n": n}


def write_session(folder: Path, name: str, n_rounds: int = 1) -> Path:
    journal = Journal(folder / name / "journal.jsonl")
    journal.append(HeadEvent(session=name, target="elpv"))
    for number in range(1, n_rounds + 1):
        ids = [f"r{number:03d}p{i:02d}" for i in (1, 2)]
        texts = ["a dark polycrystalline solar cell", "a bright monocrystalline solar cell"]
        prompts = [
            {"id": i, "text": t, "class_name": "functional", "count": 10}
            for i, t in zip(ids, texts, strict=True)
        ]
        quality = [{"prompt_id": i, "n_made": 10, "n_kept": 9, "mean_weight": 0.9} for i in ids[:1]]
        failure = {
            "slice": "brightness=dark wafer=poly",
            "attributes": {"brightness": "dark", "wafer": "poly"},
            "n": 40,
            "n_wrong": 20,
            "error_rate": estimate(0.5, 40),
            "rest_error_rate": 0.1,
            "p_value": 0.001,
            "q_value": 0.01,
        }
        plan = {"round": number, "author": "uniform", "prompts": prompts}
        journal.append(event("plan", plan=plan))
        batch = {"round": number, "job_id": "j", "shards": [], "quality": quality}
        journal.append(event("batch", batch=batch))
        failures = [
            failure | {"id": "f1", "significant": True},
            failure | {"id": "f2", "significant": False, "slice": "wafer=mono"},
        ]
        journal.append(event("failures", round=number, failures=failures))
        credit = {"prompt_id": ids[0], "slice": "wafer=poly", "n_images": 10}
        journal.append(event("credits", round=number, credits=[credit | {"change_per_100": 0.25}]))
    lesson = {"id": f"{name}/1", "round": 1, "text": "more dark cells helped", "held": True}
    journal.append(event("lesson", lesson=lesson))
    return journal.path


def test_an_item_comes_back_as_it_was(tmp_path: Path) -> None:
    index = MemoryIndex(tmp_path / "memory", embed)
    first = item("a", "a dark poly cell", data={"kept_rate": 0.9, "class": "x", "held": True})
    index.add([first, item("b", "a bright mono cell"), item("c", "apple cake")])
    hits = MemoryIndex(tmp_path / "memory", embed).search("dark poly cell", n=2)
    assert [hit.item.id for hit in hits] == ["a", "b"]
    assert hits[0].item == first
    assert hits[0].item.data["held"] is True
    expected = sum(
        x * y for x, y in zip(*embed(["dark poly cell", "a dark poly cell"]), strict=True)
    )
    assert hits[0].similarity == pytest.approx(expected, abs=1e-5)
    assert first.describe() == "a dark poly cell (kept_rate 0.9, class x, held True)"


def test_an_empty_index_answers(tmp_path: Path) -> None:
    index = MemoryIndex(tmp_path / "memory", embed)
    assert index.search("anything") == []
    index.add([])
    assert index.stats() == {"items": 0, "kinds": {}, "targets": {}, "sessions": {}}


def test_adding_again_replaces(tmp_path: Path) -> None:
    index = MemoryIndex(tmp_path / "memory", embed)
    index.add([item("a", "old words"), item("a", "new words")])
    index.add([item("a", "newest words", kind="lesson")])
    assert index.stats()["items"] == 1
    assert [hit.item.text for hit in index.search("words")] == ["newest words"]


def test_searches_keep_to_a_kind_and_a_target(tmp_path: Path) -> None:
    index = MemoryIndex(tmp_path / "memory", embed)
    index.add(
        [
            item("a", "dark cell"),
            item("b", "dark cell", kind="lesson"),
            item("c", "dark street", target="streets", session="t"),
        ]
    )

    def found(**filters: str) -> set[str]:
        return {hit.item.id for hit in index.search("dark", **filters)}  # type: ignore[arg-type]

    assert found() == {"a", "b", "c"}
    assert found(kind="prompt") == {"a", "c"}
    assert found(target="elpv") == {"a", "b"}
    assert found(kind="lesson", target="elpv") == {"b"}
    assert found(target="nowhere") == set()
    assert index.stats() == {
        "items": 3,
        "kinds": {"prompt": 2, "lesson": 1},
        "targets": {"elpv": 2, "streets": 1},
        "sessions": {"s": 2, "t": 1},
    }


def test_a_text_that_a_session_repeats_is_found_once(tmp_path: Path) -> None:
    index = MemoryIndex(tmp_path / "memory", embed)
    repeated = [item(f"r{n}", "a dark cell", round=n) for n in (1, 3, 2)]
    index.add([*repeated, item("other", "a bright cell")])
    assert [hit.item.id for hit in index.search("a dark cell", n=2)] == ["r3", "other"]


def test_a_session_gives_prompts_failures_and_lessons(tmp_path: Path) -> None:
    events = Journal(write_session(tmp_path, "s")).events()
    prompt, failure, lesson = items_from_events(events)
    assert (prompt.id, prompt.text) == (
        "s/prompt/r001p01",
        "a dark polycrystalline solar cell",
    )
    assert prompt.data == {"n_made": 10.0, "kept_rate": 0.9, "credit wafer=poly": 0.25}
    assert failure.id == "s/failure/1/f1"
    assert failure.text == "the model often errs on photographs with dark brightness, poly wafer"
    assert failure.data["error_rate"] == 0.5
    assert (lesson.text, lesson.data) == ("more dark cells helped", {"held": True})
    assert {i.target for i in (prompt, failure, lesson)} == {"elpv"}
    assert items_from_events(e for e in events if not isinstance(e, HeadEvent)) == []


def test_reindex_equals_adding_and_forgets_the_rest(tmp_path: Path) -> None:
    journals = [write_session(tmp_path, name, n_rounds=2) for name in ("s", "t")]
    index = MemoryIndex(tmp_path / "memory", embed)
    index.add([item("stale", "from a session that was deleted")])
    assert index.reindex(journals) == 10
    assert index.stats()["kinds"] == {"prompt": 4, "failure": 4, "lesson": 2}
    added = MemoryIndex(tmp_path / "other", embed)
    for path in journals:
        added.add(items_from_events(Journal(path).events()))
    assert added.search("dark") == index.search("dark")
    assert not list(tmp_path.glob("memory.damaged-*"))


@pytest.mark.parametrize("damage", [b"", b"garbage" * 1000])
def test_a_damaged_index_is_moved_aside_and_rebuilt(tmp_path: Path, damage: bytes) -> None:
    journals = [write_session(tmp_path, "s")]
    index = MemoryIndex(tmp_path / "memory", embed)
    index.reindex(journals)
    before = index.search("dark cell")
    database = tmp_path / "memory" / "chroma.sqlite3"
    whole = database.read_bytes()
    database.write_bytes(damage or whole[: len(whole) // 2])
    for _ in range(2):
        with pytest.raises(StorageError, match="shaping memory reindex"):
            index.search("dark cell")
    with pytest.raises(StorageError, match="shaping memory reindex"):
        index.add([item("a", "b")])
    assert index.reindex(journals) == 3
    assert index.search("dark cell") == before
    assert (tmp_path / "memory.damaged-1" / "chroma.sqlite3").exists()

    database.write_bytes(b"garbage")
    assert index.reindex(journals) == 3
    assert (tmp_path / "memory.damaged-2").is_dir()


def test_a_damaged_journal_leaves_the_items_of_its_session_as_they_were(tmp_path: Path) -> None:
    paths = [write_session(tmp_path, name) for name in ("s", "t")]
    told: list[str] = []
    index = MemoryIndex(tmp_path / "memory", embed, tell=told.append)
    index.reindex(paths)
    before = index.stats()
    assert before["sessions"] == {"s": 3, "t": 3}
    paths[0].write_bytes(b"{oops\n" + paths[0].read_bytes())
    assert index.reindex(paths) == 6
    assert index.stats() == before
    assert len(told) == 1
    assert "line 1" in told[0]


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "memory").write_text("")
    with pytest.raises(StorageError, match="memory"):
        MemoryIndex(tmp_path / "memory", embed).stats()


WRITER = """
import importlib.util, sys
from pathlib import Path
from memory.chroma import MemoryIndex
spec = importlib.util.spec_from_file_location("helpers", sys.argv[1])
helpers = importlib.util.module_from_spec(spec)
spec.loader.exec_module(helpers)
index = MemoryIndex(Path(sys.argv[2]), helpers.embed)
for batch in range(6):
    names = [f"{sys.argv[3]}{batch}-{n}" for n in range(5)]
    index.add([helpers.item(name, f"cell {name}") for name in names])
"""


def test_two_processes_adding_at_once_lose_nothing(tmp_path: Path) -> None:
    folder = tmp_path / "memory"
    index = MemoryIndex(folder, embed)
    index.add([item("mine", "a cell")])
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, __file__, str(folder), name],
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in "ab"
    ]
    for writer in writers:
        _, errors = writer.communicate(timeout=120)
        assert writer.returncode == 0, errors
    assert index.stats()["items"] == 61
    assert [hit.item.id for hit in index.search("cell a3-2", n=1)] == ["a3-2"]


def test_the_packaged_encoder_finds_the_right_prompt(tmp_path: Path) -> None:
    index = MemoryIndex(tmp_path / "memory")
    index.add(
        [
            item("dark", "a polycrystalline defective dim solar cell, with a large dark area"),
            item("bright", "a monocrystalline functional bright solar cell, evenly lit"),
            item("street", "a street at night in the rain"),
        ]
    )
    hits = index.search("dark poly cell")
    assert [hit.item.id for hit in hits] == ["dark", "bright", "street"]
    assert hits[0].similarity > hits[1].similarity + 0.1
    assert json.loads(hits[0].model_dump_json())["item"]["id"] == "dark"


def test_many_searches_at_once_find_what_single_ones_find(tmp_path: Path) -> None:
    index = MemoryIndex(tmp_path / "memory", embed)
    index.add([item("a", "a dark cell"), item("b", "a bright cell"), item("c", "a broken cell")])
    queries = ["dark", "broken cell"]
    assert index.search_all(queries, n=2) == [index.search(query, n=2) for query in queries]
    assert index.search_all([]) == []


def test_what_is_there_as_it_is_is_not_added_again(tmp_path: Path) -> None:
    embedded: list[str] = []

    def counting(texts: Sequence[str]) -> list[list[float]]:
        embedded.extend(texts)
        return embed(texts)

    index = MemoryIndex(tmp_path / "memory", counting)
    index.add([item("a", "a dark cell"), item("b", "a bright cell")])
    index.add([item("b", "a bright cell"), item("c", "a broken cell"), item("a", "a grey cell")])
    assert embedded == ["a dark cell", "a bright cell", "a broken cell", "a grey cell"]
    index.add([item("a", "a grey cell", data={"kept_rate": 0.5})])
    assert index.search("grey", n=1)[0].item.data == {"kept_rate": 0.5}
    assert index.stats()["items"] == 3


def test_a_kind_is_found_wherever_it_lies_among_the_others(tmp_path: Path) -> None:
    index = MemoryIndex(tmp_path / "memory", embed)
    # The nearest of all are failures that repeat one text, then prompts; lessons are far.
    failures = [item(f"f{n}", "dark cell", kind="failure", round=n) for n in range(200)]
    prompts = [item(f"p{n}", f"dark cell number {n}") for n in range(40)]
    lessons = [item(f"l{n}", f"bright lesson {n} on a cell", kind="lesson") for n in range(9)]
    index.add([*failures, *prompts, *lessons])
    found = {kind: index.search("dark cell", n=4, kind=kind) for kind in ("failure", "lesson")}
    assert [hit.item.text for hit in found["failure"]] == ["dark cell"]
    assert {hit.item.kind for hit in found["lesson"]} == {"lesson"}
    assert len(found["lesson"]) == 4
    near = index.search("dark cell number 7", n=4, kind="prompt", target="elpv")
    assert near[0].item.id == "p7"
    assert len(near) == 4
    assert {hit.item.kind for hit in near} == {"prompt"}
