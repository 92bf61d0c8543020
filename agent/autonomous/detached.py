"""Background sessions that outlive the terminal, and the watcher that supervises them.

    python -m agent.autonomous.detached HOME NAME

The watcher runs `shaping resume NAME` and restarts it if it was killed or its heartbeat stopped, up
to three times in a row without progress; finished work is kept. A session that ended because its
disk is full is restarted once there is space.
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
# Seconds between two attempts to write to a full disk.
DISK_EVERY_S = 5.0
_PROBE_BYTES = 1 << 20
# Exit codes after which a restart would not help, see agent.cli.app.
_FINAL = (0, 2, 4, 5, 6, 130)
_STORAGE = 3


class Started(NamedTuple):
    """A background session: its name, process id of its watcher, and its log."""

    name: str
    pid: int
    log: Path


def start(settings: Settings) -> Started:
    """Start or resume a session in the background; return at its first heartbeat.

    Raises:
        SessionError: It ends before its first heartbeat.
        ShapingError: As of `open_session`.
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
    """Run a session until it needs no restart; return its exit code, 1 after too many restarts."""
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
                _say("The disk is full; the session is restarted when there is space.")
            while is_full:
                terminated.wait(DISK_EVERY_S)
                if _is_to_end(folder, terminated):
                    return code
                is_full = _disk_is_full(folder)
            if is_full is None:
                return code
            if first:
                _say("There is space again; the session is restarted.")
                continue
        before, progress = progress, _n_bytes(folder / "journal.jsonl")
        n_in_a_row = n_in_a_row + 1 if progress <= before else 1
        if n_in_a_row > MAX_RESTARTS:
            _say(f"Given up after {MAX_RESTARTS} starts without progress.")
            return 1
        _say(f"The session ended with exit code {code}; it is restarted.")


def _wait(child: subprocess.Popen[bytes], folder: Path) -> int:
    """Wait for the end of a run and return its exit code; kill it if its heartbeat stops."""
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
    """Return whether the disk of a folder is full; None: it cannot be written for other reasons."""
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
