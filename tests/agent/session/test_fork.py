"""Forks share their past and decide alike; tables, pages and differences of sessions."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pandas as pd
import pyarrow.parquet as pq
import pytest

from agent.replay.diff import _row, compare_sessions
from agent.replay.trace import collect, write_page, write_tables
from agent.replay.verify import verify
from agent.session.fork import fork
from eval.tables import COLUMNS
from memory.chain import changed_lines
from memory.errors import SessionError, SettingsError
from memory.items import items_from_events
from memory.journal import read_events
from tests.agent.invented import only_round, record
from tests.eval.fake_session import session


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("forks")
    folder = record(home, "first", "session.rounds=3")
    for number in (1, 2, 3):
        path = folder / "rounds" / f"{number:03d}" / "data-0.parquet"
        path.parent.mkdir(parents=True)
        path.write_bytes(b"images")
    return home


@pytest.fixture(scope="module")
def forked(home: Path) -> Path:
    """A fork at round 3 that has gone on with the same brain."""
    name = fork(home, "first", 3)
    return record(home, name, "session.rounds=3")


def test_fork_then_the_same_brain_plans_the_same(home: Path, forked: Path) -> None:
    first = home / "sessions" / "first"
    assert forked.name == "first-at3"
    for number in (1, 2, 3):
        assert only_round(forked, number).plan == only_round(first, number).plan
    assert verify(forked / "journal.jsonl").findings == ()


def test_fork_shares_its_past_without_copies(home: Path, forked: Path) -> None:
    first = home / "sessions" / "first"
    shared = "rounds/002/data-0.parquet"
    assert (forked / shared).samefile(first / shared)
    assert not (forked / "rounds" / "003").exists()
    ours = (forked / "journal.jsonl").read_bytes().splitlines()
    theirs = (first / "journal.jsonl").read_bytes().splitlines()
    n = next(i for i, line in enumerate(ours) if json.loads(line)["kind"] == "forked")
    assert ours[:n] == theirs[:n]
    assert changed_lines(forked / "journal.jsonl") == []


def test_a_fork_links_no_file_outside_its_home(home: Path, tmp_path: Path) -> None:
    shared = home / "sessions" / "first" / "rounds" / "001" / "data-0.parquet"
    elsewhere = tmp_path / "data.parquet"
    shutil.move(shared, elsewhere)
    shared.symlink_to(elsewhere)
    try:
        copy = (
            home
            / "sessions"
            / fork(home, "first", 2, "copied")
            / shared.relative_to(home / "sessions" / "first")
        )
        assert copy.read_bytes() == elsewhere.read_bytes()
        assert not copy.is_symlink() and not copy.samefile(elsewhere)
    finally:
        shared.unlink()
        shutil.move(elsewhere, shared)


def test_memory_keeps_the_shared_past_once(home: Path, forked: Path) -> None:
    items = items_from_events(read_events(forked / "journal.jsonl"))
    assert {item.round for item in items} == {3}
    assert {item.session for item in items} == {"first-at3"}


def test_a_fork_may_get_another_brain_but_no_other_past(home: Path) -> None:
    name = fork(home, "first", 2, "other", ["brain=policy:uniform"])
    folder = record(home, name, "session.rounds=3", "brain=policy:uniform")
    assert verify(folder / "journal.jsonl").findings == ()
    plan = only_round(folder, 2).plan
    assert plan is not None and plan.author == "policy:uniform"
    with pytest.raises(SettingsError, match=r"generator\.name"):
        fork(home, "first", 2, "toys", ["generator.name=toy"])
    with pytest.raises(SettingsError, match="must be 2 to 4, not 9"):
        fork(home, "first", 9, "late")
    with pytest.raises(SettingsError, match="must be 2 to 4, not 1"):
        fork(home, "first", 1, "early")
    with pytest.raises(SessionError, match="--as"):
        fork(home, "first", 2, "other")
    assert not (home / "sessions" / "toys").exists()


def test_tables_are_tidy(home: Path, forked: Path, tmp_path: Path) -> None:
    found = collect(home, ["first", "first-at3"])
    # What the fork shares is there once.
    assert len(found["rounds"]) == 3 + 1
    assert {row["session"] for row in found["calls"]} == {"first", "first-at3"}
    assert len(found["slices"]) == 4 * 4
    for name, rows in found.items():
        # Sessions without a report have nothing on likeness.
        assert bool(rows) == (name != "likeness"), name
        assert all(list(row) == list(COLUMNS[name]) for row in rows), name
    for path in write_tables(found, "csv", tmp_path):
        with path.open(encoding="utf-8", newline="") as handle:
            assert len(list(csv.DictReader(handle))) == len(found[path.stem])
    for path in write_tables(found, "parquet", tmp_path):
        assert pq.read_table(path).num_rows == len(found[path.stem])
    with pytest.raises(SettingsError, match="Did you mean 'csv'"):
        write_tables(found, "cvs", tmp_path)


def test_tables_go_into_a_database(home: Path, tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    (path,) = write_tables(collect(home, ["first"]), "duckdb", tmp_path)
    with duckdb.connect(str(path)) as database:
        assert database.execute("select count(*) from calls").fetchone() == (24,)


def test_pandas_reads_a_journal(home: Path) -> None:
    frame = pd.read_json(home / "sessions/first/journal.jsonl", lines=True)
    assert len(frame) == len(read_events(home / "sessions/first/journal.jsonl"))
    assert (frame["schema"] == 1).all()


def test_page_shows_all_sessions(home: Path, forked: Path, tmp_path: Path) -> None:
    write_page(home, ["first", "first-at3"], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text("utf-8")
    assert "first-at3" in page and "<svg" in page and "<script" not in page
    assert "Expected and measured" in page


def test_a_difference_has_no_share_kept_without_an_audit() -> None:
    both = (session().rounds[0], session().rounds[0])
    assert _row(1, both, (True, True))[4] == "0.67 / 0.67"
    assert _row(1, both, (True, False))[4] == "0.67 / -"


def test_difference_says_where_sessions_part(home: Path, forked: Path) -> None:
    same = compare_sessions(home, "first", "first-at3")
    assert same.settings == []
    assert same.parts == "Every decision is the same."
    assert [row[5] for row in same.rows] == ["1.00"] * 3
    record(home, "rival", "session.rounds=3", "session.seed=9")
    other = compare_sessions(home, "first", "rival")
    assert other.settings == ["session.seed: 0 -> 9"]
    assert other.parts == "They first differ in round 1, phase plan: propose_plan / propose_plan."
