"""What the brain knows at the start of a round, what it is asked, and what it answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from memory.events.base import AsGiven, Event, FailureText, Occasional, RoundEvent
from memory.records import Record


class Tokens(Record):
    """Tokens of one call to a language model.

    Attributes:
        prompt: Of the messages to it.
        answer: Of what it answered.
    """

    prompt: int = Field(ge=0)
    answer: int = Field(ge=0)

    @property
    def total(self) -> int:
        """The sum of both."""
        return self.prompt + self.answer


class ToolRequest(AsGiven):
    """A tool call as a brain asks for it.

    Attributes:
        name: Name of the tool.
        args: Its arguments.
        id: Id of the call, unique in the round.
    """

    name: str
    args: dict[str, Any] = Field({})
    id: str | None = None


class Message(AsGiven):
    """A message to or from a brain.

    Attributes:
        role: `system`, `human`, `ai`, or `tool`.
        content: Its text.
        tool_calls: Of the role `ai`: the calls that it asks for.
        name: Of the role `tool`: name of the tool.
        id: Of the role `tool`: id of the call whose result this is.
        status: Of the role `tool`: `success` or `error`.
        images: SHA-256 of the pictures that a model which sees is shown with it, each in
            `rounds/NNN/seen/SHA256.png`.
    """

    role: str
    content: str
    tool_calls: tuple[ToolRequest, ...] = ()
    name: str | None = None
    id: str | None = None
    status: str | None = None
    images: tuple[str, ...] = ()


class OpeningEvent(RoundEvent):
    """What the first message of the round is rendered from.

    Attributes:
        facts: Budget, wishes and memory hits in full; reports, failures and verdicts by the number
            of their round; as `agent.loop.context.Facts`.
        images: SHA-256 of its pictures, see `model_call`.
    """

    kind: Literal["opening"] = "opening"
    facts: dict[str, Any] = Field({})
    images: Occasional[tuple[str, ...]] = ()


class ToolsEvent(Event):
    """A set of tools as it was offered, once; `offer` of the calls names it by its key.

    Attributes:
        mode: How tools are called: `native`, or `json` for models that answer by JSON.
        tools: JSON schemas of the tools.
        text: The tools in words, of the mode `json`.
    """

    kind: Literal["tools"] = "tools"
    mode: str = "native"
    tools: tuple[dict[str, Any], ...] = ()
    text: Occasional[str] = Field("", alias="said")


class FallbackEvent(RoundEvent):
    """The policy answers in place of the model.

    Attributes:
        phase: Phase of the round.
        reason: Why the model does not answer.
    """

    kind: Literal["fallback"] = "fallback"
    phase: str = ""
    reason: FailureText = ""


class ModelCallEvent(RoundEvent):
    """One question to a brain and its answer.

    Attributes:
        phase: Phase of the round.
        author: The brain that answers, e.g. `policy:thompson`.
        tools: Names of the tools that it may call.
        offer: Names the event `tools` with their schemas, `tools/OFFER`.
        messages: What is new since the answer before.
        answer: Text and tool calls.
        tokens: Tokens of both, 0 where nothing is counted.
        usd: Cost in US dollars.
        seconds: Time until the answer.
        retries: Requests that failed before, if any.
    """

    kind: Literal["model_call"] = "model_call"
    phase: str = ""
    author: str
    tools: tuple[str, ...] = ()
    offer: str = ""
    messages: tuple[Message, ...] = ()
    answer: Message
    tokens: Tokens
    usd: float = 0.0
    seconds: float = 0.0
    retries: Occasional[int] = 0


class ToolCallEvent(RoundEvent):
    """A legal tool call and the text that it gave; the key ends with the id of the call.

    Attributes:
        phase: Phase of the round.
        author: The brain that called.
        tool: Name of the tool.
        arguments: Arguments of the call.
        result: Text that the brain gets.
        seconds: Time of the call.
        rejected: Whether a person rejected the plan that was proposed.
        images: Of `look_at`: SHA-256 of its picture, see `model_call`.
    """

    kind: Literal["tool_call"] = "tool_call"
    phase: str = ""
    author: str = ""
    tool: str
    arguments: dict[str, Any] = Field({})
    result: str = ""
    seconds: float = 0.0
    rejected: Occasional[bool] = False
    images: Occasional[tuple[str, ...]] = ()


class IllegalCallEvent(RoundEvent):
    """An answer that was no legal tool call; nothing was executed.

    Attributes:
        phase: Phase of the round.
        author: The brain that answered.
        tool: Name of the tool that it called, None for none.
        answer: Its text, or the arguments of the call.
        problem: What is wrong with it, as the brain is answered.
    """

    kind: Literal["illegal_call"] = "illegal_call"
    phase: str = ""
    author: str = ""
    tool: str | None = None
    answer: str = Field("", alias="said")
    problem: str = ""
