"""No session and no command depends on the terminal that it writes to."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from agent.autonomous import runner
from agent.cli.streams import Lenient
from agent.session.folder import list_sessions
from tests.agent.quick import toy_settings

SCRIPT = """
import os, sys
from agent.cli.streams import lost_output, make_lenient
make_lenient()
print("é" * 9, *range(5000), flush=True)
print("more", file=sys.stderr)
number = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY)
try:
    os.write(1, b"of a library")
except OSError:
    pass
os.write(number, b"journal")
error = lost_output()
sys.exit(0 if error is None else error.errno)
"""


def test_a_session_goes_on_when_its_reader_leaves(tmp_path: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    settings = toy_settings(tmp_path, "session.rounds=1", "session.name=s")
    with os.fdopen(write, "w") as file:
        stream = Lenient(file)
        runner.run(settings, Console(file=stream))  # type: ignore[arg-type]
    assert isinstance(stream.error, BrokenPipeError)
    (info,) = list_sessions(tmp_path)
    assert (info.rounds_done, info.state) == (1, "finished")
    assert not info.problem


@pytest.mark.parametrize(
    ("redirect", "code"),
    [("", 0), ("| head -1", 0), ("> /dev/full", 28), (">&-", 0), (">&- 2>&- <&-", 0)],
)
def test_what_a_terminal_does_not_take_is_lost(tmp_path: Path, redirect: str, code: int) -> None:
    words = f'{sys.executable} -c "$SCRIPT" journal {redirect}; echo ${{PIPESTATUS[0]}} > code'
    if "head" not in redirect:
        words = words.replace("PIPESTATUS[0]", "?")
    environment = {**os.environ, "SCRIPT": SCRIPT, "PYTHONPATH": os.getcwd(), "LC_ALL": "C"}
    environment["PYTHONIOENCODING"] = "ascii"
    done = subprocess.run(
        ["bash", "-c", words], cwd=tmp_path, env=environment, capture_output=True, check=True
    )
    assert (tmp_path / "code").read_text().strip() == str(code)
    # A journal that is opened later is no standard output.
    assert (tmp_path / "journal").read_bytes() == b"journal"
    assert b"Traceback" not in done.stderr
    assert b"Exception ignored" not in done.stderr
