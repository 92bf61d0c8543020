"""OpenTelemetry spans of a session's journal, with the attributes of OpenInference.

session (AGENT) -> round (CHAIN) -> model call (LLM), tool call (TOOL). The ids are derived from the
session and the keys of its events, so repeated exports have the same ids.
https://github.com/Arize-ai/openinference/tree/main/spec
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from agent.brains import planner_of
from memory.events import (
    ChatCallEvent,
    EndedEvent,
    Event,
    HeadEvent,
    IllegalCallEvent,
    Message,
    ModelCallEvent,
    PlanEvent,
    ReportEvent,
    ToolCallEvent,
    ToolsEvent,
)
from memory.journal import find_head, name_of

Attributes = dict[str, str | int | float | bool]

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# Kinds of events without a duration, which become moments of the span of a round or session.
_MOMENTS = (
    "wish", "forget", "addition", "told", "plan_edit", "steered", "answer", "approval",
    "resumed", "fault", "paused", "ended", "fallback", "verdict", "round_done",
)  # fmt: skip
_ROLES = {"human": "user", "ai": "assistant", "system": "system", "tool": "tool"}


@dataclass(frozen=True)
class Moment:
    """An event of a span, without a duration; time_ns: since 1970, UTC."""

    name: str
    time_ns: int
    attributes: Attributes


@dataclass
class Span:
    """A span; ids in hex (32 and 16 digits), times in ns since 1970, error "" for none."""

    trace_id: str
    id: str
    parent: str | None
    name: str
    start_ns: int
    end_ns: int
    attributes: Attributes
    moments: list[Moment] = field(default_factory=list)
    error: str = ""

    def cover(self, start_ns: int, end_ns: int) -> None:
        """Extend the span to include an interval."""
        self.start_ns, self.end_ns = min(self.start_ns, start_ns), max(self.end_ns, end_ns)


def spans(events: Sequence[Event]) -> list[Span]:
    """Return the spans of a journal's events, the session first; [] without a `HeadEvent`."""
    if (head := find_head(events)) is None:
        return []
    name = name_of(head, events)
    trace_id = _id(f"{name} {head.time}", 32)
    offers = {event.key: event.tools for event in events if isinstance(event, ToolsEvent)}
    heard: dict[int, list[Message]] = defaultdict(list)

    common: Attributes = {"session.id": name}

    def new(key: str, parent: Span | None, title: str, start_ns: int, end_ns: int) -> Span:
        ids = (trace_id, _id(f"{trace_id} {key}", 16), parent.id if parent else None)
        return Span(*ids, title, start_ns, end_ns, dict(common))

    began = _ns(head)
    session = new("session", None, f"session {name}", began, began)
    session.attributes |= _session(head)
    rounds: dict[int, Span] = {}
    calls: list[Span] = []
    for place, event in enumerate(events):
        now = _ns(event)
        number = None if isinstance(event, EndedEvent) else event.round_number
        if number and number not in rounds:
            rounds[number] = new(f"round/{number}", session, f"round {number}", now, now)
            rounds[number].attributes |= _kind("CHAIN") | _metadata({"round": number})
        holder = rounds[number] if number else session
        start = now
        if isinstance(event, ModelCallEvent | ChatCallEvent | ToolCallEvent | IllegalCallEvent):
            call = new(event.key or f"line/{place}", holder, "", now, now)
            if isinstance(event, ModelCallEvent):
                messages, tools = heard[event.round], offers.get(f"tools/{event.offer}", ())
                messages += event.messages
                call.name, call.attributes = event.author, _model_call(event, messages, tools)
                messages.append(event.answer)
            elif isinstance(event, ChatCallEvent):
                call.name, call.attributes = event.author, _chat_call(event)
            else:
                call.name, call.attributes = event.tool or "no tool", _tool_call(event)
                call.error = _error(event)
            call.attributes |= common
            if not isinstance(event, IllegalCallEvent):
                start = call.start_ns = now - round(event.seconds * 1e9)
            calls.append(call)
        elif event.kind in _MOMENTS:
            holder.moments.append(Moment(event.kind, now, _moment(event)))
        holder.attributes |= _outcome(event)
        holder.cover(start, now)
    for span in rounds.values():
        session.cover(span.start_ns, span.end_ns)
    return [session, *(rounds[number] for number in sorted(rounds)), *calls]


def _session(head: HeadEvent) -> Attributes:
    brain = head.settings["brain"]
    return (
        _kind("AGENT")
        | {"agent.name": brain}
        | _json("input", {"target": head.target, **head.settings["session"]})
        | _metadata({"target": head.target, "brain": brain})
    )


def _outcome(event: Event) -> Attributes:
    """Return the input or output of a round or session that an event defines, {} for none."""
    if isinstance(event, PlanEvent):
        return _text("input", event.plan.why)
    if isinstance(event, ReportEvent):
        metrics = event.report.metrics.items()
        return _json("output", {name: metric.value for name, metric in metrics})
    return _text("output", event.message) if isinstance(event, EndedEvent) else {}


def _model_call(
    event: ModelCallEvent, messages: Sequence[Message], tools: Sequence[Mapping[str, Any]]
) -> Attributes:
    attributes = _call(event) | _metadata({"phase": event.phase})
    for n, message in enumerate(messages):
        attributes |= _message(f"llm.input_messages.{n}", message)
    attributes |= _message("llm.output_messages.0", event.answer)
    for n, tool in enumerate(tools):
        attributes[f"llm.tools.{n}.tool.json_schema"] = _dump(tool)
    calls = [call.to_json() for call in event.answer.tool_calls]
    attributes |= _text("input", messages[-1].content if messages else "")
    return attributes | _text("output", event.answer.content or _dump(calls))


def _chat_call(event: ChatCallEvent) -> Attributes:
    question = Message(role="human", content=event.question)
    answer = Message(role="ai", content=event.answer or "")
    return (
        _call(event)
        | _message("llm.input_messages.0", question)
        | _message("llm.output_messages.0", answer)
        | _text("input", question.content)
        | _text("output", answer.content)
    )


def _call(event: ModelCallEvent | ChatCallEvent) -> Attributes:
    provider, _, model = event.author.partition(":")
    is_policy = planner_of(event.author) is not None
    attributes: Attributes = _kind("LLM") | {
        "llm.model_name": event.author if is_policy or not model else model,
        "llm.token_count.prompt": event.tokens.prompt,
        "llm.token_count.completion": event.tokens.answer,
        "llm.token_count.total": event.tokens.total,
    }
    if model and not is_policy:
        attributes["llm.provider"] = provider
    if event.usd:
        attributes["llm.cost.total"] = event.usd
    return attributes


def _message(where: str, message: Message) -> Attributes:
    attributes: Attributes = {
        f"{where}.message.role": _ROLES[message.role],
        f"{where}.message.content": message.content,
    }
    for n, call in enumerate(message.tool_calls):
        prefix = f"{where}.message.tool_calls.{n}.tool_call"
        attributes[f"{prefix}.id"] = call.id or ""
        attributes[f"{prefix}.function.name"] = call.name
        attributes[f"{prefix}.function.arguments"] = _dump(call.args)
    if message.role == "tool":
        attributes[f"{where}.message.tool_call_id"] = message.id or ""
        attributes[f"{where}.message.name"] = message.name or ""
    return attributes


def _tool_call(event: ToolCallEvent | IllegalCallEvent) -> Attributes:
    attributes = _kind("TOOL") | _metadata({"phase": event.phase, "author": event.author})
    if event.tool:
        attributes["tool.name"] = event.tool
    if isinstance(event, IllegalCallEvent):
        return attributes | _text("input", event.answer) | _text("output", event.problem)
    attributes["tool.id"] = str(event.key).rpartition("/")[2]
    attributes["tool.parameters"] = _dump(event.arguments)
    return attributes | _json("input", event.arguments) | _text("output", event.result)


def _error(event: ToolCallEvent | IllegalCallEvent) -> str:
    if isinstance(event, IllegalCallEvent):
        return event.problem
    return event.result if event.rejected else ""


def _moment(event: Event) -> Attributes:
    return {
        name: value if isinstance(value, str | int | float | bool) else _dump(value)
        for name, value in event.content().items()
        if name not in ("round", "settings") and value is not None
    }


def _kind(name: str) -> Attributes:
    return {"openinference.span.kind": name}


def _text(side: str, value: str) -> Attributes:
    return {f"{side}.value": value, f"{side}.mime_type": "text/plain"}


def _json(side: str, value: Any) -> Attributes:
    return {f"{side}.value": _dump(value), f"{side}.mime_type": "application/json"}


def _metadata(value: Mapping[str, Any]) -> Attributes:
    return {"metadata": _dump(value)}


def _dump(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False)


def _ns(event: Event) -> int:
    # In whole microseconds: a float of seconds since 1970 is accurate to a few hundred ns only.
    return (datetime.fromisoformat(event.time) - _EPOCH) // timedelta(microseconds=1) * 1000


def _id(text: str, n_digits: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:n_digits]
