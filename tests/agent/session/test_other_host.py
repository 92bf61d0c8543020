"""A session that another machine works on is held, although file locks do not reach there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agent.config.settings import load_settings
from agent.session.control import HEARTBEAT, Heartbeat, Holder, take_over_from_other_host
from agent.session.folder import folder_of, open_session
from memory.errors import SessionInUse


def beat(folder: Path, age_s: float, state: str = "running") -> None:
    """Leave the heartbeat of a process on another machine."""
    heartbeat = Heartbeat.model_validate(
        {
            "holder": Holder(pid=7, host="elsewhere", boot="x", started=1.0),
            "state": state,
            "beat": 0.0,
            "time": time.time() - age_s,
            "silent_s": 900.0,
            "worked_s": 1.0,
        }
    )
    (folder / HEARTBEAT).write_text(heartbeat.model_dump_json(), "utf-8")


def test_a_fresh_heartbeat_of_another_host_is_a_holder(tmp_path: Path) -> None:
    settings = load_settings("solar", [f"home={tmp_path}"])
    with open_session(settings, "s"):
        pass
    folder = folder_of(tmp_path, "s")
    for state in ("running", "paused"):
        beat(folder, 5, state)
        before = {path.name for path in folder.iterdir()}
        with (
            pytest.raises(SessionInUse, match=r"process 7 on elsewhere.*--take-over"),
            open_session(settings, "s"),
        ):
            pass
        assert {path.name for path in folder.iterdir()} == before
    take_over_from_other_host(folder)
    with open_session(settings, "s"):
        pass


@pytest.mark.parametrize(("age_s", "state"), [(5, "ended"), (2000, "running")])
def test_an_ended_or_silent_one_is_not(tmp_path: Path, age_s: float, state: str) -> None:
    settings = load_settings("solar", [f"home={tmp_path}"])
    with open_session(settings, "s"):
        pass
    beat(folder_of(tmp_path, "s"), age_s, state)
    with open_session(settings, "s"):
        pass
