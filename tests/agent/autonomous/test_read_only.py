"""A folder that cannot be written: an error that says so, before anything is done."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.autonomous.status import read_status
from agent.cli.app import app
from agent.config.settings import Settings, load_settings
from agent.session.control import request
from agent.session.folder import folder_of, next_name, open_session
from memory.errors import StorageError

NOBODY = 65534


@pytest.fixture
def home() -> Iterator[Path]:
    """A home folder that everybody can reach, unlike tmp_path."""
    with tempfile.TemporaryDirectory() as place:
        os.chmod(place, 0o755)
        yield Path(place)


@pytest.fixture
def nobody() -> Iterator[None]:
    """Permission bits count: root, for whom they do not, is somebody else meanwhile."""
    before = os.geteuid()
    if before == 0:
        os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(before)


def settings_of(home: Path) -> Settings:
    return load_settings("solar", ["target.name=toy", f"home={home}", "session.name=a"], {})


@pytest.fixture
def read_only(home: Path) -> Iterator[Path]:
    """A home with a session in it, all of which can only be read."""
    with open_session(settings_of(home), "a"):
        pass
    places = [home, *home.rglob("*")]
    for path in places:
        path.chmod(0o555 if path.is_dir() else 0o444)
    yield home
    for path in places:
        path.chmod(0o755)


def test_a_home_that_can_only_be_read(home: Path, nobody: None) -> None:
    if os.access(home, os.W_OK, effective_ids=True):
        home.chmod(0o555)
    with (
        pytest.raises(StorageError, match=r"cannot be written \(Permission denied\).*--home"),
        open_session(settings_of(home), "a"),
    ):
        pass


def test_a_session_that_can_only_be_read(read_only: Path, nobody: None) -> None:
    with (
        pytest.raises(StorageError, match=r"sessions/a.*cannot be written \(Permission denied\)"),
        open_session(settings_of(read_only), "a"),
    ):
        pass
    # It can be looked at all the same.
    assert read_status(read_only, "a").state == "open"
    with pytest.raises(StorageError, match=r"control\.json cannot be written"):
        request(folder_of(read_only, "a"), "stop")


def test_a_home_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with (
        pytest.raises(StorageError, match="a file is where a folder has to be"),
        open_session(settings_of(tmp_path / "file" / "home"), "a"),
    ):
        pass
    assert next_name(tmp_path / "file", "solar") == "solar-1"


def test_the_command_says_so_and_ends_with_3(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    command = ["run", "solar", "--home", str(tmp_path / "file" / "home"), "--session", "b"]
    said = CliRunner().invoke(app, [*command, "--set", "target.name=toy"])
    assert said.exit_code == 3, said.output
    assert "a file is where a folder has to be" in " ".join(said.output.split())
