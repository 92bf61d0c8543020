"""The graph under a scripted brain: legal calls, illegal calls, scripts that run out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agent.autonomous.runner import run, run_rounds
from agent.config.settings import Settings
from agent.loop.approval import ApprovalDecision, ApprovalRequest
from agent.loop.components import Components
from agent.loop.observer import Observer
from agent.loop.state import GRAPH
from agent.session.folder import folder_of, open_session
from eval.decisions import decisions
from memory.errors import SettingsError
from memory.events import (
    AnswerEvent,
    FallbackEvent,
    IllegalCallEvent,
    ModelCallEvent,
    RoundDoneEvent,
    ToolCallEvent,
)
from memory.journal import read_events, rounds

MakeSettings = Callable[..., Settings]


class Talkative(Observer):
    """A person who has some answers."""

    interactive = True

    def __init__(self, answers: list[str]) -> None:
        self._answers = iter(answers)

    def ask(self, question: ApprovalRequest) -> ApprovalDecision:
        return ApprovalDecision(verdict="words", text=next(self._answers))


PLAN: dict[str, Any] = {
    "tool": "propose_plan",
    "arguments": {
        "prompts": [
            {"text": "a dark poly cell, with a clear defect", "count": 8},
            {"text": "an intact mono cell", "count": 8},
            {"text": "a dark mono cell, with a clear defect", "count": 8},
        ],
        "hypothesis": {"slice": "wafer=poly", "expected_change": 0.05},
        "why": "Both classes.",
    },
}
STAGES = ["generate_batch", "train_dstm", "evaluate_real", "inspect_failures"]
REST: list[dict[str, Any]] = [
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
        ("defective", 8),
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
    calls = [e for e in read_events(folder / "journal.jsonl") if isinstance(e, ToolCallEvent)]
    assert [call.tool for call in calls] == ["propose_plan", *STAGES, "finish"]
    assert {call.author for call in calls if call.tool in STAGES} == {GRAPH}


def test_after_illegal_calls_the_policy_takes_the_step(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    wrong = [{"tool": "finish", "arguments": {"summary": ""}}] * 3
    folder = play(make_settings, tmp_path, [*wrong, *REST])
    events = read_events(folder / "journal.jsonl")
    (only,) = rounds(events)
    assert only.fallbacks == 1
    assert only.plan is not None
    assert (only.plan.author, only.plan.n_images) == ("policy:audited_failure", 24)
    (fallback,) = [e for e in events if isinstance(e, FallbackEvent)]
    assert "3 illegal calls in a row" in fallback.reason
    brain = f"scripted:{tmp_path / 'script.json'}"
    (row,) = decisions(brain, events)
    assert (row.n_answers, row.n_legal, row.n_illegal, row.n_fallbacks) == (4, 1, 3, 1)


def test_what_is_due_takes_no_answer_of_the_brain(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    folder = play(make_settings, tmp_path, [PLAN, *REST])
    events = read_events(folder / "journal.jsonl")
    asked = [e for e in events if isinstance(e, ModelCallEvent)]
    assert [e.phase for e in asked] == ["plan", "review"]
    assert asked[1].tools == ("finish",)
    # The model reads the figures that it is to sum up.
    assert [m.name for m in asked[1].messages if m.role == "tool"] == ["propose_plan", *STAGES]
    (only,) = rounds(events)
    assert only.failures


def test_the_same_question_is_answered_once(make_settings: MakeSettings, tmp_path: Path) -> None:
    look = {"tool": "recall_memory", "arguments": {"query": "dark"}}
    folder = play(make_settings, tmp_path, [look, look, look, PLAN, *REST])
    events = read_events(folder / "journal.jsonl")
    calls = [e for e in events if isinstance(e, ToolCallEvent)]
    first, again = [call.result for call in calls if call.tool == "recall_memory"]
    assert again.endswith(first) and "already" in again
    asked = [e for e in events if isinstance(e, ModelCallEvent)]
    offered = ["recall_memory" in e.tools for e in asked]
    assert offered == [True, True, False, False, False]
    assert [e.tool for e in events if isinstance(e, IllegalCallEvent)] == ["recall_memory"]


def test_a_meagre_plan_is_refused_with_numbers(make_settings: MakeSettings, tmp_path: Path) -> None:
    texts = ("a dark poly cell, with a clear defect", "a dark mono cell, with a clear defect")
    few = [{"text": text, "count": 8} for text in texts]
    meagre: Any = {"tool": "propose_plan", "arguments": {"prompts": few}}
    folder = play(make_settings, tmp_path, [meagre, PLAN, *REST])
    (illegal,) = [
        e for e in read_events(folder / "journal.jsonl") if isinstance(e, IllegalCallEvent)
    ]
    for figures in ("16 of 24", "spend 22", "2 different prompts", "'functional' has 0 of 24"):
        assert figures in illegal.problem


def test_lookups_are_bounded(make_settings: MakeSettings, tmp_path: Path) -> None:
    look = [{"tool": "recall_memory", "arguments": {"query": f"dark {i}"}} for i in range(7)]
    folder = play(make_settings, tmp_path, [*look, PLAN, *REST])
    events = read_events(folder / "journal.jsonl")
    tools = [e.tools for e in events if isinstance(e, ModelCallEvent)]
    assert tools[5] == ("recall_memory", "inspect_failures", "propose_plan")
    assert tools[6] == ("propose_plan",)
    (illegal,) = [e for e in events if isinstance(e, IllegalCallEvent)]
    assert "Call one of: propose_plan" in illegal.problem


def test_person_is_asked_and_the_answer_survives(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    question = {"tool": "ask_user", "arguments": {"question": "Poly or mono?"}}
    path = tmp_path / "script.json"
    path.write_text(json.dumps([question, PLAN, *REST]), encoding="utf-8")
    settings = make_settings("session.name=asked", "session.rounds=1", f"brain=scripted:{path}")
    with open_session(settings, "asked") as session:
        run_rounds(Components.of_session(session, Talkative(["Poly, please."])))
    events = read_events(folder_of(settings.home, "asked") / "journal.jsonl")
    (answer,) = [e for e in events if isinstance(e, AnswerEvent)]
    assert (answer.question, answer.answer) == ("Poly or mono?", "Poly, please.")
    (told,) = [e.result for e in events if isinstance(e, ToolCallEvent) and e.tool == "ask_user"]
    assert "Poly, please." in told
    assert [e.round for e in events if isinstance(e, RoundDoneEvent)] == [1]


def test_nobody_is_asked_where_nobody_is(make_settings: MakeSettings, tmp_path: Path) -> None:
    question = {"tool": "ask_user", "arguments": {"question": "Poly or mono?"}}
    folder = play(make_settings, tmp_path, [question, PLAN, *REST])
    (illegal,) = [
        e for e in read_events(folder / "journal.jsonl") if isinstance(e, IllegalCallEvent)
    ]
    assert illegal.tool == "ask_user"


def test_script_that_runs_out_says_so(make_settings: MakeSettings, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="has 1 answers"):
        play(make_settings, tmp_path, [PLAN])
