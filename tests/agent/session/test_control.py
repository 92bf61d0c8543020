from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config.sections import LimitSettings
from agent.session.control import (
    Control,
    Heartbeat,
    condition,
    myself,
    read_heartbeat,
    request,
    requested,
)
from memory.errors import Stopped
from memory.files import write_bytes


class Clock:
    """Time that passes when somebody sleeps or says so; `wishes` come true at the next sleep."""

    def __init__(self, *wishes: Callable[[], object]) -> None:
        self.now = 1000.0
        self.wishes = list(wishes)

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        if self.wishes:
            self.wishes.pop(0)()


def make(folder: Path, clock: Clock, **limits: float) -> Control:
    settings = LimitSettings.model_validate({"disk_reserve_gb": 0} | limits)
    return Control(folder, settings, clock, clock.sleep)


def rewrite(folder: Path, **changes: object) -> None:
    beat = read_heartbeat(folder)
    assert beat is not None
    write_bytes(
        folder / "heartbeat.json", beat.model_copy(update=changes).model_dump_json().encode()
    )


def test_stop_waits_for_the_next_stage_and_stop_now_for_the_next_safe_point(tmp_path: Path) -> None:
    clock = Clock()
    control = make(tmp_path, clock)
    request(tmp_path, "stop")
    clock.now += 5
    control.progress(1, 2, "steps")
    with pytest.raises(Stopped) as stopped, control.stage("train", 1):
        pass
    assert stopped.value.rule == "asked"
    request(tmp_path, "stop_now")
    clock.now += 5
    with pytest.raises(Stopped):
        control.progress(2, 2, "steps")


def test_a_pause_blocks_and_does_not_count_as_work(tmp_path: Path) -> None:
    seen: list[str] = []
    clock = Clock(
        lambda: seen.append(condition(tmp_path).state), lambda: request(tmp_path, "continue")
    )
    control = make(tmp_path, clock)
    control.on_pause = seen.append
    control.on_resume = lambda why, seconds: seen.append("goes on")
    clock.now += 7
    request(tmp_path, "pause")
    with control.stage("generate", 3):
        assert clock.wishes == []
        assert control.worked() == 7
        beat = read_heartbeat(tmp_path)
        assert beat and (beat.state, beat.stage, beat.round) == ("running", "generate", 3)
    assert seen[0].startswith("on request")
    assert seen[1:] == ["paused", "goes on"]


def test_a_paused_session_can_be_stopped(tmp_path: Path) -> None:
    clock = Clock(lambda: request(tmp_path, "stop"))
    control = make(tmp_path, clock)
    request(tmp_path, "pause")
    with pytest.raises(Stopped):
        control.check(between_stages=True)


def test_a_disk_below_the_reserve_pauses_and_says_so(tmp_path: Path) -> None:
    clock = Clock(lambda: control.stop("SIGTERM"))
    control = make(tmp_path, clock, disk_reserve_gb=1e9)
    said: list[str] = []
    control.on_pause = said.append
    with pytest.raises(Stopped):
        control.check(between_stages=True)
    assert "are free on the disk" in said[0]


def test_time_of_all_runs_counts_and_ends_a_session(tmp_path: Path) -> None:
    clock = Clock()
    first = make(tmp_path, clock)
    clock.now += 1800
    first.close()
    clock.now += 10_000  # nobody worked
    second = make(tmp_path, clock, max_hours=1)
    clock.now += 1799
    second.check()
    clock.now += 2
    with pytest.raises(Stopped) as stopped:
        second.check()
    assert stopped.value.rule == "max_hours"


def test_gpu_time_counts_on_a_gpu_alone(tmp_path: Path) -> None:
    clock = Clock()
    control = make(tmp_path, clock, max_gpu_hours=1)
    clock.now += 3601
    control.check()
    control.device = "cuda"
    clock.now += 3601
    with pytest.raises(Stopped):
        control.check()


def test_conditions_are_told_apart(tmp_path: Path) -> None:
    assert condition(tmp_path).state == "ended"
    control = make(tmp_path, Clock())
    assert condition(tmp_path).state == "running"
    rewrite(tmp_path, beat=time.monotonic() - 1000)
    assert condition(tmp_path).state == "stuck"
    rewrite(tmp_path, beat=time.monotonic(), time=0.0)
    assert condition(tmp_path).state == "running", "a clock that was set is no silence"
    rewrite(tmp_path, holder=myself().model_copy(update={"started": 1.0}))
    assert condition(tmp_path).state == "dead", "another process has the number now"
    rewrite(tmp_path, holder=myself().model_copy(update={"boot": "before"}))
    assert condition(tmp_path).state == "dead", "the machine was started again"
    rewrite(tmp_path, holder=myself().model_copy(update={"host": "far"}), time=time.time() - 5)
    assert condition(tmp_path).state == "running"
    rewrite(tmp_path, time=time.time() - 5000)
    assert condition(tmp_path).state == "stuck"
    control.close()
    assert condition(tmp_path).state == "ended"


def test_a_killed_process_is_dead(tmp_path: Path) -> None:
    code = (
        "import sys, time, pathlib\n"
        "from agent.session.control import Control\n"
        "from agent.config.sections import LimitSettings\n"
        "Control(pathlib.Path(sys.argv[1]), LimitSettings())\n"
        "time.sleep(60)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)])
    deadline = time.monotonic() + 30
    while read_heartbeat(tmp_path) is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)
    assert condition(tmp_path).state == "running"
    process.kill()
    process.wait()
    assert condition(tmp_path).state == "dead"


def test_requests_of_an_earlier_run_are_forgotten(tmp_path: Path) -> None:
    request(tmp_path, "pause")
    assert requested(tmp_path) == "pause"
    make(tmp_path, Clock())
    assert requested(tmp_path) is None


def test_a_damaged_heartbeat_is_none(tmp_path: Path) -> None:
    (tmp_path / "heartbeat.json").write_text("{", encoding="utf-8")
    assert read_heartbeat(tmp_path) is None
    assert Heartbeat.model_fields["silent_s"].is_required()


def test_a_clock_that_jumps_changes_nothing(tmp_path: Path) -> None:
    """Hours back and forth between any two looks: nothing ends early, nothing looks stuck."""
    clock, days = Clock(), itertools.cycle([0.0, 1e9, -1e9, 3e8])
    limits = LimitSettings(disk_reserve_gb=0, max_hours=1, silent_s=60)
    control = Control(tmp_path, limits, clock, clock.sleep, lambda: time.time() + next(days))
    for step in range(20):
        clock.now += 60
        with control.stage("train", 1):
            control.progress(step + 1, 20, "steps")
        now = condition(tmp_path)
        assert now.state == "running"
        assert now.heartbeat and now.heartbeat.age_s() < 30
    assert control.worked() == 20 * 60
    control.close()
    later = Control(tmp_path, limits, clock, clock.sleep, lambda: 0.0)
    assert later.worked() == 20 * 60
    clock.now += 41 * 60
    with pytest.raises(Stopped) as stopped:
        later.check()
    assert stopped.value.rule == "max_hours"
