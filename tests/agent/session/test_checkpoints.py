"""Checkpoints in a throw-away Postgres database, where a server's programs are installed."""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.config.settings import Settings, load_settings
from agent.session.checkpoints import Checkpoints, checkpoints
from agent.session.control import Control
from agent.session.folder import Session, folder_of
from memory.errors import SettingsError, StorageError
from memory.events import HeadEvent
from memory.journal import Journal, read_events
from tests.agent.crashes import NAME, UNTOLD_FIELDS, UNTOLD_KINDS, small

PASSWORD = "a-secret-of-the-test"


def programs() -> Path | None:
    """The folder of initdb and pg_ctl, which Debian does not put on the path."""
    found = [shutil.which("initdb"), *map(str, Path("/usr/lib/postgresql").glob("*/bin/initdb"))]
    return next((Path(path).resolve().parent for path in found if path), None)


@pytest.fixture(scope="module")
def database() -> Iterator[str]:
    """The URL, without its password, of a database of a server that listens on this machine."""
    pytest.importorskip("psycopg", reason="needs the extra `postgres`")
    pytest.importorskip("langgraph.checkpoint.postgres", reason="needs the extra `postgres`")
    bin_ = programs()
    if bin_ is None:
        pytest.skip("needs the programs of a Postgres server")
    as_user: dict[str, str] = {}
    if os.geteuid() == 0:
        try:
            pwd.getpwnam("postgres")
        except KeyError:
            pytest.skip("Postgres does not run as root, and there is no user postgres")
        as_user = {"user": "postgres"}
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pg-") as scratch:
        folder = Path(scratch)
        (folder / "password").write_text(PASSWORD, encoding="ascii")
        if as_user:
            for path in (folder, folder / "password"):
                shutil.chown(path, "postgres")

        def call(program: str, *arguments: str) -> None:
            command = [str(bin_ / program), "-D", str(folder / "data"), *arguments]
            subprocess.run(command, check=True, capture_output=True, cwd="/", **as_user)  # type: ignore[call-overload]

        words = ["-A", "scram-sha-256", "-U", "shaping", f"--pwfile={folder / 'password'}"]
        call("initdb", *words, "--no-sync")
        options = f"-p {port} -k {folder} -c listen_addresses=127.0.0.1 -c fsync=off"
        call("pg_ctl", "-w", "-t", "120", "-l", str(folder / "log"), "-o", options, "start")
        yield f"postgresql://shaping@127.0.0.1:{port}/postgres"
        call("pg_ctl", "-m", "immediate", "stop")


@pytest.fixture
def password(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSWORD", PASSWORD)


def session_of(settings: Settings, name: str) -> Session:
    folder = settings.home / name
    folder.mkdir(parents=True)
    journal = Journal(folder / "journal.jsonl")
    journal.append(HeadEvent(key="session", session=name, target="elpv"))
    return Session(name, folder, settings, journal, Control(folder, settings.limits))


def put(kept: Checkpoints, number: int) -> None:
    from langgraph.checkpoint.base import empty_checkpoint

    config = kept.thread(number)
    config["configurable"]["checkpoint_ns"] = ""
    kept.saver.put(config, empty_checkpoint(), {}, {})


def said(settings: Settings) -> list[object]:
    """What a session's journal says, times aside."""
    return [
        {key: value for key, value in event.to_json().items() if key not in UNTOLD_FIELDS}
        for event in read_events(folder_of(settings.home, NAME) / "journal.jsonl")
        if event.kind not in UNTOLD_KINDS
    ]


def run_apart(settings: Settings, url: str) -> subprocess.Popen[bytes]:
    code = (
        "import sys; from pathlib import Path; from rich.console import Console;"
        "from agent import autonomous; from tests.agent.crashes import small;"
        "autonomous.run(small(Path(sys.argv[1]), f'session.checkpoints={sys.argv[2]}'),"
        " Console(quiet=True))"
    )
    command = [sys.executable, "-c", code, str(settings.home), url]
    return subprocess.Popen(command, cwd=Path(__file__).parents[3])


def test_sessions_do_not_meet_in_a_database(tmp_path: Path, database: str, password: None) -> None:
    settings = [
        load_settings("solar", [f"home={tmp_path / h}", f"session.checkpoints={database}"], {})
        for h in "ab"
    ]
    one, two = (session_of(own, "same-name") for own in settings)
    with checkpoints(one) as kept, checkpoints(two) as other:
        put(kept, 1)
        assert (kept.has(1), kept.has(2), other.has(1)) == (True, False, False)
        put(other, 1)
        kept.delete(1)
        assert (kept.has(1), other.has(1)) == (False, True)
    with checkpoints(two) as other:
        assert other.has(1)
        other.delete(1)


def test_without_the_password_the_error_says_where_it_belongs(
    tmp_path: Path, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD", raising=False)
    settings = load_settings("solar", [f"home={tmp_path}", f"session.checkpoints={database}"], {})
    with (
        pytest.raises(StorageError, match=r"no password supplied.*password: PGPASSWORD"),
        checkpoints(session_of(settings, "s")),
    ):
        pass


@pytest.mark.slow
def test_a_killed_session_goes_on_by_the_database(
    tmp_path: Path, database: str, password: None
) -> None:
    import psycopg

    here = small(tmp_path / "here")
    there = small(tmp_path / "there", f"session.checkpoints={database}")
    assert run_apart(here, "sqlite").wait() == 0
    journal = folder_of(there.home, NAME) / "journal.jsonl"
    first = run_apart(there, database)
    # In round 2, when its plan is made and its images are not.
    while not journal.exists() or journal.read_bytes().count(b'"kind": "plan"') < 2:
        assert first.poll() is None
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)
    first.wait()
    with psycopg.connect(database) as connection:
        (threads,) = connection.execute(
            "SELECT count(DISTINCT thread_id) FROM checkpoints"
        ).fetchone() or (0,)
    assert threads == 1
    assert run_apart(there, database).wait() == 0
    assert said(there) == said(here)
    assert not (folder_of(there.home, NAME) / "graph.sqlite").exists()
    with psycopg.connect(database) as connection:
        (left,) = connection.execute("SELECT count(*) FROM checkpoints").fetchone() or (-1,)
    assert left == 0
    written = [path for path in there.home.rglob("*") if path.is_file()]
    assert not [path for path in written if PASSWORD.encode() in path.read_bytes()]
    assert b"postgresql" not in journal.read_bytes()


@pytest.mark.parametrize(
    "url",
    [
        "postgresql://me:s3cret@host/db",
        "postgresql://host/db?user=me&password=s3cret",
        "postgresql://host/db?pass%77ord=s3cret",
    ],
)
def test_a_password_in_a_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SettingsError, match="PGPASSWORD") as error:
        load_settings("solar", [f"session.checkpoints={url}"], {})
    assert "s3cret" not in str(error.value)


def test_a_place_of_checkpoints_is_a_file_or_postgres() -> None:
    with pytest.raises(SettingsError, match=r"session\.checkpoints cannot be 'mysql://host'"):
        load_settings("solar", ["session.checkpoints=mysql://host"], {})


def test_without_psycopg_the_error_says_what_adds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.session.checkpoints.importlib.util.find_spec", lambda name: None)
    where = "session.checkpoints=postgresql://host/db"
    settings = load_settings("solar", [f"home={tmp_path}", where], {})
    with (
        pytest.raises(SettingsError, match=r"pip install '\.\[postgres\]'"),
        checkpoints(session_of(settings, "s")),
    ):
        pass
