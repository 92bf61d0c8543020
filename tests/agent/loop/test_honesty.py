"""Who decided, when a planner stepped in and what was tried again: printed and counted."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from agent.autonomous.status import deciders
from agent.brains import BrainContext, Turn, build
from agent.cli.app import app
from agent.config.sections import LLMSettings
from agent.config.settings import load_settings
from agent.loop.graph import Decider
from agent.loop.observer import ConsoleObserver
from agent.planners import Observation
from agent.replay.trace import collect, decider_rows
from agent.replay.verify import verify
from memory.events import ModelCallEvent
from memory.journal import Journal, read_events
from memory.records import Plan, PromptSpec
from tests.agent.fake_llm import FakeLLM
from tests.agent.invented import PALETTE, VOCABULARY, record
from tests.agent.loop.test_decider import STEP_IN, TOOLS, View, scripted, state

ACCEPT: dict[str, Any] = {"tool": "propose_plan", "arguments": {"draft": "accept", "why": "?"}}
END: dict[str, Any] = {"tool": "finish", "arguments": {"summary": "done"}}
GONE: dict[str, Any] = {"error": "the server answers 429"}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A session whose model plans round 1 and is gone from then on."""
    home = tmp_path_factory.mktemp("home")
    record(home, "half", script=[ACCEPT, END, GONE])
    return home


def test_a_planner_that_steps_in_is_said_at_once(tmp_path: Path) -> None:
    said: list[str] = []
    settings = load_settings("solar", ["brain=openai:small"], {})
    view = View("test", settings, Journal(tmp_path / "journal.jsonl"))
    Decider(view, {}, scripted([GONE]), scripted(STEP_IN), said.append).ask(state(), TOOLS)
    (text,) = said
    for word in ("Round 1", "plan", "openai:small", "policy:audited_failure", "429"):
        assert word in text


def test_requests_that_are_made_again_are_said_and_counted(fake_llm: FakeLLM) -> None:
    fake_llm.answers = [{"status": 429, "error": "too many"}] * 2 + [ACCEPT]
    llm = LLMSettings(pause_s=0, mode="native")
    brain = build("openai:small", BrainContext(PALETTE, VOCABULARY, llm))
    said: list[str] = []
    seen = Observation(round=1, n_images=8, images_per_prompt=8, seed=0)
    turn = Turn(1, 0, state()["messages"], TOOLS, lambda: seen, said.append)
    answer = brain.decide(turn)
    assert answer.response_metadata["retries"] == 2
    assert len(said) == 2 and "too many" in said[0]


def test_the_status_names_who_decided(home: Path) -> None:
    events = read_events(home / "sessions" / "half" / "journal.jsonl")
    text = deciders("scripted:script.json", events)
    assert "scripted:script.json 2 of 4 steps" in text
    assert "policy:audited_failure 2" in text and "429" in text
    assert deciders("policy:uniform", events) == ""
    calls = [e for e in events if isinstance(e, ModelCallEvent)]
    again = [calls[0].model_copy(update={"retries": 3}), *calls[1:]]
    assert "requests made again 3" in deciders("scripted:script.json", again)


def test_the_trace_has_images_and_deciders_by_step(home: Path) -> None:
    tables = collect(home, ["half"])
    assert [(r["draft"], r["n_images"], r["n_allowed"]) for r in tables["rounds"]] == [
        ("accept", 24, 24),
        (None, 24, 24),
    ]
    first, second = decider_rows(tables)
    assert first[2] == "24 of 24"
    stages = "graph: generate_batch, train_dstm, evaluate_real, inspect_failures"
    assert first[4] == f"scripted:script.json: propose_plan, finish; {stages}"
    assert second[4] == f"policy:audited_failure: propose_plan, finish; {stages}"
    shown = CliRunner().invoke(app, ["trace", "half", "--home", str(home)])
    assert shown.exit_code == 0, shown.output
    assert shown.output.count("24 of 24") == 2
    assert verify(home / "sessions" / "half" / "journal.jsonl").findings == ()


def test_an_accepted_plan_is_printed_with_its_author() -> None:
    prompt = PromptSpec(id="p", text="a cell", class_name="functional", attributes={}, count=8)
    told = io.StringIO()
    plan = Plan(round=1, author="openai:small", prompts=(prompt,))
    ConsoleObserver(Console(file=told, width=100), 1).planned(plan)
    assert "openai:small" in told.getvalue()
