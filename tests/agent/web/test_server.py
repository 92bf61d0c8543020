"""`shaping web` as a process: where its token comes from, and the stream of updates."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from typer.testing import CliRunner

from agent.cli.app import app
from tests.agent.invented import record

pytest.importorskip("fastapi", reason="needs fastapi: pip install '.[web]'")

TOKEN = "a-token-of-24-characters"
PARTS = {"head", "controls", "plan", "chat", "charts", "timeline", "failures", "prompts"}
TIMEOUT_S = 100


@contextmanager
def served(home: Path, *options: str, **variables: str) -> Iterator[tuple[str, int]]:
    """Serve a home folder; yield the printed address and the process id."""
    words = [sys.executable, "-m", "agent.cli.app", "web", "--home", str(home), "--port", "0"]
    process = subprocess.Popen(
        [*words, *options], stdout=subprocess.PIPE, text=True, env=os.environ | variables
    )
    try:
        assert process.stdout is not None
        yield process.stdout.readline().split()[-1], process.pid
    finally:
        process.send_signal(signal.SIGINT)
        try:
            assert process.wait(TIMEOUT_S) == 0
        finally:
            process.kill()
            process.communicate()


def test_the_token_of_a_variable_is_asked_for_on_loopback(tmp_path: Path) -> None:
    with served(tmp_path, SHAPING_WEB_TOKEN=TOKEN) as (address, pid):
        assert TOKEN not in address
        assert TOKEN not in Path(f"/proc/{pid}/cmdline").read_text()
        assert httpx.get(address).status_code == 401
        authorized = {"Authorization": f"Bearer {TOKEN}"}
        assert "Sessions" in httpx.get(address, headers=authorized).text


def test_a_random_token_is_printed_and_becomes_a_cookie(tmp_path: Path) -> None:
    with served(tmp_path) as (address, _), httpx.Client() as client:
        place, _, token = address.partition("?token=")
        assert len(token) >= 32
        assert client.get(place).status_code == 401
        assert client.get(address).headers["refresh"] == "0;url=/"
        assert client.get(place).status_code == 200


def test_the_stream_brings_all_parts_and_then_those_that_change(tmp_path: Path) -> None:
    journal = record(tmp_path, "policy", "session.rounds=2") / "journal.jsonl"
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    authorized = {"Authorization": f"Bearer {TOKEN}"}
    with (
        served(tmp_path, "--token-file", str(tmp_path / "token")) as (address, _),
        httpx.Client(base_url=address, headers=authorized, timeout=TIMEOUT_S) as client,
        client.stream("GET", "/events?session=policy") as stream,
    ):
        events = parts_of(stream)
        first = next(events)
        assert set(first) == PARTS
        assert "policy" in first["head"] and "<svg" in first["charts"]
        page = client.get("/?session=policy").text
        assert first["timeline"] in page and first["controls"] in page

        lines = journal.read_text().splitlines(keepends=True)
        journal.write_text("".join(lines[: len(lines) // 2]))
        assert "head" in next(events)


def parts_of(stream: httpx.Response) -> Iterator[Any]:
    for line in stream.iter_lines():
        if line.startswith("data: "):
            yield json.loads(line[6:])


@pytest.mark.parametrize("token", ["short", "with blanks between the words", ""])
def test_a_token_that_is_none_is_refused(token: str, tmp_path: Path) -> None:
    (tmp_path / "token").write_text(token)
    words = ["web", "--home", str(tmp_path), "--port", "0"]
    for options, variables in (
        (["--token-file", str(tmp_path / "token")], {}),
        ([], {"SHAPING_WEB_TOKEN": token}),
        (["--token-file", str(tmp_path / "none")], {}),
        # What `ps` would show.
        (["--token", token], {}),
    ):
        assert CliRunner().invoke(app, [*words, *options], env=variables).exit_code == 2
