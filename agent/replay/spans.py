"""A session's journal as OpenTelemetry spans in the names of OpenInference.

session (AGENT) -> round (CHAIN) -> model call (LLM), tool call (TOOL). The ids follow from the
session and the keys of its events: spans that are written or sent again are the same ones.
https://github.com/Arize-ai/openinference/tree/main/spec
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from agent.brains import planner_of
from memory.journal import Event, round_of

Value = str | int | float | bool
Attributes = dict[str, Value]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# What happens within a round or a session and takes no time of its own.
_OF_PEOPLE = {"wish", "forget", "addition", "told", "plan_edit", "steered", "answer", "approval"}
_MOMENTS = _OF_PEOPLE | {"resumed", "fault", "paused", "ended", "fallback", "verdict", "round_done"}
_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}


@dataclass(frozen=True)
class Moment:
    """Something that happened within a span; time_ns: since 1970, UTC."""

    name: str
    time_ns: int
    attributes: Attributes


@dataclass(frozen=True)
class Span:
    """One span; ids in hex (32 and 16 digits), times in ns since 1970, error "" for none."""

    trace_id: str
    id: str
    parent: str | None
    name: str
    start_ns: int
    end_ns: int
    attributes: Attributes
    moments: tuple[Moment, ...] = ()
    error: str = ""


@dataclass
class _Open:
    """A span that is not yet at its end: a round or the session."""

    key: str
    name: str
    start_ns: int
    end_ns: int
    attributes: Attributes
    moments: list[Moment] = field(default_factory=list)

    def reach(self, start_ns: int, end_ns: int) -> None:
        """Make room for what happens inside."""
        self.start_ns, self.end_ns = min(self.start_ns, start_ns), max(self.end_ns, end_ns)


def spans(events: Sequence[Event]) -> list[Span]:
    """Return the spans of a journal's events, the session first; none without its head."""
    head = next((e for e in events if e["kind"] == "session"), None)
    return list(_spans(head, events)) if head else []


def _spans(head: Event, events: Sequence[Event]) -> Iterator[Span]:
    forks = [e["session"] for e in events if e["kind"] == "forked"]
    name = str([head["session"], *forks][-1])
    trace_id = _id(f"{name} {head['time']}", 32)
    common: Attributes = {"session.id": name}
    offers = {e["key"]: e["tools"] for e in events if e["kind"] == "tools"}
    began = _ns(head)
    session = _Open("session", f"session {name}", began, began, _session(head))
    rounds: dict[int, _Open] = {}
    told: dict[int, list[Mapping[str, Any]]] = {}
    inner: list[Span] = []

    def make(key: str, parent: str | None, event: Event, **parts: Any) -> Span:
        end = _ns(event)
        start = end - round(event.get("seconds", 0.0) * 1e9)
        attributes = common | parts.pop("attributes")
        return Span(
            trace_id,
            _id(f"{trace_id} {key}", 16),
            parent and _id(f"{trace_id} {parent}", 16),
            start_ns=start,
            end_ns=end,
            attributes=attributes,
            **parts,
        )

    for n, event in enumerate(events):
        kind, now = event["kind"], _ns(event)
        number = round_of(event) if kind != "ended" else None
        if number:
            holder = rounds.setdefault(
                number, _Open(f"round/{number}", f"round {number}", now, now, _round(number))
            )
        else:
            holder = session
        key = event.get("key") or f"line/{n}"
        found: Span | None = None
        if kind == "model_call":
            before = told.setdefault(event["round"], [])
            before += event["messages"]
            attributes = _model_call(event, before, offers.get(f"tools/{event['offer']}", []))
            before.append(event["answer"])
            found = make(key, holder.key, event, name=event["author"], attributes=attributes)
        elif kind == "chat_call":
            attributes = _chat_call(event)
            found = make(key, holder.key, event, name=event["author"], attributes=attributes)
        elif kind in ("tool_call", "illegal_call"):
            found = make(
                key,
                holder.key,
                event,
                name=event["tool"] or "no tool",
                attributes=_tool_call(event),
                error=event.get("problem") or (event["result"] if event.get("rejected") else ""),
            )
        elif kind in _MOMENTS:
            holder.moments.append(Moment(kind, now, _moment(event)))
        _outcome(holder.attributes, event)
        holder.reach(found.start_ns if found else now, now)
        if found:
            inner.append(found)
    for open_ in rounds.values():
        session.reach(open_.start_ns, open_.end_ns)
    for open_ in (session, *(rounds[number] for number in sorted(rounds))):
        parent = None if open_ is session else _id(f"{trace_id} session", 16)
        yield Span(
            trace_id,
            _id(f"{trace_id} {open_.key}", 16),
            parent,
            open_.name,
            open_.start_ns,
            open_.end_ns,
            common | open_.attributes,
            tuple(open_.moments),
        )
    yield from inner


def _session(head: Event) -> Attributes:
    settings = head["settings"]
    return {
        "openinference.span.kind": "AGENT",
        "agent.name": settings["brain"],
        **_json("input", {"target": head["target"], **settings["session"]}),
        **_metadata({"target": head["target"], "brain": settings["brain"]}),
    }


def _round(number: int) -> Attributes:
    return {"openinference.span.kind": "CHAIN", **_metadata({"round": number})}


def _outcome(attributes: Attributes, event: Event) -> None:
    """Say of a round, or of the session, what it aimed at and what has come of it."""
    if event["kind"] == "plan":
        attributes |= _text("input", event["plan"]["why"])
    elif event["kind"] == "report":
        figures = {name: metric["value"] for name, metric in event["report"]["metrics"].items()}
        attributes |= _json("output", figures)
    elif event["kind"] == "ended":
        attributes |= _text("output", event["told"])


def _model_call(
    event: Event, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]]
) -> Attributes:
    found = _call(event) | {"metadata": json.dumps({"phase": event["phase"]})}
    for n, message in enumerate(messages):
        found |= _message(f"llm.input_messages.{n}", message)
    found |= _message("llm.output_messages.0", event["answer"])
    for n, tool in enumerate(tools):
        found[f"llm.tools.{n}.tool.json_schema"] = json.dumps(tool, ensure_ascii=False)
    answer = event["answer"]
    said = answer["content"] or json.dumps(answer["tool_calls"], ensure_ascii=False)
    return (
        found | _text("input", messages[-1]["content"] if messages else "") | _text("output", said)
    )


def _chat_call(event: Event) -> Attributes:
    question = {"role": "human", "content": event["question"]}
    answer = {"role": "ai", "content": event["answer"] or ""}
    return (
        _call(event)
        | _message("llm.input_messages.0", question)
        | _message("llm.output_messages.0", answer)
        | _text("input", event["question"])
        | _text("output", event["answer"] or "")
    )


def _call(event: Event) -> Attributes:
    tokens = event["tokens"]
    provider, _, model = event["author"].partition(":")
    is_policy = planner_of(event["author"]) is not None
    found: Attributes = {
        "openinference.span.kind": "LLM",
        "llm.model_name": event["author"] if is_policy or not model else model,
        "llm.token_count.prompt": tokens["prompt"],
        "llm.token_count.completion": tokens["answer"],
        "llm.token_count.total": tokens["prompt"] + tokens["answer"],
    }
    if model and not is_policy:
        found["llm.provider"] = provider
    if event["usd"]:
        found["llm.cost.total"] = event["usd"]
    return found


def _message(where: str, message: Mapping[str, Any]) -> Attributes:
    found: Attributes = {
        f"{where}.message.role": _ROLES[message["role"]],
        f"{where}.message.content": message["content"],
    }
    for n, call in enumerate(message.get("tool_calls", ())):
        prefix = f"{where}.message.tool_calls.{n}.tool_call"
        found[f"{prefix}.id"] = call["id"]
        found[f"{prefix}.function.name"] = call["name"]
        found[f"{prefix}.function.arguments"] = json.dumps(call["args"], ensure_ascii=False)
    if message["role"] == "tool":
        found[f"{where}.message.tool_call_id"] = message["id"]
        found[f"{where}.message.name"] = message["name"] or ""
    return found


def _tool_call(event: Event) -> Attributes:
    found: Attributes = {
        "openinference.span.kind": "TOOL",
        **_metadata({"phase": event["phase"], "author": event["author"]}),
    }
    if event["tool"]:
        found["tool.name"] = event["tool"]
    if event["kind"] == "illegal_call":
        return found | _text("input", event["said"]) | _text("output", event["problem"])
    arguments = _json("input", event["arguments"])
    found["tool.id"] = str(event["key"]).rpartition("/")[2]
    return (
        found
        | {"tool.parameters": arguments["input.value"]}
        | arguments
        | _text("output", event["result"])
    )


def _moment(event: Event) -> Attributes:
    found: Attributes = {}
    for name, value in event.items():
        if name in ("schema", "time", "kind", "key", "chain", "round", "settings") or value is None:
            continue
        plain = isinstance(value, str | int | float | bool)
        found[name] = value if plain else json.dumps(value, ensure_ascii=False)
    return found


def _text(side: str, value: str) -> Attributes:
    return {f"{side}.value": value, f"{side}.mime_type": "text/plain"}


def _json(side: str, value: Any) -> Attributes:
    text = json.dumps(value, ensure_ascii=False)
    return {f"{side}.value": text, f"{side}.mime_type": "application/json"}


def _metadata(value: Mapping[str, Any]) -> Attributes:
    return {"metadata": json.dumps(value, ensure_ascii=False)}


def _ns(event: Event) -> int:
    # By whole microseconds: a float of seconds since 1970 is exact to a few hundred ns only.
    return (datetime.fromisoformat(event["time"]) - _EPOCH) // timedelta(microseconds=1) * 1000


def _id(text: str, n_digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:n_digits]
