from __future__ import annotations

import json
import random
import re
import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)

from agent import brains
from agent.brains import BrainContext, ChatBrain
from agent.brains.actions import (
    MAX_ITEMS,
    MAX_LENGTH,
    action_schema,
    as_plain_messages,
    parse_action,
    storable,
)
from agent.brains.remote import MAX_CALLS, MAX_CONTENT, RemoteModel
from agent.config.sections import LLMSettings
from agent.planners import AttributeCombination, AttributeDistribution
from memory.errors import BrainError, SettingsError
from prompts.vocabulary import load_vocabulary

if TYPE_CHECKING:
    from tests.agent.fake_llm import FakeLLM

KINDS = ("openai", "ollama")
MODES = ("native", "json")
PICK: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "pick",
        "description": "Pick a slice.",
        "parameters": {
            "type": "object",
            "properties": {
                "slice": {"enum": ["dark", "bright"], "title": "Slice"},
                "n": {"type": "integer", "minimum": 1, "maximum": 9},
                "why": {"type": "string"},
            },
            "required": ["slice"],
        },
    },
}
STOP: dict[str, Any] = {
    "type": "function",
    "function": {"name": "stop", "description": "Stop.", "parameters": {"type": "object"}},
}
QUESTION = [SystemMessage("You pick."), HumanMessage("Pick one.")]


def build(spec: str, **settings: Any) -> RemoteModel:
    quick = {"timeout_s": 5, "tries": 3, "pause_s": 0.01, **settings}
    row = AttributeCombination(attributes={}, class_name="any", n=1)
    context = BrainContext(
        AttributeDistribution(rows=(row,)),
        load_vocabulary("elpv"),
        LLMSettings.model_validate(quick),
    )
    brain = brains.build(spec, context)
    assert isinstance(brain, ChatBrain) and isinstance(brain.model, RemoteModel)
    return brain.model


def ask(brain: RemoteModel, *tools: dict[str, Any], messages: Any = QUESTION) -> AIMessage:
    return brain.bind_tools(tools or (PICK, STOP)).invoke(messages)


def said(answer: AIMessage) -> list[tuple[str, dict[str, Any]]]:
    return [(call["name"], call["args"]) for call in answer.tool_calls]


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("gpt4", ["openai:gpt4", "ollama:gpt4"]),
        ("llama3.1:8b", ["openai:llama3.1:8b", "ollama:llama3.1:8b"]),
        ("openai/gpt-4o", ["openai:gpt-4o"]),
        ("Open-AI:gpt-4o", ["openai:gpt-4o"]),
        ("ollma:tiny", ["ollama:tiny"]),
        ("audited_failure", ["policy:audited_failure"]),
    ],
)
def test_a_brain_that_there_is_not_names_those_that_are_near(spec: str, meant: list[str]) -> None:
    with pytest.raises(SettingsError) as raised:
        build(spec)
    assert all(name in str(raised.value) for name in meant)


# -- tool calls, both ways ----------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_a_tool_call(fake_llm: FakeLLM, kind: str, mode: str) -> None:
    fake_llm.answers += [{"tool": "pick", "arguments": {"slice": "dark", "n": 2}}]
    answer = ask(build(f"{kind}:tiny", mode=mode))
    assert said(answer) == [("pick", {"slice": "dark", "n": 2})]
    assert answer.content == ""
    assert answer.usage_metadata is not None
    assert answer.usage_metadata["input_tokens"] == 30
    assert answer.usage_metadata["output_tokens"] == 12
    assert answer.response_metadata == {"model_name": "tiny", "finish_reason": "stop"}
    body = fake_llm.requests[0]["body"]
    assert bool(body.get("tools")) == (mode == "native")


@pytest.mark.parametrize("kind", KINDS)
def test_json_actions_are_asked_for_by_a_schema(fake_llm: FakeLLM, kind: str) -> None:
    fake_llm.answers += [{"tool": "stop"}]
    assert said(ask(build(f"{kind}:tiny", mode="json"))) == [("stop", {})]
    body = fake_llm.requests[0]["body"]
    schema = action_schema([PICK, STOP])
    if kind == "ollama":
        assert body["format"] == schema
    else:
        assert body["response_format"]["json_schema"]["schema"] == schema
        assert body["response_format"]["json_schema"]["strict"] is False
    assert [m["role"] for m in body["messages"]] == ["system", "user"]
    assert '"slice": "dark" or "bright", "n"?: integer, "why"?: string' in str(body["messages"])


@pytest.mark.parametrize("kind", KINDS)
def test_settings_reach_the_server(fake_llm: FakeLLM, kind: str) -> None:
    fake_llm.answers += [{"text": "ok"}]
    brain = build(f"{kind}:tiny", temperature=0.5, answer_tokens=77, context_tokens=1500)
    assert brain.invoke("hello").content == "ok"
    body = fake_llm.requests[0]["body"]
    if kind == "ollama":
        options = body["options"]
        assert (options["temperature"], options["num_predict"], options["num_ctx"]) == (
            0.5,
            77,
            1577,
        )
    else:
        assert (body["temperature"], body["max_completion_tokens"]) == (0.5, 77)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
def test_what_is_meant_for_policies_is_not_sent(fake_llm: FakeLLM, kind: str, mode: str) -> None:
    fake_llm.answers += [{"text": "ok"}]
    extra = {"observation": {"secret": "figures"}}
    messages = [SystemMessage("You pick."), HumanMessage("Pick.", additional_kwargs=extra)]
    ask(build(f"{kind}:tiny", mode=mode), messages=messages)
    assert "figures" not in json.dumps(fake_llm.requests[0]["body"])
    assert messages[1].additional_kwargs == extra


@pytest.mark.parametrize("kind", KINDS)
def test_a_conversation_with_tool_results_is_understood(fake_llm: FakeLLM, kind: str) -> None:
    fake_llm.answers += [{"tool": "stop"}, {"tool": "stop"}]
    call = ToolCall(name="pick", args={"slice": "dark"}, id="r001c00")
    messages = [
        *QUESTION,
        AIMessage(content="", tool_calls=[call]),
        ToolMessage("no budget", tool_call_id="r001c00", name="pick", status="error"),
    ]
    ask(build(f"{kind}:tiny", mode="native"), messages=messages)
    roles = [m["role"] for m in fake_llm.requests[0]["body"]["messages"]]
    assert roles == ["system", "user", "assistant", "tool"]
    ask(build(f"{kind}:tiny", mode="json"), messages=messages)
    sent = fake_llm.requests[1]["body"]["messages"]
    assert [m["role"] for m in sent] == ["system", "user", "assistant", "user"]
    assert json.loads(sent[2]["content"]) == {"tool": "pick", "arguments": {"slice": "dark"}}
    assert sent[3]["content"].startswith("pick failed: no budget\n\nAnswer with one JSON object")


def test_modes() -> None:
    brain = build("ollama:tiny")
    assert brain.mode == "native"
    assert build("ollama:tiny", mode="json").mode == "json"
    assert (brain.with_mode("json").mode, brain.mode) == ("json", "native")


# -- answers that are none ----------------------------------------------------------------------


def test_calls_get_fresh_ids_and_are_bounded(fake_llm: FakeLLM) -> None:
    call = {"tool": "pick", "id": "call_1", "arguments": {"slice": "dark"}}
    fake_llm.answers += [{"calls": [call] * 12}, {"calls": [call]}]
    brain = build("openai:tiny")
    answers = [ask(brain), ask(brain)]
    assert [len(a.tool_calls) for a in answers] == [MAX_CALLS, 1]
    ids = [call["id"] for a in answers for call in a.tool_calls]
    assert len(set(ids)) == MAX_CALLS + 1
    assert all(re.fullmatch(r"[0-9a-f]{9}", str(i)) for i in ids)


def test_names_that_servers_refuse_are_changed(fake_llm: FakeLLM) -> None:
    fake_llm.answers += [{"calls": [{"tool": "../pick now!" + "x" * 90}, {"tool": ""}]}]
    names = [name for name, _ in said(ask(build("openai:tiny")))]
    assert names[0] == ("___pick_now_" + "x" * 90)[:64]
    assert names[1:] in ([], ["_"])


@pytest.mark.parametrize(
    ("raw", "shown"),
    [
        ('{"slice": "da', '{"slice": "da'),
        ("[1, 2]", "[1, 2]"),
        ('"dark"', "dark"),
        ("[" * 5000, "[[["),
    ],
)
def test_broken_arguments_are_text_and_no_call(fake_llm: FakeLLM, raw: str, shown: str) -> None:
    fake_llm.answers += [{"calls": [{"tool": "pick", "raw": raw}]}]
    answer = ask(build("openai:tiny"))
    assert answer.tool_calls == []
    assert shown in str(answer.content)
    assert len(answer.content) <= MAX_CONTENT
    assert len(fake_llm.requests) == 1


def test_arguments_can_be_stored(fake_llm: FakeLLM) -> None:
    nested = "[" * 30 + "1" + "]" * 30
    raw = f'{{"a": NaN, "b": 1e999, "c": {"9" * 400}, "d": "\\ud800", "e": {nested}}}'
    fake_llm.answers += [{"calls": [{"tool": "pick", "raw": raw}]}]
    ((_, arguments),) = said(ask(build("openai:tiny")))
    assert arguments["a"] == "nan"
    assert arguments["b"] == "inf"
    assert arguments["c"] == "9" * 20 + "..."
    assert arguments["d"] == "?"
    assert "..." in json.dumps(arguments["e"], allow_nan=False)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("text", "content"),
    [
        ("", ""),
        ("I would rather not.", "I would rather not."),
        ('{"tool": "pick", "argu', '{"tool": "pick", "argu'),
        ("x" * 10_000, "x" * MAX_CONTENT),
    ],
)
def test_answers_without_a_call(
    fake_llm: FakeLLM, kind: str, mode: str, text: str, content: str
) -> None:
    fake_llm.answers += [{"text": text, "finish": "length"}]
    answer = ask(build(f"{kind}:tiny", mode=mode))
    assert (answer.tool_calls, answer.content) == ([], content)
    assert answer.response_metadata["finish_reason"] == "length"
    assert len(fake_llm.requests) == 1


@pytest.mark.parametrize("mode", MODES)
def test_a_refusal_is_text(fake_llm: FakeLLM, mode: str) -> None:
    fake_llm.answers += [{"refusal": "I cannot help with cells."}]
    answer = ask(build("openai:tiny", mode=mode))
    assert (answer.tool_calls, answer.content) == ([], "I cannot help with cells.")


@pytest.mark.parametrize("kind", KINDS)
def test_usage_is_estimated_where_none_is_given(fake_llm: FakeLLM, kind: str) -> None:
    fake_llm.answers += [{"text": "y" * 41, "usage": False}]
    answer = build(f"{kind}:tiny").invoke("x" * 400)
    assert answer.response_metadata["usage_estimated"] is True
    # The tools are an empty list of two characters, and so are the calls.
    expected = {"input_tokens": 101, "output_tokens": 11, "total_tokens": 112}
    assert answer.usage_metadata == expected


# -- failures -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "failure",
    [
        {"status": 500},
        {"status": 503, "error": "loading model"},
        {"status": 429, "error": "slow down"},
        {"drop": True},
        {"body": "<html>proxy</html>"},
        {"body": "null"},
        {"body": '{"error": "gone"}'},
    ],
)
def test_a_passing_failure_is_tried_again(
    fake_llm: FakeLLM, kind: str, failure: dict[str, Any]
) -> None:
    fake_llm.answers += [failure, failure, {"tool": "stop"}]
    assert said(ask(build(f"{kind}:tiny"))) == [("stop", {})]
    assert len(fake_llm.requests) == 3


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("failure", "words"),
    [
        ({"status": 500, "error": "out of memory"}, "failed (3 tries)"),
        ({"status": 429, "error": "slow down"}, "limits the rate"),
        ({"drop": True}, "cannot be reached (3 tries)"),
    ],
)
def test_a_lasting_failure_ends_after_the_tries(
    fake_llm: FakeLLM, kind: str, failure: dict[str, Any], words: str
) -> None:
    fake_llm.answers += [failure] * 5
    with pytest.raises(BrainError) as caught:
        ask(build(f"{kind}:tiny"))
    assert words in str(caught.value)
    assert len(fake_llm.requests) == 3


@pytest.mark.parametrize(
    ("kind", "status", "words"),
    [
        ("openai", 400, "Choose another model or llm.mode"),
        ("openai", 401, "Set OPENAI_API_KEY"),
        ("openai", 403, "Set OPENAI_API_KEY"),
        ("openai", 404, "Name a model that the server has"),
        ("ollama", 400, "Choose another model or llm.mode"),
        ("ollama", 401, "Set OLLAMA_API_KEY"),
        ("ollama", 404, "`ollama pull tiny`"),
    ],
)
def test_a_refused_request_is_not_tried_again(
    fake_llm: FakeLLM, kind: str, status: int, words: str
) -> None:
    fake_llm.answers += [{"status": status, "error": "because"}] * 2
    with pytest.raises(BrainError) as caught:
        ask(build(f"{kind}:tiny"))
    message = str(caught.value)
    url = fake_llm.openai_url if kind == "openai" else fake_llm.ollama_url
    assert words in message
    assert f"'tiny' at {url} " in message
    assert "because" in message
    assert len(fake_llm.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_prompt_beyond_the_context_says_which_setting(fake_llm: FakeLLM, kind: str) -> None:
    error = "request (9031 tokens) exceeds the available context size (8192 tokens)"
    fake_llm.answers += [{"status": 400, "error": error}]
    with pytest.raises(BrainError, match=r"Lower llm\.context_tokens"):
        ask(build(f"{kind}:tiny"))


def test_a_spent_quota_is_not_tried_again(fake_llm: FakeLLM) -> None:
    body = '{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}'
    fake_llm.answers += [{"status": 429, "body": body}] * 2
    with pytest.raises(BrainError, match="has no quota left"):
        ask(build("openai:tiny"))
    assert len(fake_llm.requests) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_timeout(fake_llm: FakeLLM, kind: str) -> None:
    fake_llm.answers += [{"delay": 0.5, "text": "late"}] * 2
    with pytest.raises(BrainError, match=r"no answer in 0\.1 s \(2 tries\).*llm\.timeout_s"):
        ask(build(f"{kind}:tiny", timeout_s=0.1, tries=2))
    assert len(fake_llm.requests) == 2


@pytest.mark.parametrize(
    ("kind", "words"), [("openai", "set OPENAI_BASE_URL"), ("ollama", "`ollama serve`")]
)
def test_no_server(monkeypatch: pytest.MonkeyPatch, kind: str, words: str) -> None:
    monkeypatch.setenv("OPENAI_BASE_URL", "http://127.0.0.1:9/v1")
    monkeypatch.setenv("OLLAMA_HOST", "http://127.0.0.1:9")
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    with pytest.raises(BrainError, match=r"cannot be reached \(2 tries\)") as caught:
        ask(build(f"{kind}:tiny", tries=2))
    assert words in str(caught.value)


@pytest.mark.parametrize("kind", KINDS)
def test_retry_after_is_honoured(fake_llm: FakeLLM, kind: str) -> None:
    fake_llm.answers += [
        {"status": 429, "headers": {"Retry-After": "0.4"}},
        {"status": 429, "headers": {"Retry-After": "soon"}},
        {"tool": "stop"},
    ]
    started = time.monotonic()
    ask(build(f"{kind}:tiny"))
    assert 0.4 < time.monotonic() - started < 3


@pytest.mark.parametrize("kind", KINDS)
def test_a_pause_of_an_hour_is_not_waited_for(fake_llm: FakeLLM, kind: str) -> None:
    date = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    fake_llm.answers += [{"status": 429, "headers": {"Retry-After": date}}] * 2
    with pytest.raises(BrainError, match=r"accepts no request for (3600|3599|3598) s"):
        ask(build(f"{kind}:tiny"))
    assert len(fake_llm.requests) == 1


# -- keys ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [400, 401, 404, 429, 500])
@pytest.mark.parametrize("kind", KINDS)
def test_no_key_in_an_error(
    fake_llm: FakeLLM, monkeypatch: pytest.MonkeyPatch, kind: str, status: int
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "plain-key-42")
    monkeypatch.setenv("OLLAMA_API_KEY", "plain-key-42")
    error = f"{'x' * 270} key plain-key-42 or {fake_llm.key} or Bearer abc is wrong"
    fake_llm.answers += [{"status": status, "error": error}] * 3
    with pytest.raises(BrainError) as caught:
        ask(build(f"{kind}:tiny"))
    assert "[key]" in str(caught.value)
    assert not re.search("plain|sk-|abc", f"{caught.value!r} {caught.value.__cause__!r}")


@pytest.mark.parametrize("kind", KINDS)
def test_no_key_in_what_a_brain_says_of_itself(
    fake_llm: FakeLLM, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    monkeypatch.setenv("OLLAMA_API_KEY", fake_llm.key)
    brain = build(f"{kind}:tiny")
    fake_llm.answers += [{"text": "ok"}]
    brain.invoke("hello")
    assert fake_llm.key in str(fake_llm.requests[0]["headers"])
    shown = f"{brain!r} {brain} {brain.model_dump()} {brain._identifying_params} {brain.server!r}"
    assert fake_llm.key not in shown
    assert brain._identifying_params == {"model": "tiny", "mode": "native"}


def test_a_key_is_asked_for_unless_the_server_is_local(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.delenv("OPENAI_BASE_URL", raising=False)
    with pytest.raises(SettingsError, match="needs a key"):
        build("openai:gpt")
    monkeypatch.setenv("OPENAI_BASE_URL", "http://localhost:1234/v1")
    assert build("openai:gpt").server.url == "http://localhost:1234/v1"


@pytest.mark.parametrize("kind", KINDS)
def test_a_model_has_to_be_named(kind: str) -> None:
    with pytest.raises(SettingsError, match=f"{kind}:MODEL"):
        build(f"{kind}:")


# -- actions ------------------------------------------------------------------------------------


def bounds(schema: Any) -> list[dict[str, Any]]:
    """All strings and lists of a schema that have no bound."""
    if isinstance(schema, list):
        return [found for item in schema for found in bounds(item)]
    if not isinstance(schema, dict):
        return []
    bound = {"string": "maxLength", "array": "maxItems"}.get(str(schema.get("type")))
    own = [schema] if bound and bound not in schema else []
    return own + [found for value in schema.values() for found in bounds(value)]


def test_the_schema_bounds_everything() -> None:
    parameters = {
        "type": "object",
        "$defs": {
            "Prompt": {
                "type": "object",
                "title": "Prompt",
                "properties": {
                    "title": {"type": "string", "default": "", "maxLength": 9999},
                    "tags": {"type": "object", "additionalProperties": {"type": "string"}},
                    "extra": {"type": "object", "additionalProperties": True},
                },
                "required": ["title"],
            }
        },
        "properties": {
            "prompts": {"type": "array", "items": {"$ref": "#/$defs/Prompt"}},
            "why": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
            "names": {"type": ["array", "null"], "items": {"type": "string"}, "maxItems": 3},
            "anything": {},
        },
        "required": ["prompts"],
    }
    plan = {"type": "function", "function": {"name": "plan", "parameters": parameters}}
    schema = action_schema([plan, STOP])
    assert bounds(schema) == []
    text = json.dumps(schema)
    assert not re.search(r'"\$|"default"|allOf|oneOf', text)
    assert [a["properties"]["tool"] for a in schema["anyOf"]] == [
        {"const": "plan"},
        {"const": "stop"},
    ]
    assert all(a["additionalProperties"] is False for a in schema["anyOf"])
    properties = schema["anyOf"][0]["properties"]["arguments"]["properties"]
    prompt = properties["prompts"]["items"]
    assert properties["prompts"]["maxItems"] == MAX_ITEMS
    assert prompt["properties"]["title"] == {"type": "string", "maxLength": MAX_LENGTH}
    assert prompt["required"] == ["title"]
    assert properties["names"]["anyOf"][0]["maxItems"] == 3
    assert action_schema([STOP])["properties"]["tool"] == {"const": "stop"}


@pytest.mark.parametrize(
    "text",
    [
        '{"tool": "pick", "arguments": {"n": 1}}',
        'Sure!\n```json\n{"tool": "pick", "arguments": {"n": 1}}\n```\nDone.',
        '<think>{"tool": "stop"}</think>{"tool": "pick", "arguments": {"n": 1}}',
        '{"name": "pick", "parameters": {"n": 1}}',
        '{hm} {"tool": "pick", "arguments": "{\\"n\\": 1}"} {"tool": "stop"}',
    ],
)
def test_actions_are_found(text: str) -> None:
    call = parse_action(text)
    assert call is not None
    assert (call["name"], call["args"], call["id"]) == ("pick", {"n": 1}, None)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{}",
        "pick",
        "[1]",
        '{"tool": 3}',
        '{"tool": null, "arguments": {}}',
        '{"tool": "pick", "arguments": [1]}',
        '{"tool": "pick", "arguments": "[1"}',
        '{"tool": "plan", "arguments": {"prompts": [{"name": "dark cell"}, ',
        '{"a":' * 5000,
        "{" * 100_000,
        "<think>" + '{"tool": "stop"}',
    ],
)
def test_no_action_is_found(text: str) -> None:
    assert parse_action(text) is None


def test_an_action_without_arguments() -> None:
    call = parse_action('{"tool": "stop"}')
    assert call is not None
    assert (call["name"], call["args"]) == ("stop", {})


def test_random_text_is_never_more_than_no_action() -> None:
    rng = random.Random(0)
    pieces = ['{"tool":', '"pick"', ',"arguments":', "{", "}", "NaN", "\\ud800", "[", '"', "\x00"]
    for _ in range(2000):
        call = parse_action("".join(rng.choices(pieces, k=rng.randrange(12))))
        assert call is None or isinstance(call["args"], dict)


def test_storable_values() -> None:
    value = {"a": [True, None, 1.5, 2**53, "ä"], "b": {}}
    assert storable(value) == value
    assert storable([2**60, -(2**60), float("-inf")]) == [
        "1152921504606846976...",
        "-1152921504606846976...",
        "-inf",
    ]
    assert storable({"a": {"b": {"c": 1}}}, depth=2) == {"a": {"b": "..."}}


def test_plain_messages() -> None:
    call = ToolCall(name="pick", args={"slice": "dark"}, id="1")
    messages: list[BaseMessage] = [
        SystemMessage("You pick."),
        HumanMessage("Round 1."),
        HumanMessage("Go."),
        AIMessage(content="Well.", tool_calls=[call]),
        ToolMessage("done", tool_call_id="1", name="pick"),
        AIMessage(content=""),
        HumanMessage("Call stop."),
    ]
    plain = as_plain_messages(messages, [STOP])
    assert [m.type for m in plain] == ["system", "human", "ai", "human"]
    assert [m.text for m in plain[:3]] == [
        "You pick.",
        "Round 1.\n\nGo.",
        'Well.\n{"tool": "pick", "arguments": {"slice": "dark"}}',
    ]
    assert plain[3].text.startswith("pick says: done\n\nCall stop.\n\nAnswer with one JSON object")
    assert plain[3].text.endswith("- stop {}: Stop.")
    assert [m.text for m in as_plain_messages(messages[:2], [])] == ["You pick.", "Round 1."]


def test_a_prompt_begins_like_the_one_before() -> None:
    # Servers keep what they computed for a common beginning; the tools change with the phase.
    first = as_plain_messages(QUESTION, [PICK])
    second = as_plain_messages(QUESTION, [STOP])
    assert first[0] == second[0]
    assert first[1].text.split("Answer with")[0] == second[1].text.split("Answer with")[0]


@pytest.mark.parametrize(
    ("brain", "variable", "value"),
    [
        ("openai:m", "OPENAI_BASE_URL", "http://127.0.0.1:9/v1\r"),
        ("openai:m", "HTTP_PROXY", "not-a-url:xx"),
        ("openai:m", "ALL_PROXY", "socks5://127.0.0.1:9"),
        ("ollama:m", "OLLAMA_HOST", "127.0.0.1:99999"),
        ("ollama:m", "ALL_PROXY", "socks5://127.0.0.1:9"),
    ],
)
def test_what_a_client_cannot_read_of_the_environment_is_named(
    brain: str, variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("OPENAI_BASE_URL", "OLLAMA_HOST", "HTTP_PROXY", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("OPENAI_API_KEY", "sk-abcdef123456")
    monkeypatch.setenv(variable, value)
    with pytest.raises(SettingsError, match=variable):
        build(brain)
