"""Sessions that are killed, stopped and starved come to what an undisturbed one comes to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from memory.files import remove_temporaries


def crashes(*arguments: str) -> str:
    """Run `tests.agent.crashes` apart, since it forks."""
    command = [sys.executable, "-m", "tests.agent.crashes", *arguments]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_few_disturbances_change_nothing() -> None:
    said = crashes("--kills", "1", "--oom", "1", "--first-seed", "4")
    assert said.count("1 of 1 the same") == 2


@pytest.mark.slow
def test_many_disturbances_change_nothing() -> None:
    said = crashes(
        *("--kills", "50", "--terms", "20", "--oom", "10", "--full-disk", "10", "--chroma", "5")
    )
    assert "SIGKILL: 50 of 50 the same" in said


@pytest.mark.slow
def test_a_dead_language_model_is_stood_in_for_and_given_back() -> None:
    said = crashes("--llm", "2")
    assert "language model killed: 2 of 2 taken over and given back" in said


@pytest.mark.slow
def test_two_sessions_at_once_lose_nothing_of_what_they_remember() -> None:
    assert "two sessions: 2 of 2 without a loss" in crashes("--two", "2")


def test_what_a_broken_write_has_left_is_removed(tmp_path: Path) -> None:
    left = tmp_path / "rounds" / "001" / ".data-00001.parquet.k3_x9abc.shaping-tmp"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"half")
    whole = left.with_name("data-00001.parquet")
    whole.write_bytes(b"whole")
    remove_temporaries(tmp_path)
    assert list(left.parent.iterdir()) == [whole]
