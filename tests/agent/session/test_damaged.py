"""A session that cannot be read is listed as damaged and stops none of the others."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.autonomous.dry_run import earlier_speed
from agent.cli.app import app
from agent.session.folder import latest, list_sessions, open_session, stored_settings
from agent.web.page import draw
from memory.errors import SessionError, SettingsError
from memory.events import HeadEvent
from tests.agent.quick import toy_settings

Damage = Callable[[Path], object]
DAMAGES: dict[str, Damage] = {
    "no yaml": lambda folder: (folder / "session.yaml").write_text("a: [", encoding="utf-8"),
    "no text": lambda folder: (folder / "session.yaml").write_bytes(b"\xff\xfe\x00"),
    "empty": lambda folder: (folder / "session.yaml").write_bytes(b""),
    "nested": lambda folder: (folder / "session.yaml").write_text("[" * 5000, encoding="utf-8"),
    "another": lambda folder: (folder / "session.yaml").write_text("mine: 1\n", encoding="utf-8"),
    "a setting": lambda folder: (folder / "session.yaml").write_text(
        "fingerprint: x\nsettings: {unknown: 1}\n", encoding="utf-8"
    ),
    "journal": lambda folder: (folder / "journal.jsonl").write_bytes(b"garbage\n" * 3),
    "event": lambda folder: (folder / "journal.jsonl").write_bytes(
        b'{"kind": "plan", "plan": 7}\n'
    ),
    "no journal": lambda folder: _make_folder(folder / "journal.jsonl"),
}


def _make_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


@pytest.fixture
def home(tmp_path: Path) -> Path:
    for name in ("good", "bad"):
        with open_session(toy_settings(tmp_path, f"session.name={name}"), name) as session:
            session.journal.append(HeadEvent(session=name, target="toy"))
    return tmp_path


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=list(DAMAGES))
def test_a_damaged_session_is_listed_and_the_others_work(home: Path, damage: Damage) -> None:
    damage(home / "sessions" / "bad")
    good, bad = list_sessions(home)
    assert (good.name, good.problem) == ("good", "")
    assert (bad.name, bad.state) == ("bad", "damaged")
    assert "bad" in bad.problem
    assert latest(home) == "good"
    assert earlier_speed(stored_settings(home, "good")) is None
    page = draw("sessions", [good, bad])
    assert "damaged" in page
    assert "good" in page
    result = CliRunner().invoke(app, ["sessions", "--home", str(home)])
    assert result.exit_code == 0, result.output
    assert "1 damaged" in result.output
    assert "good" in result.output
    with pytest.raises(SettingsError, match=r"good, bad|bad, good"):
        stored_settings(home, "unknown")


def test_without_a_readable_session_there_is_no_latest(home: Path) -> None:
    for name in ("good", "bad"):
        DAMAGES["empty"](home / "sessions" / name)
    with pytest.raises(SettingsError, match="readable"):
        latest(home)
    with pytest.raises(SessionError, match="cannot be read"):
        stored_settings(home, "good")
