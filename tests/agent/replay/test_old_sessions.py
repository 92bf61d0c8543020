"""Sessions recorded by version 0.1.0 still open: replay, verify, report, trace, diff, fork."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agent.cli.app import app
from agent.replay.verify import verify
from memory.journal import read_events, rounds

RECORDED = Path(__file__).parents[2] / "data" / "sessions"
NAMES = ("old-policy", "old-steered", "old-llm")
N_ROUNDS = {"old-policy": 2, "old-steered": 3, "old-llm": 2}


@pytest.fixture
def home(tmp_path: Path) -> Path:
    shutil.copytree(RECORDED, tmp_path / "sessions")
    return tmp_path


def shaping(home: Path, *arguments: str) -> Result:
    result = CliRunner().invoke(app, [*arguments, "--home", str(home)])
    assert result.exit_code == 0, result.output
    return result


@pytest.mark.parametrize("name", NAMES)
def test_records_of_before_are_read(home: Path, name: str) -> None:
    past = rounds(read_events(home / "sessions" / name / "journal.jsonl"))
    assert len(past) == N_ROUNDS[name]
    for one in past:
        assert one.plan and one.batch and one.training and one.report
        assert sum(prompt.count for prompt in one.plan.prompts) == one.batch.n_made


@pytest.mark.parametrize("name", NAMES)
def test_only_reworded_texts_differ_from_the_record(home: Path, name: str) -> None:
    result = verify(home / "sessions" / name / "journal.jsonl")
    assert result.n_rounds == N_ROUNDS[name]
    assert result.findings == ()
    assert all(text.place.startswith(("prompts/", "tools/")) for text in result.reworded)


@pytest.mark.parametrize("name", NAMES)
def test_the_walk_shows_every_plan(home: Path, name: str) -> None:
    shown = shaping(home, "replay", name, "--print").output
    for one in rounds(read_events(home / "sessions" / name / "journal.jsonl")):
        assert one.plan is not None
        assert one.plan.prompts[0].text.split(",")[0][:25] in " ".join(shown.split())


@pytest.mark.parametrize("name", NAMES)
def test_the_report_is_written(home: Path, name: str) -> None:
    shaping(home, "report", name)
    page = (home / "sessions" / name / "report.html").read_text("utf-8")
    assert name in page and "wafer" in page


def test_tables_hold_the_recorded_figures(home: Path, tmp_path: Path) -> None:
    shaping(home, "trace", *NAMES, "--to", "csv", "-o", str(tmp_path / "tables"))
    with (tmp_path / "tables" / "rounds.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["session"] for row in rows] == [n for n in NAMES for _ in range(N_ROUNDS[n])]
    for row in rows:
        sealed = home / "sessions" / row["session"] / "rounds" / f"{int(row['round']):03d}"
        assert row["metric"] in json.loads((sealed / "sealed.json").read_text())["metrics"]
        assert 0 <= float(row["score_low"]) <= float(row["score"]) <= float(row["score_high"]) <= 1


def test_sessions_are_listed_and_compared(home: Path) -> None:
    listed = shaping(home, "sessions").output
    assert all(name in listed for name in NAMES)
    assert "old-llm" in shaping(home, "diff", "old-policy", "old-llm").output


@pytest.mark.parametrize("name", NAMES)
def test_a_fork_shares_the_past(home: Path, name: str) -> None:
    shaping(home, "fork", name, "--at", "2", "--as", "other")
    past = rounds(read_events(home / "sessions" / "other" / "journal.jsonl"))
    assert [one.number for one in past if one.report] == [1]
    assert list((home / "sessions" / "other" / "rounds" / "001").glob("*.parquet"))
