"""Sessions in the background that outlive the terminal, and the process that supervises them.

    python -m agent.autonomous.detached HOME NAME

The watcher runs `shaping resume NAME` and restarts it when it was killed or its heartbeat stopped,
up to three times in a row without progress; finished work is never lost by that. A session that
ended since its disk is full is started again when there is space.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

from agent.autonomous.status import LOG
from agent.config.settings import Settings
from agent.session import control
from agent.session.folder import folder_of, next_name, open_session
from memory.errors import SessionError

MAX_RESTARTS = 3
LOOK_EVERY_S = 1.0
_START_S = 60.0
# While a disk is full, between two attempts to write to it.
DISK_EVERY_S = 5.0
_PROBE_BYTES = 1 << 20
# Exit codes after which a restart would not help, see agent.cli.app.
_FINAL = (0, 2, 4, 5, 6, 130)
_STORAGE = 3


class Started(NamedTuple):
    """A session in the background: its name, its watcher's number, and its log."""

    name: str
    pid: int
    log: Path


def start(settings: Settings) -> Started:
    """Start or resume a session in the background; return at its first heartbeat.

    Raises:
        SessionError: It ends before that.
        ShapingError: Whatever `open_session` raises.
    """
    name = settings.session.name or next_name(settings.home, settings.stem)
    home = settings.home.resolve()
    settings = settings.model_copy(update={"home": home})
    with open_session(settings, name) as session:
        log = session.folder / LOG
    with log.open("ab") as output:
        n_before = output.tell()
        watcher = subprocess.Popen(
            [sys.executable, "-m", "agent.autonomous.detached", str(home), name],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    deadline = time.monotonic() + _START_S
    while control.condition(session.folder).state == "ended" and time.monotonic() < deadline:
        if watcher.poll() not in (None, 0):
            output_text = log.read_bytes()[n_before:].decode(errors="replace").strip()
            raise SessionError(f"The session {name!r} ended at once. Its log {log}: {output_text}")
        if watcher.poll() == 0:
            break
        time.sleep(0.1)
    return Started(name, watcher.pid, log)


def watch(home: Path, name: str) -> int:
    """Run a session until it ends by itself; return its exit code, 1 after too many restarts."""
    folder = folder_of(home, name)
    command = [sys.executable, "-m", "agent.cli.app", "resume", name, "--home", str(home)]
    n_in_a_row, progress = 0, -1
    terminated = threading.Event()
    child: subprocess.Popen[bytes] | None = None

    def terminate(*_: object) -> None:
        terminated.set()
        if child is not None:
            child.terminate()

    signal.signal(signal.SIGTERM, terminate)
    while True:
        child = subprocess.Popen(command)
        code = _wait(child, folder)
        if code in _FINAL or code == -signal.SIGTERM or _is_to_end(folder, terminated):
            return code
        if code == _STORAGE:
            is_full = first = _disk_is_full(folder)
            if is_full:
                _say("The disk is full; the session goes on when there is space.")
            while is_full:
                terminated.wait(DISK_EVERY_S)
                if _is_to_end(folder, terminated):
                    return code
                is_full = _disk_is_full(folder)
            if is_full is None:
                return code
            if first:
                _say("There is space again; the session is started.")
                continue
        before, progress = progress, _n_bytes(folder / "journal.jsonl")
        n_in_a_row = n_in_a_row + 1 if progress <= before else 1
        if n_in_a_row > MAX_RESTARTS:
            _say(f"It was started {MAX_RESTARTS} times without progress; given up.")
            return 1
        _say(f"The session ended with exit code {code}; it is started again.")


def _wait(child: subprocess.Popen[bytes], folder: Path) -> int:
    """Wait for the end of a run; kill it when its heartbeat stops."""
    while True:
        try:
            return child.wait(LOOK_EVERY_S)
        except subprocess.TimeoutExpired:
            now = control.condition(folder)
            stuck = now.heartbeat if now.state == "stuck" else None
            if stuck and stuck.holder.pid == child.pid:
                control.note(folder, f"it gave no sign of life for {stuck.age_s():.0f} s")
                child.kill()


def _is_to_end(folder: Path, terminated: threading.Event) -> bool:
    return terminated.is_set() or control.requested(folder) in ("stop", "stop_now")


def _disk_is_full(folder: Path) -> bool | None:
    """Return whether a disk is full; None where a folder cannot be written for another reason."""
    path = folder / ".watcher"
    try:
        with path.open("wb") as handle:
            handle.write(bytes(_PROBE_BYTES))
            handle.flush()
            os.fsync(handle.fileno())
    except OSError as error:
        return True if error.errno in (errno.ENOSPC, errno.EDQUOT) else None
    finally:
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
    return False


def _n_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    raise SystemExit(watch(Path(sys.argv[1]), sys.argv[2]))
