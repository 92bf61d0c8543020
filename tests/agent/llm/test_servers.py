"""The servers of the tests speak their protocols: the real clients understand them."""

from __future__ import annotations

import json
from typing import Any

import ollama
import pytest
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langchain_ollama import ChatOllama
from langchain_openai import ChatOpenAI

pytestmark = pytest.mark.llm

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {"tool": {"const": "pick_slice"}, "slice": {"enum": ["mono", "poly"]}},
    "required": ["tool", "slice"],
    "additionalProperties": False,
}
QUESTION = [
    HumanMessage("Look first."),
    AIMessage("", tool_calls=[{"name": "look", "args": {"n": 1}, "id": "a1"}]),
    ToolMessage("poly is worst", tool_call_id="a1", name="look"),
    HumanMessage("Pick a slice. Answer with JSON."),
]


def test_openai_client_gets_json_under_a_schema(openai_url: str) -> None:
    chat = ChatOpenAI(model="smollm2", base_url=openai_url, api_key=lambda: "none", temperature=0)
    form = {"type": "json_schema", "json_schema": {"name": "a", "schema": SCHEMA, "strict": False}}
    answer = chat.invoke(QUESTION, response_format=form, max_tokens=100)
    assert json.loads(str(answer.content))["slice"] in ("mono", "poly")
    assert answer.usage_metadata and answer.usage_metadata["output_tokens"] > 5


def test_ollama_client_gets_json_under_a_schema(ollama_url: str) -> None:
    chat = ChatOllama(model="smollm2", base_url=ollama_url, temperature=0, num_predict=100)
    answer = chat.invoke(QUESTION, format=SCHEMA)
    assert json.loads(str(answer.content))["slice"] in ("mono", "poly")
    assert answer.usage_metadata and answer.usage_metadata["output_tokens"] > 5


def test_ollama_client_sees_models_and_errors(ollama_url: str) -> None:
    client = ollama.Client(host=ollama_url)
    assert [m.model for m in client.list().models] == ["smollm2:latest"]
    message = {"role": "user", "content": "Say yes."}
    plain = client.chat("smollm2", [message], options={"num_predict": 4, "seed": 1})
    assert plain.eval_count == 4 and plain.done
    with pytest.raises(ollama.ResponseError, match="try pulling it first"):
        client.chat("unknown", [message])
    long = {"role": "user", "content": "cell " * 9000}
    with pytest.raises(ollama.ResponseError, match="exceeds the available context"):
        client.chat("smollm2", [long])
