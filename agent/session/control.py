"""Monitoring and control of a running session from outside, by files in its folder.

heartbeat.json  process and progress of the session; written by the running process
heartbeat.touched  empty; touched in its place while the disk is full
control.json    requested action; written by `request`, executed by `Control.check`

The running side calls `check` at safe points: between shards, steps and stages, where the files on
disk are complete and the session can be resumed.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, NamedTuple

import psutil

from agent.config.sections import LimitSettings
from memory.errors import Stopped
from memory.files import read_record, storing, write_json
from memory.records import Record

Action = Literal["pause", "stop", "stop_now", "continue"]
"""pause: block at the next safe point; stop: end before the next stage; stop_now: end at the next
safe point; continue: cancel the request."""

HEARTBEAT, CONTROL = "heartbeat.json", "control.json"
# Empty: its modification time replaces the heartbeat while the disk is full.
TOUCHED = "heartbeat.touched"
# Interval between reads of the files; other checks read the clock only.
CHECK_EVERY_S = 0.5
PAUSE_S = 0.5
_GB = 1e9


class Holder(Record):
    """A process on a machine; `boot` and `started` distinguish it from later ones with its pid."""

    pid: int
    host: str
    boot: str = ""
    started: float = 0.0

    def alive(self) -> bool | None:
        """Return whether the process still runs; None when it is on another machine."""
        if self.host != socket.gethostname():
            return None
        return self.boot == _boot_id() and self.started == _started(self.pid)


class Heartbeat(Record):
    """The last heartbeat of a session.

    Attributes:
        beat: Monotonic clock in seconds, independent of changes of the wall clock.
        time: Seconds since 1970.
        silent_s: Age in seconds from which the session counts as stuck.
        worked_s: Time worked by all runs of the session in seconds, without pauses.
        gpu_s: The part of `worked_s` on a GPU.
    """

    holder: Holder
    state: Literal["running", "paused", "ended"]
    why: str = ""
    beat: float
    time: float
    silent_s: float
    worked_s: float = 0.0
    gpu_s: float = 0.0
    round: int = 0
    stage: str = ""
    done: int = 0
    total: int = 0
    unit: str = ""

    def age_s(self) -> float:
        """Return the seconds since this heartbeat."""
        if self.holder.host == socket.gethostname() and self.holder.boot == _boot_id():
            return time.monotonic() - self.beat
        return max(0.0, time.time() - self.time)


class Condition(NamedTuple):
    """The state of a session and its last heartbeat."""

    state: Literal["running", "paused", "stuck", "dead", "ended"]
    heartbeat: Heartbeat | None


def myself() -> Holder:
    """Return this process."""
    pid = os.getpid()
    return Holder(pid=pid, host=socket.gethostname(), boot=_boot_id(), started=_started(pid))


def request(folder: Path, action: Action) -> None:
    """Request an action of the process that runs the session in `folder`; the last one counts."""
    if action == "continue":
        with storing(folder / CONTROL):
            (folder / CONTROL).unlink(missing_ok=True)
    else:
        write_json(folder / CONTROL, {"action": action})


def requested(folder: Path) -> Action | None:
    """Return the requested action, or None."""
    try:
        action: Action = json.loads((folder / CONTROL).read_bytes())["action"]
        return action
    except (FileNotFoundError, ValueError, KeyError):
        return None


def read_heartbeat(folder: Path) -> Heartbeat | None:
    """Return the last heartbeat of a session, or None."""
    return read_record(folder / HEARTBEAT, Heartbeat)


def condition(folder: Path) -> Condition:
    """Return the condition of the session in `folder`."""
    last = read_heartbeat(folder)
    if last is None or last.state == "ended":
        return Condition("ended", last)
    if last.holder.alive() is False:
        return Condition("dead", last)
    if last.age_s() > last.silent_s:
        if _touched_s(folder) <= last.silent_s:
            why = "its disk is full: no heartbeat can be written. Free some space."
            return Condition("paused", last.model_copy(update={"why": why}))
        return Condition("stuck", last)
    return Condition(last.state, last)


def other_host(folder: Path) -> Heartbeat | None:
    """Return the heartbeat of a process on another machine that holds a session, or None.

    File locks do not reach from one machine to another on every file system.
    """
    state, last = condition(folder)
    is_held = state in ("running", "paused") and last is not None and last.holder.alive() is None
    return last if is_held else None


def take_over_from_other_host(folder: Path) -> None:
    """Remove the heartbeat of another machine, which is known to be gone."""
    if other_host(folder):
        with storing(folder / HEARTBEAT):
            (folder / HEARTBEAT).unlink(missing_ok=True)


def note(folder: Path, why: str) -> None:
    """Add the reason for which a process is going to be killed to its last heartbeat."""
    if last := read_heartbeat(folder):
        _write(folder, last.model_copy(update={"why": why}))


class Control:
    """The running side of a session: writes heartbeats, executes requests, enforces time limits.

    Attributes:
        on_pause: Called with the reason when a session pauses.
        on_resume: Called with the reason and the duration in seconds after a pause.
        before: The last heartbeat of the previous run.
        killed: The same if it did not end by itself.

    Args:
        folder: Folder of the session.
        limits: Time limits and disk reserve.
        clock: Monotonic seconds, independent of changes of the wall clock.
        sleep: Waits for seconds.
        wall: Seconds since 1970, read by other machines only.
    """

    def __init__(
        self,
        folder: Path,
        limits: LimitSettings,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.on_pause: Callable[[str], None] = lambda why: None
        self.on_resume: Callable[[str, float], None] = lambda why, seconds: None
        self.device = "cpu"
        self._folder, self._limits = folder, limits
        self._clock, self._sleep, self._wall = clock, sleep, wall
        self._holder = myself()
        self.before = last = read_heartbeat(folder)
        self.killed = last if last and last.state != "ended" else None
        self.worked_s = last.worked_s if last else 0.0
        self.gpu_s = last.gpu_s if last else 0.0
        self._where: dict[str, Any] = {}
        self._signal: str | None = None
        self._counted_at = self._checked_at = clock()
        (folder / CONTROL).unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            (folder / TOUCHED).touch()
        self._beat("running")

    @contextmanager
    def stage(self, name: str, number: int) -> Iterator[None]:
        """Bracket a stage of round `number`; `stop` ends a session at the start of a stage."""
        outside, self._where = self._where, {"stage": name, "round": number}
        try:
            self.check(between_stages=True)
            yield
        finally:
            self._where = outside

    @property
    def round(self) -> int:
        """The number of the current round, 0 outside of one."""
        return int(self._where.get("round", 0))

    def worked(self) -> float:
        """Return the seconds worked so far by all runs of the session, without pauses."""
        self._count()
        return self.worked_s

    def progress(self, done: int, total: int, unit: str) -> None:
        """Record the progress of the stage and check for requests."""
        self._where |= {"done": done, "total": total, "unit": unit}
        self.check()

    def keep(self, limits: LimitSettings) -> None:
        """Replace the limits."""
        self._limits = limits

    def stop(self, signal: str) -> None:
        """End the session at the next check; may be called by a signal handler."""
        self._signal = signal

    def check(self, between_stages: bool = False) -> None:
        """Write a heartbeat and block while paused.

        Raises:
            Stopped: The session has to end.
        """
        now = self._clock()
        if not between_stages and not self._signal and now - self._checked_at < CHECK_EVERY_S:
            return
        self._checked_at = now
        self._count()
        self._beat("running")
        self._end_if_asked(between_stages)
        if first := self._reason_to_pause():
            self.on_pause(first)
            why = first
            while why:
                self._beat("paused", why)
                self._sleep(PAUSE_S)
                # No stage is running, so any stop request ends the pause.
                self._end_if_asked(between_stages=True)
                why = self._reason_to_pause()
            self._counted_at = self._clock()
            self._beat("running")
            self.on_resume(first, self._counted_at - now)

    def rest(self, why: str) -> None:
        """Write a heartbeat while waiting for a person, which does not count as work.

        Raises:
            Stopped: The session is requested to end.
        """
        self._counted_at = self._clock()
        self._beat("paused", why)
        self._end_if_asked(between_stages=True)

    def close(self, why: str = "") -> None:
        """Write the final heartbeat; why: the error that ended the run, "" for none."""
        self._count()
        self._beat("ended", why)
        with contextlib.suppress(OSError):
            (self._folder / CONTROL).unlink(missing_ok=True)

    def _end_if_asked(self, between_stages: bool) -> None:
        if self._signal:
            raise Stopped("signal", f"Ended by the signal {self._signal}.")
        action = requested(self._folder)
        if action == "stop_now" or (action == "stop" and between_stages):
            raise Stopped("asked", "Ended on request.")
        for rule, limit, spent_s in (
            ("max_hours", self._limits.max_hours, self.worked_s),
            ("max_gpu_hours", self._limits.max_gpu_hours, self.gpu_s),
        ):
            if limit is not None and spent_s >= limit * 3600:
                raise Stopped(rule, f"{spent_s / 3600:.3g} of {limit:g} hours are spent.")

    def _reason_to_pause(self) -> str:
        if requested(self._folder) == "pause":
            return "on request; continue with: shaping continue " + self._folder.name
        free, reserve = shutil.disk_usage(self._folder).free / _GB, self._limits.disk_reserve_gb
        if free < reserve:
            return (
                f"{free:.2f} GB are free on the disk of {self._folder} and {reserve:g} are to stay "
                "free (limits.disk_reserve_gb). Free some space, and it goes on by itself."
            )
        return ""

    def _count(self) -> None:
        now = self._clock()
        self.worked_s += now - self._counted_at
        if self.device.startswith("cuda"):
            self.gpu_s += now - self._counted_at
        self._counted_at = now

    def _beat(self, state: Literal["running", "paused", "ended"], why: str = "") -> None:
        beat = Heartbeat(
            holder=self._holder,
            state=state,
            why=why,
            beat=time.monotonic(),
            time=self._wall(),
            silent_s=self._limits.silent_s,
            worked_s=round(self.worked_s, 3),
            gpu_s=round(self.gpu_s, 3),
            **self._where,
        )
        _write(self._folder, beat)


def _write(folder: Path, beat: Heartbeat) -> None:
    path = folder / HEARTBEAT
    temporary = path.with_suffix(".tmp")
    # Not synced, and errors are ignored: on a full disk the work itself fails, or waits for space.
    try:
        temporary.write_text(beat.model_dump_json(), encoding="utf-8")
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            os.utime(folder / TOUCHED)


def _touched_s(folder: Path) -> float:
    """Return the seconds since TOUCHED was touched in place of a heartbeat; infinity for never."""
    try:
        touched = (folder / TOUCHED).stat().st_mtime
        if touched <= (folder / HEARTBEAT).stat().st_mtime:
            return float("inf")
    except OSError:
        return float("inf")
    # A clock that was set back must not keep a dead heartbeat alive.
    age_s = time.time() - touched
    return age_s if age_s >= 0 else float("inf")


def _boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return str(round(psutil.boot_time()))


def _started(pid: int) -> float:
    """Return the start time of a process, 0 for none; on Linux in ticks since boot."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text("utf-8")
        state, *fields = stat.rpartition(")")[2].split()
        return 0.0 if state == "Z" else float(fields[18])
    except OSError:
        with contextlib.suppress(psutil.Error):
            return float(psutil.Process(pid).create_time())
        return 0.0
