"""Odd answers of servers, in one table: each is the call that was meant, text, or a clear error."""

from __future__ import annotations

import json
import random
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from langchain_core.messages import AIMessage

from agent.brains.probe import probe
from memory.errors import BrainError, SettingsError
from tests.agent.brains.test_brains import QUESTION, STOP, build

if TYPE_CHECKING:
    from tests.agent.fake_llm import FakeLLM

Json = dict[str, Any]

PLAN: Json = {
    "type": "function",
    "function": {
        "name": "plan",
        "description": "Plan images.",
        "parameters": {
            "type": "object",
            "properties": {
                "prompts": {
                    "type": "array",
                    "items": {"type": "object", "properties": {"text": {"type": "string"}}},
                },
                "why": {"type": "string"},
                "share": {"anyOf": [{"type": "object"}, {"type": "null"}]},
            },
            "required": ["prompts"],
        },
    },
}
ARGUMENTS: Json = {"prompts": [{"text": "a [dark] cell"}], "why": "as [1]"}
ACTION = json.dumps({"tool": "plan", "arguments": ARGUMENTS})
NAMED = json.dumps({"name": "plan", "arguments": ARGUMENTS})
HTML = "<!doctype html><html><title>Web UI</title></html>"


def openai(finish: str = "stop", **message: Any) -> str:
    """Return a completion of OpenAI's protocol."""
    usage = {"prompt_tokens": 30, "completion_tokens": 12, "total_tokens": 42}
    choice = {"index": 0, "message": {"role": "assistant", "content": None} | message}
    return json.dumps(
        {
            "id": "x",
            "object": "chat.completion",
            "created": 0,
            "model": "m",
            "choices": [choice | {"finish_reason": finish}],
            "usage": usage,
        }
    )


def call(arguments: Any, name: Any = "plan", **fields: Any) -> str:
    """Return a completion with one native call; arguments that are no text are encoded."""
    text = arguments if isinstance(arguments, str | None) else json.dumps(arguments)
    function = {"name": name, "arguments": text}
    one = {"id": "call_0", "type": "function", "function": function} | fields
    return openai("tool_calls", tool_calls=[{k: v for k, v in one.items() if v != "left out"}])


def ollama(**message: Any) -> str:
    """Return an answer of Ollama's protocol."""
    return json.dumps(
        {
            "model": "m",
            "created_at": "2025-01-01T00:00:00Z",
            "message": {"role": "assistant", "content": ""} | message,
            "done": True,
            "done_reason": "stop",
        }
    )


class Odd(NamedTuple):
    """Answers of a server, the last one for good, and what comes of them.

    Attributes:
        answers: As `FakeLLM.answers`, or the body of one.
        expected: "call": the plan; "text": no call; other words: those of the error.
        mode: How tools are called.
        kind: Of the brain.
    """

    answers: list[str | Json]
    expected: str
    mode: str = "native"
    kind: str = "openai"


GOOD = call(ARGUMENTS)
IN_JSON = openai(content=ACTION)
CALLS = json.loads(GOOD)["choices"][0]["message"]["tool_calls"]
THOUGHT = 'I might {"tool": "stop", "arguments": {}}, no.'
THINK = f"<think>{THOUGHT}</think>"
TABLE: dict[str, Odd] = {
    # Calls in other forms.
    "call": Odd([GOOD], "call"),
    "null id": Odd([call(ARGUMENTS, id=None)], "call"),
    "no id": Odd([call(ARGUMENTS, id="left out")], "call"),
    "no type": Odd([call(ARGUMENTS, type="left out")], "call"),
    "list as text": Odd([call(ARGUMENTS | {"prompts": json.dumps(ARGUMENTS["prompts"])})], "call"),
    "items as text": Odd(
        [call(ARGUMENTS | {"prompts": [json.dumps(ARGUMENTS["prompts"][0])]})], "call"
    ),
    "arguments encoded twice": Odd([call(json.dumps(json.dumps(ARGUMENTS)))], "text"),
    "name with functions.": Odd([call(ARGUMENTS, "functions.plan")], "call"),
    "name with blanks": Odd([call(ARGUMENTS, " plan\n")], "call"),
    "reasoning beside the call": Odd(
        [
            openai(
                reasoning_content="long",
                tool_calls=json.loads(GOOD)["choices"][0]["message"]["tool_calls"],
            )
        ],
        "call",
    ),
    "call as text": Odd([openai(content=f"<tool_call>\n{NAMED}\n</tool_call>")], "call"),
    "call as text in a fence": Odd([openai(content=f"Sure!\n```json\n{ACTION}\n```")], "call"),
    "call as text after thoughts": Odd([openai(content=f"{THINK}{ACTION}")], "call"),
    "call as text in parts": Odd([openai(content=[{"type": "text", "text": ACTION}])], "call"),
    "usage is null": Odd([json.dumps(json.loads(GOOD) | {"usage": None})], "call"),
    "usage is missing": Odd(
        [json.dumps({k: v for k, v in json.loads(GOOD).items() if k != "usage"})], "call"
    ),
    "finish is odd": Odd([openai("eos", content=ACTION)], "call"),
    # No call.
    "text": Odd([openai(content="I do not know.")], "text"),
    "text with an unknown action": Odd([openai(content='{"tool": "rm", "arguments": {}}')], "text"),
    "empty": Odd([openai(content="")], "text"),
    "null content": Odd([openai()], "text"),
    "only thoughts": Odd([openai("length", content="", reasoning_content="long")], "text"),
    "thoughts that are cut off": Odd([openai("length", content=f"<think>{ACTION}")], "text"),
    "refusal": Odd([openai(refusal="I cannot.")], "text"),
    "broken arguments": Odd([call(json.dumps(ARGUMENTS)[:-1])], "text"),
    "arguments that are a list": Odd([call("[1]")], "text"),
    "function_call of the old protocol": Odd([openai(function_call={"name": "plan"})], "text"),
    "three million characters": Odd([openai("length", content="x" * 3_000_000)], "text"),
    # Other names and values, which the loop names as illegal.
    "arguments of no number": Odd([call('{"prompts": [], "n": NaN, "m": 1e999}')], "other"),
    "unknown tool": Odd([call({}, "rm -rf")], "other"),
    "null arguments": Odd([call(None, "stop")], "stop"),
    "empty arguments": Odd([call("", "stop")], "stop"),
    # JSON actions.
    "action": Odd([IN_JSON], "call", "json"),
    "action in a fence": Odd([openai(content=f"```\n{ACTION}\n```")], "call", "json"),
    "action after words": Odd([openai(content=f"Here: {ACTION} Done.")], "call", "json"),
    "action by other names": Odd([openai(content=NAMED)], "call", "json"),
    "action after thoughts": Odd([openai(content=f"{THINK}{ACTION}")], "call", "json"),
    "action after thoughts without a beginning": Odd(
        [openai(content=f"{THOUGHT}\n</think>\n\n{ACTION}")], "call", "json"
    ),
    "action after several thoughts": Odd(
        [openai(content=f"{THOUGHT}</think>{THINK}{ACTION}")], "call", "json"
    ),
    "action after other tags": Odd(
        [openai(content=f"<reasoning>{THOUGHT}</reasoning>{ACTION}")], "call", "json"
    ),
    "action with arguments as text": Odd(
        [openai(content=json.dumps({"tool": "plan", "arguments": json.dumps(ARGUMENTS)}))],
        "call",
        "json",
    ),
    "action that is cut off": Odd([openai("length", content=ACTION[:-1])], "text", "json"),
    "action in Python's form": Odd([openai(content=str(json.loads(ACTION)))], "text", "json"),
    # Parameters that a server refuses.
    "max_completion_tokens is refused": Odd(
        [
            {"status": 422, "body": '{"detail": [{"loc": ["body", "max_completion_tokens"]}]}'},
            GOOD,
        ],
        "call",
    ),
    "max_completion_tokens is refused in JSON": Odd(
        [{"status": 400, "error": "Unrecognized argument: max_completion_tokens"}, IN_JSON],
        "call",
        "json",
    ),
    "temperature is refused": Odd(
        [{"status": 400, "error": "'temperature' does not support 0.3 with this model"}, GOOD],
        "call",
    ),
    "another parameter is refused": Odd(
        [{"status": 422, "body": '{"detail": [{"loc": ["body", "seed"]}]}'}], '"seed"'
    ),
    # Errors.
    "error with status 200": Odd([{"body": '{"error": {"message": "Provider"}}'}], "failed"),
    "no choices": Odd([json.dumps(json.loads(GOOD) | {"choices": []})], "failed"),
    "null choices": Odd([json.dumps(json.loads(GOOD) | {"choices": None})], "failed"),
    "empty body": Odd([{"body": ""}], "failed"),
    "page of a web server": Odd([{"body": HTML}], "failed"),
    "a list": Odd([{"body": "[]"}], "failed"),
    "a stream": Odd([{"body": f"data: {GOOD}\n\ndata: [DONE]\n\n"}], "failed"),
    "not found, as text": Odd([{"status": 404, "body": "404 page not found"}], "page not found"),
    "redirect": Odd([{"status": 307, "body": "", "headers": {"Location": "/login"}}], ""),
    "closed": Odd([{"drop": True}], "cannot be reached"),
    "busy": Odd([{"status": 429, "headers": {"Retry-After": "soon"}}, GOOD], "call"),
    "busy since the past": Odd([{"status": 429, "headers": {"Retry-After": "-5"}}, GOOD], "call"),
    "loading": Odd([{"status": 503, "error": "Loading model"}, GOOD], "call"),
    "long prompt": Odd([{"status": 400, "error": "maximum context length is 9"}], "context_tokens"),
    "key in the error": Odd([{"status": 401, "error": "bad sk-test-0123456789abcdef"}], "[key]"),
    # Ollama.
    "ollama: call": Odd(
        [ollama(tool_calls=[{"function": {"name": "plan", "arguments": ARGUMENTS}}])],
        "call",
        kind="ollama",
    ),
    "ollama: list as text": Odd(
        [
            ollama(
                tool_calls=[
                    {
                        "function": {
                            "name": "plan",
                            "arguments": ARGUMENTS | {"prompts": json.dumps(ARGUMENTS["prompts"])},
                        }
                    }
                ]
            )
        ],
        "call",
        kind="ollama",
    ),
    "ollama: call as text": Odd([ollama(content=ACTION)], "call", kind="ollama"),
    "ollama: thoughts without a beginning": Odd(
        [ollama(content=f"{THOUGHT}</think>{ACTION}")], "call", "json", "ollama"
    ),
    "ollama: empty": Odd([ollama()], "text", kind="ollama"),
    "ollama: error with status 200": Odd([{"body": '{"error": "gone"}'}], "gone", kind="ollama"),
    "ollama: page": Odd([{"body": HTML}], "failed", kind="ollama"),
    "ollama: no message": Odd([{"body": '{"done": true}'}], "text", kind="ollama"),
    "ollama: not found": Odd([{"status": 404, "error": "no model"}], "ollama pull", kind="ollama"),
    "ollama: closed": Odd([{"drop": True}], "cannot be reached", kind="ollama"),
}


def ask(fake_llm: FakeLLM, answers: list[str | Json], kind: str, mode: str) -> AIMessage:
    given = [answer if isinstance(answer, dict) else {"body": answer} for answer in answers]
    fake_llm.answers[:] = [*given, *[given[-1]] * 4]
    model = build(f"{kind}:m", mode=mode, pause_s=0.001, tries=2, temperature=0.3)
    answer = model.bind_tools([PLAN, STOP]).invoke(QUESTION)
    assert isinstance(answer, AIMessage)
    assert answer.usage_metadata
    return answer


@pytest.mark.parametrize("name", TABLE)
def test_an_odd_answer(fake_llm: FakeLLM, name: str) -> None:
    odd = TABLE[name]
    if odd.expected not in ("call", "text", "stop", "other"):
        with pytest.raises(BrainError) as caught:
            ask(fake_llm, odd.answers, odd.kind, odd.mode)
        assert odd.expected in str(caught.value)
        assert fake_llm.key not in str(caught.value)
        return
    answer = ask(fake_llm, odd.answers, odd.kind, odd.mode)
    calls = [(one["name"], one["args"]) for one in answer.tool_calls]
    if odd.expected == "other":
        assert len(calls) == 1
        assert json.loads(json.dumps(calls, allow_nan=False))
    else:
        right = {"call": [("plan", ARGUMENTS)], "stop": [("stop", {})], "text": []}
        assert calls == right[odd.expected]


def test_what_a_server_refuses_is_not_sent_again(fake_llm: FakeLLM) -> None:
    refused = TABLE["max_completion_tokens is refused in JSON"].answers
    ask(fake_llm, refused, "openai", "json")
    first, second = (request["body"] for request in fake_llm.requests)
    assert second["max_tokens"] == first["max_completion_tokens"]
    assert "max_completion_tokens" not in second
    assert second["response_format"] == first["response_format"]


def test_a_call_in_text_is_no_native_one(fake_llm: FakeLLM) -> None:
    action = json.dumps({"tool": "pick_slice", "arguments": {"slice": "dark"}})
    fake_llm.answers += [{"body": openai(content=action)}] * 2
    assert probe(build("openai:m")).mode == "json"


def damaged(value: Any, rng: random.Random) -> Any:
    """Return JSON with one value of it missing, null, or of another type."""
    if isinstance(value, dict | list) and value and rng.random() < 0.85:
        copy: Any = value.copy()
        key = rng.choice(list(copy)) if isinstance(copy, dict) else rng.randrange(len(copy))
        if rng.random() < 0.15:
            del copy[key]
        else:
            copy[key] = damaged(copy[key], rng)
        return copy
    return rng.choice([None, "", "x", 0, -1.5, True, [], {}, [None], {"a": None}, "9" * 99])


@pytest.mark.parametrize("seed", range(4))
def test_a_damaged_answer_is_an_answer_or_an_error(fake_llm: FakeLLM, seed: int) -> None:
    rng = random.Random(seed)
    rows = [odd for odd in TABLE.values() if isinstance(odd.answers[-1], str)]
    for _ in range(30):
        odd = rng.choice(rows)
        body = str(odd.answers[-1])[:9999]
        try:
            body = json.dumps(damaged(json.loads(body), rng))
        except ValueError:
            body = "".join(rng.choice([body[: rng.randrange(len(body))], body + "]"]))
        try:
            ask(fake_llm, [{"body": body}], odd.kind, odd.mode)
        except BrainError as error:
            assert len(str(error)) < 1000


# What is wrong with the environment.


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ({"OPENAI_BASE_URL": "https://{host}/v1"}, "http:// if the server has no TLS"),
        ({"HTTP_PROXY": "http://127.0.0.1:9"}, "proxy 127.0.0.1:9 of the environment"),
        ({"OPENAI_BASE_URL": "http://{host}"}, "OPENAI_BASE_URL=http://{host}/v1"),
        (
            {"OPENAI_BASE_URL": "http://{host}/v1/chat/completions"},
            "OPENAI_BASE_URL=http://{host}/v1.",
        ),
        ({"OPENAI_BASE_URL": "http://127.0.0.1:9/v1"}, "Start the server"),
    ],
)
def test_a_server_that_is_not_reached_says_why(
    fake_llm: FakeLLM, monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], words: str
) -> None:
    host = fake_llm.ollama_url.removeprefix("http://")
    for name, value in variables.items():
        monkeypatch.setenv(name, value.format(host=host))
    answers: list[str | Json] = [{"status": 404, "body": '{"detail": "Not Found"}'}]
    with pytest.raises(BrainError) as caught:
        ask(fake_llm, answers, "openai", "native")
    assert words.format(host=host) in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "variables", "words"),
    [
        ("openai", {"OPENAI_BASE_URL": "127.0.0.1:9/v1"}, "OPENAI_BASE_URL"),
        ("openai", {"OPENAI_BASE_URL": "localhost:9/v1"}, "OPENAI_BASE_URL"),
        ("openai", {"OPENAI_BASE_URL": "http://127.0.0.1:9/v1\r"}, "OPENAI_BASE_URL"),
        (
            "openai",
            {"HTTP_PROXY": "not-a-url:xx"},
            "HTTP_PROXY",
        ),
        ("openai", {"OPENAI_BASE_URL": "http://10.0.0.1/v1", "OPENAI_API_KEY": " "}, "a key"),
        ("ollama", {"OLLAMA_HOST": "127.0.0.1:99999"}, "OLLAMA_HOST"),
    ],
)
def test_an_environment_that_cannot_be_used_is_named(
    fake_llm: FakeLLM,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
    variables: dict[str, str],
    words: str,
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match=words):
        build(f"{kind}:m", timeout_s=7.125)  # LangChain keeps a client for each time


@pytest.mark.parametrize("key", [" ", "{key}\r\n"])
def test_white_space_is_no_part_of_a_key(
    fake_llm: FakeLLM, monkeypatch: pytest.MonkeyPatch, key: str
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", key.format(key=fake_llm.key))
    ask(fake_llm, [GOOD], "openai", "native")
    sent = {name.lower(): value for name, value in fake_llm.requests[0]["headers"].items()}
    assert sent["authorization"] in ("Bearer none", f"Bearer {fake_llm.key}")
    fake_llm.answers[:] = [{"status": 401, "error": "no such key"}]
    with pytest.raises(BrainError, match="no such key"):
        build("openai:m").invoke(QUESTION)
