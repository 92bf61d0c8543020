"""A brain ends its session where another round would gain less than it costs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from rich.console import Console

from agent.autonomous.runner import run
from agent.config.settings import Settings
from agent.replay.verify import verify
from agent.session.folder import folder_of
from memory.events import EndedEvent, Event, IllegalCallEvent
from memory.journal import read_events, rounds
from tests.agent.quick import toy_settings

PLAN = {"tool": "propose_plan", "arguments": {"draft": "accept"}}
END = {"tool": "finish", "arguments": {"end_session": "two rounds gained 0.00"}}
GO_ON = {"tool": "finish", "arguments": {"summary": "done"}}


def settings_of(tmp_path: Path, script: list[dict[str, Any]], *changes: str) -> Settings:
    path = tmp_path / "script.json"
    path.write_text(json.dumps(script), encoding="utf-8")
    more = ["session.name=ended", "session.rounds=4", f"brain=scripted:{path}"]
    return toy_settings(tmp_path, *more, *changes)


def played(settings: Settings) -> list[Event]:
    run(settings, Console(quiet=True))
    return read_events(folder_of(settings.home, "ended") / "journal.jsonl")


def test_a_brain_ends_its_session_with_a_reason_and_the_user_goes_on(tmp_path: Path) -> None:
    # What one round gains is not known, so the first wish to end is refused.
    script = [PLAN, END, GO_ON, PLAN, END]
    settings = settings_of(tmp_path, script)
    events = played(settings)
    assert len(rounds(events)) == 2 and events[-1].kind == "ended"
    (refused,) = [e for e in events if isinstance(e, IllegalCallEvent)]
    (end,) = [e for e in events if isinstance(e, EndedEvent)]
    assert (refused.tool, refused.round, end.rule, end.round) == ("finish", 1, "finish", 2)
    assert "two rounds gained 0.00" in end.message
    assert not verify(folder_of(tmp_path, "ended") / "journal.jsonl").findings
    # The script begins anew: in round 3 the first wish to end is taken.
    again = [e for e in played(settings) if isinstance(e, EndedEvent)]
    assert [(end.rule, end.round) for end in again] == [("finish", 2), ("finish", 3)]


def test_a_fixed_number_of_rounds_is_kept(tmp_path: Path) -> None:
    script = [PLAN, GO_ON, PLAN, END, GO_ON]
    events = played(settings_of(tmp_path, script, "limits.finish=false", "session.rounds=2"))
    assert [e.round for e in events if isinstance(e, IllegalCallEvent)] == [2]
    assert [e.rule for e in events if isinstance(e, EndedEvent)] == ["rounds"]
