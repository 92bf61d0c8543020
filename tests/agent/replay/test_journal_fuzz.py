"""Damaged journals and session folders end in an error that names them, never in a traceback."""

from __future__ import annotations

import contextlib
import random
import shutil
from pathlib import Path

import pytest

from agent.session.folder import list_sessions
from memory.errors import ShapingError
from memory.journal import read_events, rounds
from tests.agent.replay.test_bundle import mutate
from tests.agent.replay.test_old_sessions import NAMES, RECORDED


@pytest.mark.parametrize("n", [150, pytest.param(5000, marks=pytest.mark.slow)])
def test_mutated_journals_and_settings_never_crash(tmp_path: Path, n: int) -> None:
    rng = random.Random(n)
    folder = tmp_path / "sessions" / "odd"
    folder.mkdir(parents=True)
    for number in range(n):
        source = RECORDED / NAMES[number % len(NAMES)]
        for name in ("journal.jsonl", "session.yaml"):
            shutil.copyfile(source / name, folder / name)
        name = rng.choice(("journal.jsonl", "journal.jsonl", "session.yaml"))
        (folder / name).write_bytes(mutate((folder / name).read_bytes(), rng))
        with contextlib.suppress(ShapingError):
            rounds(read_events(folder / "journal.jsonl"))
        assert len(list_sessions(tmp_path)) == 1
        assert {path.name for path in tmp_path.iterdir()} == {"sessions"}


def test_a_line_that_is_nested_too_deeply_is_damaged(tmp_path: Path) -> None:
    path = tmp_path / "journal.jsonl"
    shutil.copyfile(RECORDED / NAMES[0] / "journal.jsonl", path)
    with path.open("ab") as handle:
        handle.write(
            b'{"schema": 1, "kind": "x", "y": ' + b"[" * 100_000 + b"]" * 100_000 + b"}\n{}\n"
        )
    with pytest.raises(ShapingError):
        read_events(path)
