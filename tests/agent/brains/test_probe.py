from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from agent import brains
from agent.brains import BrainContext, ChatBrain
from agent.brains.probe import Probe, probe
from agent.brains.remote import RemoteModel
from agent.config.sections import LLMSettings
from agent.planners import AttributeCombination, AttributeDistribution
from memory.errors import BrainError
from prompts.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from tests.agent.fake_llm import FakeLLM

KINDS = ("openai", "ollama")
RIGHT = {"tool": "pick_slice", "arguments": {"slice": "dark"}}
NO_TOOLS = {"status": 400, "error": "tiny does not support tools"}


def run(spec: str) -> Probe:
    row = AttributeCombination(attributes={}, class_name="any", n=1)
    llm = LLMSettings(timeout_s=5, tries=2, pause_s=0)
    context = BrainContext(AttributeDistribution(rows=(row,)), load_vocabulary("elpv"), llm)
    brain = brains.build(spec, context)
    assert isinstance(brain, ChatBrain) and isinstance(brain.model, RemoteModel)
    return probe(brain.model)


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_can_do_both(fake_llm: FakeLLM, kind: str) -> None:
    fake_llm.answers += [RIGHT | {"delay": 0.2}, RIGHT]
    found = run(f"{kind}:tiny")
    assert (found.model, found.native, found.json_action) == ("tiny", True, True)
    assert (found.mode, found.detail) == ("native", "")
    assert 0.2 < found.seconds < 3
    assert found.tokens_per_second == pytest.approx(12 / found.seconds, rel=0.05)
    assert len(fake_llm.requests) == 2
    assert Probe.model_validate(found.to_json()) == found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("failure", "n_requests", "words"),
    [
        (NO_TOOLS, 2, "does not support tools"),
        ({"status": 500, "error": "no template"}, 3, "no template"),
        ({"text": "The dark ones."}, 2, "answered 'The dark ones.'"),
        ({"text": ""}, 2, "answered ''"),
        ({"tool": "pick_slice", "arguments": {"slice": "round"}}, 2, "'round'"),
        ({"tool": "other", "arguments": {"slice": "dark"}}, 2, "other("),
    ],
)
def test_a_model_without_tool_calls(
    fake_llm: FakeLLM, kind: str, failure: dict[str, Any], n_requests: int, words: str
) -> None:
    fake_llm.answers += [failure] * (n_requests - 1) + [RIGHT]
    found = run(f"{kind}:tiny")
    assert (found.native, found.json_action, found.mode) == (False, True, "json")
    assert found.detail.startswith("native: ")
    assert words in found.detail
    assert len(fake_llm.requests) == n_requests


def test_a_server_without_schemas(fake_llm: FakeLLM) -> None:
    fake_llm.answers += [RIGHT, {"status": 422, "error": "response_format is unknown"}]
    found = run("openai:tiny")
    assert (found.native, found.json_action, found.mode) == (True, False, "native")
    assert "response_format is unknown" in found.detail


def test_speed_is_unknown_where_tokens_are_not_counted(fake_llm: FakeLLM) -> None:
    fake_llm.answers += [RIGHT | {"usage": False}] * 2
    assert run("openai:tiny").tokens_per_second is None


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_that_can_do_neither(fake_llm: FakeLLM, kind: str) -> None:
    fake_llm.answers += [{"text": "x" * 5000}, {"text": "y" * 5000}]
    with pytest.raises(BrainError, match=r"makes no tool calls.*Choose another model") as caught:
        run(f"{kind}:tiny")
    assert len(str(caught.value)) < 1200


def test_a_server_that_always_fails_is_not_a_model_without_tool_calls(fake_llm: FakeLLM) -> None:
    fake_llm.answers += [{"status": 500, "error": "boom"}] * 4
    with pytest.raises(BrainError, match="boom") as caught:
        run("openai:tiny")
    assert "tool calls" not in str(caught.value)
    assert str(caught.value).count("boom") == 1


@pytest.mark.parametrize("status", [401, 404, 429])
def test_a_server_that_cannot_be_used(fake_llm: FakeLLM, status: int) -> None:
    fake_llm.answers += [{"status": status}] * 4
    with pytest.raises(BrainError):
        run("openai:tiny")
    assert len(fake_llm.requests) == (2 if status == 429 else 1)


def test_what_is_asked(fake_llm: FakeLLM) -> None:
    fake_llm.answers += [RIGHT, RIGHT]
    run("openai:tiny")
    native, by_action = (request["body"] for request in fake_llm.requests)
    assert [t["function"]["name"] for t in native["tools"]] == ["pick_slice"]
    assert "tools" not in by_action
    assert '"const": "pick_slice"' in json.dumps(by_action["response_format"])
