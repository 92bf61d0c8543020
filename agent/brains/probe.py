"""Tests the abilities of a language model: native tool calls, JSON actions and speed."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Literal, get_args

from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from pydantic import Field

from agent.brains import Brain, BrainContext, ChatBrain, build
from agent.brains.remote import CallError, RemoteModel
from memory.errors import BrainError
from memory.events import ProbeEvent
from memory.journal import Journal
from memory.records import Record

Slice = Literal["dark", "bright", "cracked"]


def pick_slice(slice: Slice) -> None:  # noqa: A002
    """Pick the slice that needs more images."""


_MESSAGES = [
    SystemMessage("You choose which images a vision model is trained on. Answer by calling tools."),
    HumanMessage(
        "The model errs on 40% of dark photographs and on 5% of all others. Pick a slice."
    ),
]


class Probe(Record):
    """The result of one tool call in each mode."""

    model: str
    native: bool = Field(description="makes native tool calls")
    json_action: bool = Field(description="makes tool calls as one JSON object with a schema")
    mode: Literal["native", "json"]
    seconds: float = Field(ge=0, description="of the first answer")
    tokens_per_second: float | None = Field(ge=0, description="None: the server counts no tokens")
    detail: str = Field("", max_length=1000, description="failures and their reasons")


def probe(brain: RemoteModel) -> Probe:
    """Request one tool call from a model in each mode.

    Raises BrainError if the server cannot be reached, or if the model fails in both modes.
    """
    works: dict[str, bool] = {}
    speeds: list[tuple[float, float | None]] = []
    problems: list[str] = []
    failures: list[CallError] = []
    modes: tuple[Literal["native", "json"], ...] = ("native", "json")
    for mode in modes:
        started = time.monotonic()
        try:
            answer = brain.with_mode(mode).bind_tools([pick_slice]).invoke(_MESSAGES)
        except CallError as error:
            if not error.reached:
                raise
            works[mode] = False
            failures.append(error)
            problems.append(f"{mode}: {error}"[:450].rstrip("."))
            continue
        seconds = time.monotonic() - started
        speeds.append((seconds, _tokens_per_second(answer, seconds)))
        works[mode] = _is_right(answer)
        if not works[mode]:
            problems.append(f"{mode}: answered {_say(answer)}")
    detail = "; ".join(problems)
    if len({str(error) for error in failures}) == 1 and len(failures) == len(modes):
        raise failures[0]  # the server fails in the same way in both modes
    if not any(works.values()):
        raise BrainError(
            f"The model {brain.model!r} at {brain.server.url} makes no tool calls: {detail}. "
            "Choose another model with --brain."
        )
    seconds, speed = speeds[0]
    return Probe(
        model=brain.model,
        native=works["native"],
        json_action=works["json"],
        mode="native" if works["native"] else "json",
        seconds=round(seconds, 3),
        tokens_per_second=speed,
        detail=detail,
    )


def build_probed(spec: str, context: BrainContext, journal: Journal | None = None) -> Brain:
    """Build the brain KIND:ARGUMENT with a mode of tool calls that works for it.

    If `llm.mode` is "auto", a model behind a server is probed; the result is stored in the
    `journal` of a session and reused from there.
    """
    brain = build(spec, context)
    if not (isinstance(brain, ChatBrain) and isinstance(brain.model, RemoteModel)):
        return brain
    if context.llm.mode != "auto":
        return brain
    event = journal.get("probe", ProbeEvent) if journal else None
    result = Probe.model_validate(event.probe) if event else probe(brain.model)
    if journal:
        journal.append(ProbeEvent(key="probe", probe=result.to_json()))
    return replace(brain, model=brain.model.with_mode(result.mode))


def _is_right(answer: AIMessage) -> bool:
    """Return whether an answer is one legal call, with any slice.

    A call that was parsed from the text does not count as native.
    """
    in_text = answer.response_metadata.get("call_in_text", False)
    return (
        not in_text
        and [c["name"] for c in answer.tool_calls] == ["pick_slice"]
        and all(c["args"].get("slice") in get_args(Slice) for c in answer.tool_calls)
    )


def _tokens_per_second(answer: AIMessage, seconds: float) -> float | None:
    usage = answer.usage_metadata
    if not usage or answer.response_metadata.get("usage_estimated"):
        return None
    return round(usage["output_tokens"] / max(seconds, 1e-6), 1)


def _say(answer: AIMessage) -> str:
    calls = [f"{call['name']}({call['args']})" for call in answer.tool_calls]
    return repr(" ".join([str(answer.text), *calls]).strip()[:200])
