"""What leaves the machine, and what is written of keys: nothing."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from rich.console import Console

from agent.autonomous.runner import run
from agent.config.settings import Settings
from memory.events import FallbackEvent
from memory.journal import read_events

# Ends the process at the first connection that is no local socket file.
GUARDED = """
import os, sys

def guard(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        if not isinstance(arguments[-1], (str, bytes)) or event != "socket.connect":
            sys.stderr.write(f"{event} {arguments}")
            os._exit(99)

sys.addaudithook(guard)
from rich.console import Console
from agent.autonomous.runner import run
from agent.config.settings import Settings
run(Settings.model_validate_json(sys.argv[1]), Console())
"""


def test_a_policy_session_asks_no_server(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings("session.name=alone", "session.rounds=1")
    environment = {**os.environ, "LANGSMITH_API_KEY": "lsv2_not_one"}
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, settings.model_dump_json()],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_keys_are_written_nowhere(make_settings: Callable[..., Settings], fake_llm: Any) -> None:
    """Neither after answers nor after errors that quote the key, as servers like to do."""
    settings = make_settings(
        "session.name=keyed", "session.rounds=1", "brain=openai:small", "llm.mode=native"
    )
    plan = {"prompts": [{"text": "a broken poly cell", "count": 9}], "why": "Broken ones."}
    fake_llm.answers += [
        {"tool": "propose_plan", "arguments": plan},
        {"status": 401, "error": f"Incorrect API key provided: {fake_llm.key}."},
    ]
    console = Console(record=True, file=io.StringIO())
    report = run(settings, console)
    events = read_events(report.parent / "journal.jsonl")
    assert sum(isinstance(e, FallbackEvent) for e in events) >= 2
    assert "[key]" in next(e.reason for e in events if isinstance(e, FallbackEvent))
    assert fake_llm.requests[0]["headers"]["authorization"] == f"Bearer {fake_llm.key}"
    secret = fake_llm.key.encode()
    written = [p for p in settings.home.rglob("*") if p.is_file()]
    assert len(written) > 10
    assert not [p for p in written if secret in p.read_bytes()]
    assert fake_llm.key not in console.export_text()


def test_the_guard_sees_connections() -> None:
    code = GUARDED.split("from rich")[0] + "import socket; socket.create_connection(('::1', 9))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 99
