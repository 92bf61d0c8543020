"""The graph under a scripted brain: legal calls, illegal calls, scripts that run out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agent.autonomous import run
from agent.session import folder_of
from agent.settings import Settings
from memory.errors import SessionError, SettingsError
from memory.journal import read_events, rounds

MakeSettings = Callable[..., Settings]

PLAN: dict[str, Any] = {
    "tool": "propose_plan",
    "arguments": {
        "prompts": [
            {"text": "a dark poly cell, with a clear defect", "count": 8},
            {"text": "an intact mono cell", "count": 8},
        ],
        "hypothesis": {"slice": "wafer=poly", "expected_change": 0.05},
        "why": "Both classes.",
    },
}
REST: list[dict[str, Any]] = [
    {"tool": "generate_batch"},
    {"tool": "train_dstm"},
    {"tool": "evaluate_real"},
    {"tool": "finish", "arguments": {"summary": "done"}},
]


def play(make_settings: MakeSettings, tmp_path: Path, script: list[dict[str, Any]]) -> Path:
    path = tmp_path / "script.json"
    path.write_text(json.dumps(script), encoding="utf-8")
    settings = make_settings("session.name=scripted", "session.rounds=1", f"brain=scripted:{path}")
    run(settings, Console(quiet=True))
    return folder_of(settings.home, "scripted")


def test_script_runs_a_round(make_settings: MakeSettings, tmp_path: Path) -> None:
    folder = play(make_settings, tmp_path, [PLAN, *REST])
    (only,) = rounds(read_events(folder / "journal.jsonl"))
    assert only.plan is not None
    assert [(p.class_name, p.count) for p in only.plan.prompts] == [
        ("defective", 8),
        ("functional", 8),
    ]
    assert only.verdict is not None
    assert only.verdict.held is None  # nothing was measured before the first round


def test_illegal_and_malformed_calls_are_answered_and_nothing_is_lost(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    wrong: list[dict[str, Any]] = [
        {"tool": "generate_batch"},
        {"tool": "open_sealed_test"},
        {"text": "I would like to think."},
        {"tool": "propose_plan", "arguments": {"prompts": "many"}},
        {"tool": "propose_plan", "arguments": {"prompts": [{"text": "a dog", "count": 2}]}},
    ]
    folder = play(make_settings, tmp_path, [*wrong, PLAN, *REST])
    calls = [e["tool"] for e in read_events(folder / "journal.jsonl") if e["kind"] == "tool_call"]
    assert calls == ["propose_plan", "generate_batch", "train_dstm", "evaluate_real", "finish"]


def test_endless_illegal_calls_stop_the_session(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    with pytest.raises(SessionError, match="6 illegal calls in a row"):
        play(make_settings, tmp_path, [{"tool": "finish", "arguments": {"summary": ""}}] * 10)


def test_script_that_runs_out_says_so(make_settings: MakeSettings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="has 1 answers"):
        play(make_settings, tmp_path, [PLAN])
