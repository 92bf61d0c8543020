"""A session that another machine works on is held, although file locks do not reach there."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from agent.config.sections import SessionSettings
from agent.config.settings import load_settings
from agent.session.control import HEARTBEAT, Heartbeat, Holder, take_over_from_other_host
from agent.session.folder import folder_of, open_session, stored_settings, unfinished
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


@pytest.mark.parametrize("old", ["old", "{}/old"])
def test_a_home_that_was_moved_goes_on_with_its_own_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, old: str
) -> None:
    monkeypatch.chdir(tmp_path)
    old, new = old.format(tmp_path), tmp_path / "new"
    given = [f"home={old}", f"generator.weights={old}/pretrain/cats/pipeline", "session.name=s"]
    with open_session(load_settings("solar", given), "s"):
        pass
    Path(old).rename(new)
    settings = stored_settings(new, "s")
    assert settings.generator.weights == f"{new}/pretrain/cats/pipeline" and settings.home == new
    again = load_settings("solar", [text.replace(old, str(new)) for text in given])
    assert unfinished(again.model_copy(update={"session": SessionSettings()})) == "s"
    with open_session(again, "s"):
        pass
