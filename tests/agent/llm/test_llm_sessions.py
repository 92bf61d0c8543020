"""Whole sessions that a real, very small language model drives over both protocols.

pytest -m llm -n 0 -s tests/agent/llm     prints the share of legal calls
"""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console
from typer.testing import CliRunner

from agent.autonomous.runner import run
from agent.cli.app import app
from agent.config.settings import Settings
from agent.replay.spans import spans
from agent.replay.verify import verify
from agent.session.folder import folder_of
from eval.decisions import Decisions, decisions, legal_share
from memory.events import Event, FallbackEvent, ModelCallEvent, ProbeEvent, RoundDoneEvent
from memory.journal import read_events, rounds

MakeSettings = Callable[..., Settings]

pytestmark = pytest.mark.llm

# What suits 135 million parameters and 8,192 tokens of context on one thread.
SMALL = ("llm.context_tokens=3000", "llm.answer_tokens=500", "llm.tries=2", "llm.pause_s=0.1")


@pytest.fixture(autouse=True)
def servers(openai_url: str, ollama_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both kinds of brain find their server where the environment says, and need no key."""
    monkeypatch.setenv("OPENAI_BASE_URL", openai_url)
    monkeypatch.setenv("OLLAMA_HOST", ollama_url)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)


def play(settings: Settings) -> tuple[list[Event], list[Decisions]]:
    """Run a session and return its events and how the model decided, which is printed."""
    console = Console(file=io.StringIO())
    report = run(settings, console)
    assert "<html" in report.read_text("utf-8")
    assert settings.session.name is not None
    events = read_events(folder_of(settings.home, settings.session.name) / "journal.jsonl")
    return events, decisions(settings.brain, events)


def say(brain: str, rows: list[Decisions]) -> None:
    n_legal, n_illegal = sum(r.n_legal for r in rows), sum(r.n_illegal for r in rows)
    share = legal_share(rows)
    Console(stderr=True).print(
        f"\n{brain}: {n_legal} of {n_legal + n_illegal} calls legal"
        + (f" ({share:.0%})" if share is not None else "")
        + f", {sum(r.n_fallbacks for r in rows)} fallbacks, "
        f"{sum(r.prompt_tokens for r in rows)} + {sum(r.answer_tokens for r in rows)} tokens, "
        f"{sum(r.seconds for r in rows):.0f} s of answers",
        highlight=False,
        soft_wrap=True,
    )


@pytest.mark.parametrize("brain", ["openai:smollm2", "ollama:smollm2"])
def test_smollm2_drives_a_session_of_two_rounds(make_settings: MakeSettings, brain: str) -> None:
    settings = make_settings("session.name=small", f"brain={brain}", *SMALL)
    events, rows = play(settings)
    say(brain, rows)

    probe = next(e.probe for e in events if isinstance(e, ProbeEvent))
    assert (probe["native"], probe["json_action"], probe["mode"]) == (False, True, "json")
    done = rounds(events)
    assert [current.number for current in done] == [1, 2]
    assert sum(isinstance(e, RoundDoneEvent) for e in events) == 2
    for current in done:
        assert current.plan and current.batch and current.training and current.report
        assert current.plan.n_images <= 24

    # Every step was the model's or is counted as a fallback, and every illegal one is on record.
    calls = [e for e in events if isinstance(e, ModelCallEvent)]
    stepped_in = [e for e in events if isinstance(e, FallbackEvent)]
    assert {e.author for e in calls} <= {brain, "policy:audited_failure"}
    assert sum(e.author != brain for e in calls) == len(stepped_in)
    assert sum(current.fallbacks for current in done) == len(stepped_in)
    assert sum(r.n_legal for r in rows) >= 1
    assert sum(r.answer_tokens for r in rows) > 0
    assert all(e.tokens.prompt > 0 for e in calls if e.author == brain)

    # The record of it runs again without the model.
    found = verify(folder_of(settings.home, "small") / "journal.jsonl")
    assert found.findings == ()
    assert found.ended and found.n_events == len(events)
    assert sum("llm.model_name" in s.attributes for s in spans(events)) == len(calls)


def test_session_outlives_its_server(
    make_settings: MakeSettings, dying_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The server dies after the first round; the policy takes the rest, and says so."""
    monkeypatch.setenv("OPENAI_BASE_URL", dying_server.url)
    common = ("session.name=outlives", "brain=openai:smollm2", *SMALL)
    play(make_settings(*common, "session.rounds=1"))
    dying_server.kill()
    events, rows = play(make_settings(*common, "session.rounds=2"))
    say("openai:smollm2, dead in round 2", rows)
    one, two = rows
    assert one.n_answers > 0
    assert two.n_answers == two.n_legal == two.n_illegal == 0
    assert two.n_fallbacks == 1  # the plan; the graph ends rounds of small models
    reasons = [e.reason for e in events if isinstance(e, FallbackEvent) and e.round == 2]
    assert "cannot be reached" in reasons[0]


@pytest.mark.parametrize("brain", ["openai:smollm2", "ollama:smollm2"])
def test_doctor_says_what_smollm2_can_do(brain: str, tmp_path: Path) -> None:
    result = CliRunner().invoke(app, ["doctor", "--brain", brain, "--home", str(tmp_path)])
    assert result.exit_code == 0, result.output
    assert f"brain {brain}" in result.output
    assert "json, as found" in result.output
    assert "tokens/s" in result.output
