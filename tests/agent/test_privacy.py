"""What leaves the machine, and what is written of keys: nothing."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

from agent.settings import Settings

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
from agent.autonomous import run
from agent.settings import Settings
run(Settings.model_validate_json(sys.argv[1]), Console())
"""


def test_a_policy_session_asks_no_server(make_settings: Callable[..., Settings]) -> None:
    settings = make_settings("session.name=alone", "session.rounds=1")
    environment = {**os.environ, "LANGSMITH_TRACING": "true", "LANGSMITH_API_KEY": "lsv2_not_one"}
    done = subprocess.run(
        [sys.executable, "-c", GUARDED, settings.model_dump_json()],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_guard_sees_connections() -> None:
    code = GUARDED.split("from rich")[0] + "import socket; socket.create_connection(('::1', 9))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=False)
    assert done.returncode == 99
