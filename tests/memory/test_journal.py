from __future__ import annotations

import json
import os
import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from memory.chain import changed_lines, seal
from memory.errors import SessionError, StorageError
from memory.events import (
    CreditsEvent,
    FallbackEvent,
    GeneratorEvent,
    HeadEvent,
    OtherEvent,
    PlanEvent,
    ReportEvent,
    StageEvent,
    UndoneEvent,
)
from memory.journal import _N_EVENTS, Journal, read_events, rounds, standing
from memory.records import Plan, PromptSpec
from tests import factories


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.jsonl"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small disk can be mounted by root only")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def note(key: str | None = None, **data: Any) -> OtherEvent:
    """Return an event of a kind that this version does not know."""
    return OtherEvent(kind="note", key=key, data=data)


@contextmanager
def file_size_limit(n_bytes: int) -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_events_survive_a_restart_unchanged(path: Path) -> None:
    journal = Journal(path)
    first = journal.append(note(text="línea\u2028two", values=(1, 2.5), nothing=None))
    second = journal.append(StageEvent(round=1, stage="train", seconds=3.0))
    again = Journal(path)
    assert again.events() == journal.events() == read_events(path) == [first, second]
    assert again.events(StageEvent) == [second]
    assert first.data["values"] == [1, 2.5]
    assert (first.version, first.kind, first.key) == (1, "note", None)
    assert first.time.endswith("+00:00")
    assert again.torn is None


def test_each_event_is_one_line(path: Path) -> None:
    journal = Journal(path)
    journal.append(note(text="a\nb"))
    journal.append(note(text="c"))
    assert [json.loads(line)["text"] for line in path.read_text("utf-8").splitlines()] == [
        "a\nb",
        "c",
    ]


def test_a_key_is_written_once(path: Path) -> None:
    journal = Journal(path)
    first = journal.append(GeneratorEvent(key="generator", identity="one"))
    n_bytes = path.stat().st_size
    assert journal.append(GeneratorEvent(key="generator", identity="two")) == first
    restarted = Journal(path)
    assert restarted.append(GeneratorEvent(key="generator", identity="three")) == first
    assert path.stat().st_size == n_bytes
    assert restarted.get("generator", GeneratorEvent) == first
    assert restarted.get("generator/2", GeneratorEvent) is None


@pytest.mark.parametrize("n_cut", [1, 10, 40])
def test_a_torn_last_line_is_moved_aside(path: Path, n_cut: int) -> None:
    journal = Journal(path)
    kept = journal.append(note(text="kept"))
    journal.append(note(key="k", text="a line that the crash cuts off somewhere"))
    os.truncate(path, path.stat().st_size - n_cut)
    assert read_events(path) == [kept]
    torn_bytes = path.read_bytes().split(b"\n")[1]

    again = Journal(path)
    assert again.events() == [kept]
    assert again.torn == path.with_name("journal.torn-1")
    assert again.torn.read_bytes() == torn_bytes
    again.append(note(key="k", text="done again"))
    assert [e.content()["text"] for e in read_events(path)] == ["kept", "done again"]


def test_each_torn_line_gets_a_file_of_its_own(path: Path) -> None:
    for n in (1, 2):
        with path.open("ab") as handle:
            handle.write(b'{"schema": 1, "ki')
        assert Journal(path).torn == path.with_name(f"journal.torn-{n}")
    assert read_events(path) == []


def test_a_last_line_of_garbage_counts_as_torn(path: Path) -> None:
    kept = Journal(path).append(note())
    with path.open("ab") as handle:
        handle.write(b"\0\0\0\xff\n")
    journal = Journal(path)
    assert journal.events() == [kept]
    assert journal.torn is not None and journal.torn.read_bytes() == b"\0\0\0\xff\n"


def test_a_damaged_line_within_is_an_error_that_names_it(path: Path) -> None:
    journal = Journal(path)
    for text in "abc":
        journal.append(note(text=text))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b"{oops\n" + lines[2])
    with pytest.raises(SessionError, match="line 2 is damaged"):
        Journal(path)
    with pytest.raises(SessionError, match="line 2 is damaged"):
        read_events(path)


@pytest.mark.parametrize("line", ['{"schema": 2, "kind": "note"}', "[]", '{"schema": 1}'])
def test_events_of_another_schema_are_refused(path: Path, line: str) -> None:
    path.write_text(line + "\n")
    with pytest.raises(SessionError, match="no event of schema 1"):
        Journal(path)


def test_reading_needs_a_journal(path: Path) -> None:
    with pytest.raises(SessionError, match="no journal"):
        read_events(path)
    assert not path.exists()


@pytest.mark.parametrize("data", [{"x": float("nan")}, {"x": object()}])
def test_bad_data_is_refused_and_nothing_is_written(path: Path, data: dict[str, Any]) -> None:
    journal = Journal(path)
    with pytest.raises((ValueError, TypeError)):
        journal.append(note(**data))
    assert path.read_bytes() == b""
    assert journal.events() == []


def test_a_write_that_stops_midway_leaves_nothing(path: Path) -> None:
    journal = Journal(path)
    kept = journal.append(note(text="kept"))
    before = path.read_bytes()
    with file_size_limit(len(before) + 50), pytest.raises(StorageError, match=r"journal\.jsonl"):
        journal.append(note(key="k", text="x" * 1000))
    assert path.read_bytes() == before
    assert journal.get("k", OtherEvent) is None
    later = journal.append(note(key="k", text="there is room now"))
    assert read_events(path) == [kept, later]


def test_a_full_disk_is_explained_and_loses_nothing(small_disk: Path) -> None:
    path = small_disk / "journal.jsonl"
    journal = Journal(path)
    kept = journal.append(note(text="kept"))
    before = path.read_bytes()
    with pytest.raises(StorageError, match="The disk is full"):
        journal.append(note(text="x" * 200_000))
    assert path.read_bytes() == before
    assert Journal(path).events() == [kept]
    assert Journal(path).torn is None


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        Journal(tmp_path / "file" / "journal.jsonl")


def test_events_fold_into_rounds(path: Path) -> None:
    journal = Journal(path)
    prompt = PromptSpec(id="p", text="a cell", class_name="functional", count=5)
    plan = Plan(round=2, author="uniform", prompts=(prompt,))
    earlier = plan.model_copy(update={"prompts": (prompt.model_copy(update={"count": 9}),)})
    report = factories.report(number=0)
    journal.append(HeadEvent(session="s", target="elpv"))
    journal.append(ReportEvent(report=report))
    journal.append(PlanEvent(plan=earlier))
    journal.append(PlanEvent(plan=plan))
    journal.append(StageEvent(round=2, stage="train", seconds=2.0))
    journal.append(StageEvent(round=2, stage="train", seconds=0.5))
    journal.append(FallbackEvent(round=2, reason="a reply that is no tool call"))
    journal.append(FallbackEvent(round=2, reason="again"))
    journal.append(CreditsEvent(round=1))
    journal.append(ReportEvent(report=report.model_copy(update={"round": 1})))

    baseline, first, second = rounds(read_events(path))
    assert (baseline.number, first.number, second.number) == (0, 1, 2)
    assert baseline.plan is None and baseline.report == report
    assert first.plan is None and first.report is not None
    assert second.report is None and second.plan is not None
    assert second.plan.n_images == 5
    assert second.seconds == {"train": 2.5}
    assert (first.fallbacks, second.fallbacks) == (0, 2)
    assert rounds([]) == []


def test_a_journal_folds_its_rounds_as_they_grow(path: Path) -> None:
    journal = Journal(path)
    assert journal.rounds() == []
    for number in (1, 2):
        journal.append(FallbackEvent(round=number, reason="none"))
        journal.append(StageEvent(round=number, stage="train", seconds=2.0))
        assert journal.rounds() == rounds(journal.events())
        journal.append(StageEvent(round=number, stage="train", seconds=1.0))
        assert journal.rounds()[-1].seconds == {"train": 3.0}
    first = journal.rounds()[0]
    journal.append(UndoneEvent(from_round=2))
    assert [done.number for done in journal.rounds()] == [1]
    journal.append(StageEvent(round=2, stage="train", seconds=5.0))
    assert journal.rounds() == rounds(journal.events()) == Journal(path).rounds()
    assert journal.rounds()[0] == first


def test_a_round_of_another_version_is_refused(path: Path) -> None:
    path.write_text('{"schema": 1, "kind": "plan", "plan": {"round": 1, "sky": "blue"}}\n')
    with pytest.raises(SessionError, match=r"line 1 .*plan\.author"):
        read_events(path)


@pytest.fixture
def lines(path: Path) -> list[bytes]:
    for number in range(5):
        Journal(path).append(note(text=f"number {number}", key=f"k{number}"))
    return path.read_bytes().splitlines(keepends=True)


def test_an_untouched_journal_has_no_changed_lines(path: Path, lines: list[bytes]) -> None:
    assert changed_lines(path) == []
    assert len({json.loads(line)["chain"] for line in lines}) == 5
    assert b"".join(seal(lines)) == path.read_bytes()


def test_every_changed_character_is_located(path: Path, lines: list[bytes]) -> None:
    for place in range(len(lines[2]) - 1):
        changed = bytearray(lines[2])
        changed[place] ^= 1
        if b"\n" in changed[:-1]:
            continue
        path.write_bytes(b"".join([*lines[:2], bytes(changed), *lines[3:]]))
        assert changed_lines(path)[0] == 3, place


def test_removed_and_exchanged_lines_are_located(path: Path, lines: list[bytes]) -> None:
    path.write_bytes(b"".join(lines[:2] + lines[3:]))
    assert changed_lines(path) == [3]
    path.write_bytes(b"".join([lines[0], lines[2], lines[1], *lines[3:]]))
    assert changed_lines(path) == [2, 3, 4]


def test_lines_of_a_version_without_checksums_are_taken(path: Path, lines: list[bytes]) -> None:
    old = [b'{"schema": 1, "kind": "note"}\n'] * 2
    path.write_bytes(b"".join(old))
    Journal(path).append(note(text="new"))
    assert changed_lines(path) == []
    assert changed_lines(path) == []
    path.write_bytes(b"".join(lines[:2] + old))
    assert changed_lines(path) == [3, 4] or changed_lines(path) == [3]


def test_what_is_not_in_memory_is_read_again(path: Path) -> None:
    journal = Journal(path)
    for number in range(1, 201):
        journal.append(note(key=f"note/{number}", round=number, text="x" * number))
        journal.append(StageEvent(round=number, stage="train", seconds=float(number)))
    assert journal.n_read == 0
    assert journal.events() == read_events(path)
    assert journal.n_read == 400 - _N_EVENTS
    assert journal.get("note/3", OtherEvent) == journal.events()[4]
    n_read = journal.n_read
    assert journal.get("note/3", OtherEvent) is not None
    assert journal.get("note/200", OtherEvent) is not None
    assert journal.n_read == n_read
    assert [e.round for e in journal.events(StageEvent, since=199)] == [199, 200]
    assert [e.kind for e in journal.of_rounds(7, 5)] == ["note", "stage"] * 2
    assert journal.count(StageEvent) == 200
    assert journal.appended(398) == journal.events()[-2:]
    assert [r.number for r in journal.rounds(2)] == [199, 200]
    assert journal.round(9) == rounds(read_events(path))[8]
    assert journal.round(201) is None
    assert journal.append(note(key="note/3", text="another")) == journal.get("note/3", OtherEvent)
    assert journal.rounds() == Journal(path).rounds()


def test_what_is_taken_back_is_not_read_again(path: Path) -> None:
    journal = Journal(path)
    for number in (1, 2):
        journal.append(note(key=f"note/{number}", round=number))
    journal.append(UndoneEvent(from_round=2))
    journal.append(note(key="note/2", round=2, text="anew"))
    for known in (journal, Journal(path)):
        assert known.events() == standing(read_events(path, undone=True))
        assert known.events(undone=True) == read_events(path, undone=True)
        assert [e.content()["text"] for e in known.of_rounds(2)] == ["anew"]
        assert len(known.appended(0)) == 4
        assert known.count(UndoneEvent) == 1


def test_a_second_writer_is_found_before_a_line_is_written(tmp_path: Path) -> None:
    """As two machines that share a folder would be, where file locks do not reach."""
    path = tmp_path / "journal.jsonl"
    one = Journal(path)
    one.append(GeneratorEvent(identity="first"))
    other = Journal(path)
    other.append(GeneratorEvent(identity="second"))
    before = path.read_bytes()
    with pytest.raises(SessionError, match="Another process"):
        one.append(GeneratorEvent(identity="third"))
    assert path.read_bytes() == before
    other.append(GeneratorEvent(identity="fourth"))
    assert len(read_events(path)) == 3


def test_a_line_exchanged_for_one_of_equal_length_is_found(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    journal = Journal(path)
    journal.append(GeneratorEvent(identity="first"))
    data = path.read_bytes()
    path.write_bytes(data[:-20] + b"0" * 16 + data[-4:])
    with pytest.raises(SessionError, match="Another process"):
        journal.append(GeneratorEvent(identity="second"))
