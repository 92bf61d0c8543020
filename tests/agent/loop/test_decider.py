"""The decider: what is asked, what is refused for its price, what a crash does not ask twice."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage

from agent.brains import ChatBrain
from agent.brains.scripted import ScriptedModel
from agent.brains.spending import estimate_tokens
from agent.config.settings import Settings, load_settings
from agent.loop.graph import Decider, fit
from agent.loop.state import RoundState, new_round
from memory.errors import BrainError, SettingsError
from memory.events import FallbackEvent, ModelCallEvent
from memory.journal import Journal

TOOLS: list[dict[str, Any]] = [
    {"type": "function", "function": {"name": name, "parameters": {}}}
    for name in ("recall_memory", "propose_plan")
]
LOOK: dict[str, Any] = {"tool": "recall_memory", "arguments": {"query": "?"}, "tokens": [1000, 100]}
STEP_IN: list[dict[str, Any]] = [{"tool": "propose_plan", "text": "instead"}] * 9
AUTHOR = "openai:small"


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.jsonl")


class View(NamedTuple):
    """A session, as far as a decider knows it."""

    name: str
    settings: Settings
    journal: Journal


def scripted(script: list[dict[str, Any]]) -> ChatBrain:
    return ChatBrain(ScriptedModel(script=script), cool_down_s=60)


def decider(journal: Journal, script: list[dict[str, Any]], **limits: Any) -> Decider:
    llm = [f"llm.{name}={json.dumps(value)}" for name, value in limits.items()]
    settings = load_settings("solar", [f"brain={AUTHOR}", *llm], {})
    view = View("test", settings, journal)
    return Decider(view, {}, scripted(script), scripted(STEP_IN))


def state(*messages: AnyMessage, n_illegal: int = 0) -> RoundState:
    start: list[AnyMessage] = [SystemMessage("You shape."), HumanMessage("Round 1.")]
    return {**new_round(1), "messages": [*start, *messages], "n_illegal": n_illegal}


def test_question_and_answer_are_journaled(journal: Journal) -> None:
    asked = decider(journal, [LOOK])
    answer = asked.ask(state(), TOOLS)
    assert answer.tool_calls[0]["name"] == "recall_memory"
    assert answer.response_metadata["author"] == AUTHOR
    (event,) = journal.events(ModelCallEvent)
    assert event.tools == ("recall_memory", "propose_plan")
    assert [message.to_json() for message in event.messages] == [
        {"role": "system", "content": "You shape."},
        {"role": "human", "content": "Round 1."},
    ]
    assert event.answer.tool_calls[0].args == {"query": "?"}
    assert (event.tokens.prompt, event.tokens.answer) == (1000, 100)


def test_only_news_are_journaled(journal: Journal) -> None:
    asked = decider(journal, [LOOK, LOOK])
    first = asked.ask(state(), TOOLS)
    asked.ask(state(first, ToolMessage("nothing", tool_call_id="s1", name="x")), TOOLS)
    told = journal.events(ModelCallEvent)[1].messages
    assert [(m.role, m.content) for m in told] == [("tool", "nothing")]


def test_an_answer_is_paid_once(journal: Journal) -> None:
    first = decider(journal, [LOOK]).ask(state(), TOOLS)
    again = decider(Journal(journal.path), []).ask(state(), TOOLS)
    assert again.tool_calls == first.tool_calls


def test_token_budget_is_kept_before_the_call_and_over_restarts(journal: Journal) -> None:
    asked = decider(journal, [LOOK, LOOK], max_tokens=1500, answer_tokens=300)
    first = asked.ask(state(), TOOLS)
    assert asked.spending.tokens_left() == 400
    later = decider(Journal(journal.path), [LOOK], max_tokens=1500, answer_tokens=300)
    assert later.spending.tokens_left() == 400
    long = HumanMessage("x" * 800)  # some 200 tokens, 300 for the answer
    answer = later.ask(state(first, long), TOOLS)
    assert answer.response_metadata["author"] == "policy:audited_failure"
    (fallback,) = Journal(journal.path).events(FallbackEvent)
    assert "400 are left" in fallback.reason
    assert later.spending.tokens_left() == 400


def test_money_budget_needs_a_price_and_is_kept(journal: Journal) -> None:
    with pytest.raises(SettingsError, match=r"price of the model 'small'.*llm\.prices"):
        decider(journal, [], max_usd=1)
    prices = {"small": {"prompt": 1.0, "answer": 10.0}}
    asked = decider(journal, [LOOK], max_usd=0.0221, prices=prices, answer_tokens=2000)
    first = asked.ask(state(), TOOLS)
    assert asked.spending.usd_left() == pytest.approx(0.0201)
    asked.ask(state(first, HumanMessage("x" * 800)), TOOLS)
    assert "USD and 0.0201 are left" in journal.events(FallbackEvent)[0].reason


def test_a_dead_server_is_not_asked_again_at_once(journal: Journal) -> None:
    asked = decider(journal, [{"error": "cannot be reached"}, LOOK])
    first = asked.ask(state(), TOOLS)
    second = asked.ask(state(first), TOOLS)
    assert [m.content for m in (first, second)] == ["instead", "instead"]
    reasons = [e.reason for e in journal.events(FallbackEvent)]
    assert reasons == [
        "cannot be reached",
        "the model failed less than 60 s ago: cannot be reached",
    ]


def test_illegal_calls_hand_the_step_over(journal: Journal) -> None:
    asked = decider(journal, [LOOK], max_illegal=2)
    answer = asked.ask(state(HumanMessage("Call one of: x."), n_illegal=2), TOOLS)
    assert answer.content == "instead"
    assert "Call one of: x." in journal.events(FallbackEvent)[0].reason


def test_without_a_fallback_a_failure_is_raised(journal: Journal) -> None:
    settings = load_settings("solar", ["brain=policy:uniform"], {})
    brain = scripted([{"error": "cannot be reached"}])
    alone = Decider(View("test", settings, journal), {}, brain, None)
    with pytest.raises(BrainError, match="cannot be reached"):
        alone.ask(state(), TOOLS)


def test_old_results_are_shortened_first() -> None:
    results: list[AnyMessage] = [
        ToolMessage("y" * 4000, tool_call_id=str(i), name="x") for i in range(3)
    ]
    messages = [SystemMessage("s" * 400), *results, AIMessage("z" * 400)]
    fitted = fit(messages, 3100)
    assert [len(str(m.content)) for m in fitted] == [400, 216, 4000, 4000, 400]
    assert estimate_tokens(fitted) <= 3100
    assert [len(str(m.content)) for m in fit(messages, 10)] == [400, 216, 216, 216, 400]
