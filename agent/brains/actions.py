"""Tool calls as one JSON object, for models without reliable native tool calls.

An action is {"tool": NAME, "arguments": {...}}. This module contains pure functions: the JSON
schema that a server's grammar enforces, the parser of answers, and conversations in plain text.
Tools are given in OpenAI's function format:
{"type": "function", "function": {"name", "description", "parameters"}}.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import Any

from langchain_core.messages import (
    AIMessage,
    BaseMessage,
    HumanMessage,
    SystemMessage,
    ToolCall,
    ToolMessage,
)
from langchain_core.utils.json_schema import dereference_refs

from prompts.render import render_text, source

Json = dict[str, Any]
Content = str | list[str | Json]

# Upper bounds on the length of texts and lists in a schema: without bounds in the grammar, a small
# model may repeat itself until its tokens are used up.
MAX_LENGTH = 1000
MAX_ITEMS = 40

_KEPT = ("type", "enum", "const", "minimum", "maximum", "minLength", "minItems")
_MAX_TEXT = 40_000
_MAX_STARTS = 50
_MAX_DEPTH = 12
_MAX_TOOL_TEXT = 1_500
# Larger integers are not portable in JSON, and may not fit into 64 bits in a checkpoint.
_MAX_INT = 2**53
_TAG = r"(?:think|thinking|thought|reasoning)"
_THOUGHT = re.compile(rf"<{_TAG}>.*?</{_TAG}>", re.DOTALL)
_THOUGHT_ENDS, _THOUGHT_BEGINS = re.compile(rf"</{_TAG}>"), re.compile(rf"<{_TAG}>")


def action_schema(tools: Sequence[Json]) -> Json:
    """Return the JSON schema of one action: anyOf over the tools, with all texts and lists bounded.

    It only uses features that the grammars of llama.cpp and Ollama and OpenAI's json_schema (not
    strict) support; strings have at most MAX_LENGTH characters, lists at most MAX_ITEMS entries.
    """
    actions = [
        _bounded(
            {
                "type": "object",
                "properties": {
                    "tool": {"const": tool["function"]["name"]},
                    "arguments": _parameters(tool),
                },
                "required": ["tool", "arguments"],
            }
        )
        for tool in tools
    ]
    return actions[0] if len(actions) == 1 else {"type": "object", "anyOf": actions}


def parse_action(text: str, offered: Collection[str] | None = None) -> ToolCall | None:
    """Return the first action in an answer, with the id None, or None if there is none.

    Reasoning, code fences and text around the action are ignored, and the keys `name` and
    `parameters`, which models trained on tool calls prefer, are accepted. Only the first 40,000
    characters are parsed.

    Args:
        text: The answer.
        offered: Names of tools; actions of other tools are ignored. None: any tool.
    """
    text = without_thoughts(text)[:_MAX_TEXT]
    starts = [match.start() for match in re.finditer(r"\{", text)][:_MAX_STARTS]
    for start in starts:
        try:
            value, _ = json.JSONDecoder().raw_decode(text, start)
        except (ValueError, RecursionError):
            continue
        if (call := _as_call(value)) and (offered is None or call["name"] in offered):
            return call
    return None


def without_thoughts(text: str) -> str:
    """Remove the reasoning of an answer, whose opening tag may have been part of the prompt."""
    text = _THOUGHT.sub("", text)
    text = _THOUGHT_ENDS.split(text)[-1]
    return _THOUGHT_BEGINS.split(text)[0]


def as_plain_messages(
    messages: Sequence[BaseMessage], tools: Sequence[Json], template: str | None = None
) -> list[BaseMessage]:
    """Convert a conversation with tools to plain system, user and assistant messages.

    Calls become actions of the assistant, results become user messages; messages without text are
    dropped, and consecutive messages of the same role are merged. The description of the tools
    comes last, rendered by `template`, by default the text of `prompts/json_action.md`.
    """
    texts: list[tuple[Content, type[BaseMessage]]] = [_say_message(m) for m in messages]
    if tools:
        # Last, not in the system text, because the tools change with every phase and servers cache
        # the common prefix of prompts.
        lines = "\n".join(_say_tool(tool) for tool in tools)
        text = render_text(template or source("json_action"), tools=lines)
        texts.append((text, HumanMessage))
    system = [str(text) for text, role in texts if role is SystemMessage]
    plain: list[BaseMessage] = [SystemMessage("\n\n".join(system))] if system else []
    for content, role in texts:
        if role is SystemMessage:
            continue
        if content and plain and isinstance(plain[-1], role):
            plain[-1] = role(_joined(plain[-1].content, content))
        elif content:
            plain.append(role(content))
    return plain


def storable(value: object, depth: int = _MAX_DEPTH) -> Any:
    """Convert parsed JSON to values that every journal, checkpoint and server accepts.

    Non-finite floats and integers beyond 2**53 become text, lone surrogates become "?", and values
    nested deeper than `depth` become "...".
    """
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode("utf-8")
    if isinstance(value, Mapping | list) and depth == 0:
        return "..."
    if isinstance(value, Mapping):
        return {storable(str(k)): storable(v, depth - 1) for k, v in value.items()}
    if isinstance(value, list):
        return [storable(item, depth - 1) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, int) and abs(value) > _MAX_INT:
        return f"{str(value)[:20]}..."
    return value


def unpacked(value: Any, tool: Json | None) -> Any:
    """Parse lists and objects that a model passed as JSON text in the arguments of a tool.

    Args:
        value: The arguments.
        tool: Tool in OpenAI's function format. None: it is unknown, and the arguments are returned
            unchanged.
    """
    return _unpack(value, _parameters(tool)) if tool else value


def _unpack(value: Any, schema: Json) -> Any:
    options = schema.get("anyOf") or schema.get("oneOf") or [schema]
    kinds = {option.get("type") for option in options}
    if isinstance(value, str) and kinds & {"array", "object"} and "string" not in kinds:
        with suppress(ValueError, RecursionError):
            parsed = json.loads(value)
            value = storable(parsed) if isinstance(parsed, list | dict) else value
    for option in options:
        if isinstance(value, list) and option.get("type") == "array":
            return [_unpack(item, option.get("items") or {}) for item in value]
        if isinstance(value, dict) and option.get("type") == "object":
            inner = option.get("properties", {})
            return {key: _unpack(item, inner.get(key) or {}) for key, item in value.items()}
    return value


def _as_call(value: object) -> ToolCall | None:
    if not isinstance(value, dict):
        return None
    arguments = value.get("arguments", value.get("parameters"))
    # An object with only a `name` may be anything, e.g. a fragment of a malformed action.
    name = value.get("tool", None if arguments is None else value.get("name"))
    if isinstance(arguments, str):
        try:
            arguments = json.loads(arguments)
        except (ValueError, RecursionError):
            return None
    if not isinstance(name, str) or not isinstance(arguments, dict | None):
        return None
    return ToolCall(name=storable(name), args=storable(arguments or {}), id=None)


def _parameters(tool: Json) -> Json:
    """Return the schema of a tool's arguments with references resolved."""
    parameters: Json = tool["function"].get("parameters") or {}
    return {"type": "object", **dereference_refs(parameters)}


def _bounded(schema: Json) -> Json:
    """Return the part of a schema that all grammars support, with bounds on texts and lists."""
    if parts := schema.get("allOf"):
        return _bounded({key: value for part in parts for key, value in part.items()})
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return {"anyOf": [_bounded(option) for option in options]}
    kind = schema.get("type")
    if isinstance(kind, list):
        return {"anyOf": [_bounded({**schema, "type": one}) for one in kind]}
    if "enum" in schema or "const" in schema:
        return {key: schema[key] for key in ("enum", "const") if key in schema}
    if kind is None:
        return _bounded({**schema, "type": "string"})
    kept = {key: schema[key] for key in _KEPT if key in schema}
    if kind == "string":
        kept["maxLength"] = min(schema.get("maxLength", MAX_LENGTH), MAX_LENGTH)
    elif kind == "array":
        kept["items"] = _bounded(schema.get("items", {}))
        kept["maxItems"] = min(schema.get("maxItems", MAX_ITEMS), MAX_ITEMS)
    elif kind == "object":
        properties = schema.get("properties", {})
        extra = schema.get("additionalProperties", False)
        kept["properties"] = {name: _bounded(value) for name, value in properties.items()}
        kept["required"] = [name for name in schema.get("required", []) if name in properties]
        is_map = not properties and extra is not False
        kept["additionalProperties"] = is_map and _bounded({} if extra is True else extra)
    return kept


def _say_tool(tool: Json) -> str:
    function = tool["function"]
    arguments = _say_type(_bounded(_parameters(tool)))
    text = " ".join(f"- {function['name']} {arguments}: {function.get('description', '')}".split())
    return text[:_MAX_TOOL_TEXT]


def _say_type(schema: Json) -> str:
    if options := schema.get("anyOf"):
        if len(options) > 1 and all(option.get("type") == "object" for option in options):
            return _say_type(_merged(options))
        return " or ".join(_say_type(option) for option in options)
    if "const" in schema:
        return json.dumps(schema["const"])
    if "enum" in schema:
        return " or ".join(json.dumps(value) for value in schema["enum"])
    if schema["type"] == "array":
        return f"[{_say_type(schema['items'])}, ...]"
    if schema["type"] == "object":
        required = schema["required"]
        parts = [
            f"{json.dumps(name)}{'' if name in required else '?'}: {_say_type(value)}"
            for name, value in schema["properties"].items()
        ]
        if extra := schema["additionalProperties"]:
            parts.append(f"NAME: {_say_type(extra)}, ...")
        return "{" + ", ".join(parts) + "}"
    return str(schema["type"])


def _merged(forms: Sequence[Json]) -> Json:
    """Merge alternative object schemas into one, so that common properties appear only once."""
    properties: Json = {}
    for form in forms:
        for name, value in form["properties"].items():
            merged = properties.setdefault(name, value)
            if merged != value:
                values = [*_choices(merged), *_choices(value)]
                is_choice = _choices(merged) and _choices(value)
                both = {"enum": list(dict.fromkeys(values))}
                properties[name] = both if is_choice else {"anyOf": [merged, value]}
    required = [name for name in properties if all(name in form["required"] for form in forms)]
    shape = {"type": "object", "additionalProperties": False}
    return {**shape, "properties": properties, "required": required}


def _choices(schema: Json) -> list[Any]:
    return [schema["const"]] if "const" in schema else schema.get("enum", [])


def _joined(one: Content, other: Content) -> Content:
    """Join two message contents; the result is a list of blocks if either of them is."""
    if isinstance(one, str) and isinstance(other, str):
        return f"{one}\n\n{other}"
    parts = ([{"type": "text", "text": c}] if isinstance(c, str) else c for c in (one, other))
    return [block for part in parts for block in part]


def _say_message(message: BaseMessage) -> tuple[Content, type[BaseMessage]]:
    if isinstance(message, SystemMessage):
        return message.text, SystemMessage
    if isinstance(message, AIMessage):
        actions = [
            json.dumps({"tool": call["name"], "arguments": call["args"]}, ensure_ascii=False)
            for call in message.tool_calls
        ]
        return "\n".join([*([message.text] if message.text else []), *actions]), AIMessage
    if isinstance(message, ToolMessage):
        outcome = "failed" if message.status == "error" else "says"
        return f"{message.name or 'tool'} {outcome}: {message.text}", HumanMessage
    return message.content, HumanMessage
