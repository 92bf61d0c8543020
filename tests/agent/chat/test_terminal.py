"""The terminal: the whole story through a pseudo-terminal, and through a pipe."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.chat.terminal import _can_show
from agent.config.settings import Settings, overrides
from agent.session.folder import folder_of
from eval.report.terminal import inline_image
from memory.events import ApprovalEvent, EndedEvent, Event, PlanEvent
from memory.journal import read_events

MakeSettings = Callable[..., Settings]

SMALL = ("session.images_per_round=16", "session.shard_size=4")
PATIENCE_S = 900
# What a terminal is told beside the text.
CODES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\r")


def command(settings: Settings, *options: str) -> list[str]:
    words = [sys.executable, "-m", "agent.cli.app", "chat", "solar", *options]
    for assignment in overrides(settings):
        words += ["--set", assignment]
    return words


@contextmanager
def terminal(settings: Settings, *options: str) -> Iterator[Any]:
    pexpect = pytest.importorskip("pexpect", reason="needs pexpect")
    words = command(settings, *options)
    child = pexpect.spawn(
        words[0],
        words[1:],
        dimensions=(40, 140),
        encoding="utf-8",
        codec_errors="replace",
        timeout=PATIENCE_S,
        env={**os.environ, "TERM": "xterm-256color"},
    )
    child.delayafterterminate = 5
    child.ptyproc.delayafterterminate = 5
    try:
        yield child
    finally:
        child.close(force=True)


def say(child: Any, line: str) -> None:
    child.send(line + "\r")


@pytest.mark.slow
def test_story_through_a_pseudo_terminal(make_settings: MakeSettings) -> None:
    """A plan is edited, the process killed while it waits; the question is there on return."""
    settings = make_settings("session.name=tty", "session.rounds=2", "dstm.steps=2", *SMALL)
    with terminal(settings) as child:
        child.expect("Make this")
        say(child, "/edit 1 count 7")
        child.expect("Make this")
        child.kill(signal.SIGKILL)
        child.wait()
    folder = folder_of(settings.home, "tty")
    assert [e for e in read_events(folder / "journal.jsonl") if isinstance(e, PlanEvent)] == []

    with terminal(settings) as child:
        child.expect("Make this")
        say(child, "more dark poly cells")
        child.expect("Understood: more of brightness=dark wafer=poly")
        say(child, "/approve")
        child.expect("plan accepted")
        say(child, "/status")
        child.expect("rounds done")
        child.expect("Round 1 is done")
        child.expect("Plan of round 2")
        child.expect("Preference w1")
        say(child, "where does it fail?")
        child.expect("Failures after round 1")
        say(child, "/show")
        child.expect(r"shown/photographs")
        say(child, "/pause")
        child.expect("clock stands still")
        say(child, "/nonsense")
        child.expect("Unknown command")
        say(child, "/quit")
        child.expect("To go on: shaping chat tty")
        child.expect(r"\Z", timeout=60)
    (first,) = [e for e in read_events(folder / "journal.jsonl") if isinstance(e, PlanEvent)]
    assert first.plan.prompts[0].count == 7
    events = read_events(folder / "journal.jsonl")
    last = events[-1]
    assert isinstance(last, EndedEvent) and last.rule == "asked"


def test_lines_of_a_pipe(make_settings: MakeSettings) -> None:
    settings = make_settings("session.name=pipe", "session.rounds=1", "dstm.steps=2", *SMALL)
    lines = "/status\n/wait\nonly poly\n/reject\n/wait\n/approve\n/wait\n/status\n/report\n"
    lines += "/quit\nonly mono\n"
    done = subprocess.run(
        command(settings), input=lines, capture_output=True, text=True, timeout=PATIENCE_S
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    said = CODES.sub("", done.stdout)
    assert said.count("Plan of round 1") == 2
    assert "Understood: only wafer=poly (w1)" in said
    assert "only mono" not in said and "Unknown command" not in said
    assert "Finished: all 1 rounds are done" in said
    assert "report.html" in said
    (plan,) = [e.plan for e in _events(settings, "pipe") if isinstance(e, PlanEvent)]
    assert {p.attributes["wafer"] for p in plan.prompts} == {"poly"}


@pytest.mark.slow
def test_plans_are_approved_by_themselves_after_a_while(make_settings: MakeSettings) -> None:
    settings = make_settings("session.name=auto", "session.rounds=1", "dstm.steps=2", *SMALL)
    done = subprocess.run(
        command(settings, "--auto", "0.1"),
        input="/wait\n",
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert "Finished" in done.stdout, done.stderr
    (approval,) = [e for e in _events(settings, "auto") if isinstance(e, ApprovalEvent)]
    assert (approval.verdict, approval.by) == ("approve", "nobody")


@pytest.mark.parametrize(
    ("variables", "protocol"),
    [
        ({"TERM_PROGRAM": "iTerm.app"}, "iterm"),
        ({"TERM": "xterm-kitty"}, "kitty"),
        ({"TERM": "xterm-256color"}, "blocks"),
        ({"TERM": "dumb"}, None),
    ],
)
def test_how_a_terminal_shows_pictures(variables: dict[str, str], protocol: str | None) -> None:
    assert _can_show(variables) == protocol


def test_long_pictures_reach_kitty_in_parts() -> None:
    said = inline_image("kitty", "A" * 9000)
    assert said.count("\033_G") == 3
    assert "a=T,f=100,m=1;" in said and "\033_Gm=0;" in said
    assert max(map(len, said.split("\033_G"))) < 4200


def _events(settings: Settings, name: str) -> list[Event]:
    path: Path = folder_of(settings.home, name) / "journal.jsonl"
    return read_events(path)
