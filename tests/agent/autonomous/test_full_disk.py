"""On a full disk a session waits, and neither it nor its watcher gives up."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from agent.autonomous import detached
from agent.config.sections import LimitSettings
from agent.session.control import Control, condition
from agent.session.folder import folder_of
from memory.files import write_bytes


def fill(monkeypatch: pytest.MonkeyPatch, number: int = errno.ENOSPC) -> None:
    """Let no file get any content, as on a full disk."""

    def full(*_: object, **__: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(Path, "write_text", full)


def test_a_pause_survives_a_disk_without_space_for_a_heartbeat(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = LimitSettings(silent_s=0.2, disk_reserve_gb=0)
    control = Control(tmp_path, limits)
    fill(monkeypatch)
    for _ in range(4):
        time.sleep(0.1)
        control.rest("for space")
    now = condition(tmp_path)
    assert now.state == "paused"
    assert now.heartbeat
    assert "disk is full" in now.heartbeat.why
    # A process that hangs gives no sign of life at all.
    time.sleep(0.3)
    assert condition(tmp_path).state == "stuck"
    monkeypatch.undo()
    control.rest("a person")
    assert condition(tmp_path).state == "paused"
    time.sleep(0.3)
    assert condition(tmp_path).state == "stuck"


class Runs:
    """Takes the place of the processes of a session: each ends with the next exit code."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, codes: list[int]) -> None:
        self.codes, self.n = codes, 0
        self._popen = subprocess.Popen
        monkeypatch.setattr(subprocess, "Popen", self)

    def __call__(self, *_: object, **__: object) -> subprocess.Popen[bytes]:
        self.n += 1
        return self._popen([sys.executable, "-S", "-c", f"raise SystemExit({self.codes.pop(0)})"])


def watch(monkeypatch: pytest.MonkeyPatch, home: Path, fulls: list[Any]) -> int:
    folder_of(home, "a").mkdir(parents=True)
    monkeypatch.setattr(detached, "DISK_EVERY_S", 0.01)
    monkeypatch.setattr(detached, "_disk_is_full", lambda folder: fulls.pop(0))
    before = signal.getsignal(signal.SIGTERM)
    try:
        return detached.watch(home, "a")
    finally:
        signal.signal(signal.SIGTERM, before)


def test_the_watcher_waits_for_space_as_often_as_it_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(monkeypatch, [3] * 5 + [0])
    fulls = [True, True, False] * 5
    assert watch(monkeypatch, tmp_path, fulls) == 0
    assert (runs.n, fulls) == (6, [])


def test_a_folder_that_cannot_be_written_ends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(monkeypatch, [3])
    assert watch(monkeypatch, tmp_path, [None]) == 3
    assert runs.n == 1


def test_a_storage_error_with_space_is_not_tried_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = Runs(monkeypatch, [3] * 9)
    assert watch(monkeypatch, tmp_path, [False] * 9) == 1
    assert runs.n == detached.MAX_RESTARTS + 1


def test_a_watcher_that_waits_can_be_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Fulls(list[bool]):
        def pop(self, *_: object) -> bool:
            os.kill(os.getpid(), signal.SIGTERM)
            return True

    Runs(monkeypatch, [3])
    assert watch(monkeypatch, tmp_path, Fulls()) == 3


@pytest.mark.parametrize(
    ("number", "full"), [(errno.ENOSPC, True), (errno.EDQUOT, True), (errno.EROFS, None)]
)
def test_what_kind_of_disk_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, full: bool | None
) -> None:
    assert detached._disk_is_full(tmp_path) is False
    assert list(tmp_path.iterdir()) == []

    def broken(handle: int) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", broken)
    assert detached._disk_is_full(tmp_path) is full


def test_parents_of_new_files_are_synced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    synced: set[Path] = set()
    fsync = os.fsync

    def watched(handle: int) -> None:
        synced.add(Path(f"/proc/self/fd/{handle}").resolve())
        fsync(handle)

    monkeypatch.setattr(os, "fsync", watched)
    write_bytes(tmp_path / "a" / "b" / "c" / "file", b"x")
    assert {tmp_path, tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"} <= synced
