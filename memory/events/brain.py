"""The context of the brain at the start of a round, its calls, and its answers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from memory.events.base import AsGiven, Event, FailureText, Occasional, RoundEvent
from memory.records import Record


class Tokens(Record):
    """Tokens of one call to a language model.

    Attributes:
        prompt: Tokens of the messages to the model.
        answer: Tokens of its answer.
    """

    prompt: int = Field(ge=0)
    answer: int = Field(ge=0)

    @property
    def total(self) -> int:
        """Tokens of messages and answer together."""
        return self.prompt + self.answer


class ToolRequest(AsGiven):
    """A tool call as a brain requests it.

    Attributes:
        name: Name of the tool.
        args: Arguments of the call.
        id: Id of the call, unique in the round.
    """

    name: str
    args: dict[str, Any] = Field({})
    id: str | None = None


class Message(AsGiven):
    """A message to or from a brain.

    Attributes:
        role: `system`, `human`, `ai`, or `tool`.
        content: Text of the message.
        tool_calls: For the role `ai`: the requested calls.
        name: For the role `tool`: name of the tool.
        id: For the role `tool`: id of the call whose result this is.
        status: For the role `tool`: `success` or `error`.
        images: SHA-256 of the pictures that a vision model is shown with the message, each in
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
    """The data from which the first message of the round is rendered.

    Attributes:
        facts: Budget, wishes and memory hits in full; reports, failures and verdicts by the number
            of their round; see `agent.loop.context.Facts`.
        images: SHA-256 of the pictures of the message, see `model_call`.
    """

    kind: Literal["opening"] = "opening"
    facts: dict[str, Any] = Field({})
    images: Occasional[tuple[str, ...]] = ()


class ToolsEvent(Event):
    """A set of offered tools, written once; `offer` of the calls refers to its key.

    Attributes:
        mode: How tools are called: `native`, or `json` for models that answer in JSON.
        tools: JSON schemas of the tools.
        text: For the mode `json`: the tools as text.
    """

    kind: Literal["tools"] = "tools"
    mode: str = "native"
    tools: tuple[dict[str, Any], ...] = ()
    text: Occasional[str] = Field("", alias="said")


class FallbackEvent(RoundEvent):
    """The policy answers in place of the model.

    Attributes:
        phase: Phase of the round.
        reason: Why the model did not answer.
    """

    kind: Literal["fallback"] = "fallback"
    phase: str = ""
    reason: FailureText = ""


class ModelCallEvent(RoundEvent):
    """A request to a brain and its answer.

    Attributes:
        phase: Phase of the round.
        author: The brain that answers, e.g. `policy:thompson`.
        tools: Names of the tools that it may call.
        offer: Identifies the event `tools` with their schemas, whose key is `tools/OFFER`.
        messages: The messages since the previous answer.
        answer: Text and tool calls.
        tokens: Tokens of the messages and of the answer, 0 where they are not counted.
        usd: Cost in US dollars.
        seconds: Time until the answer.
        retries: Number of failed requests before the answer.
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
    """A legal tool call and its result; the key ends with the id of the call.

    Attributes:
        phase: Phase of the round.
        author: The brain that called.
        tool: Name of the tool.
        arguments: Arguments of the call.
        result: Text that is returned to the brain.
        seconds: Time of the call.
        rejected: Whether a person rejected the proposed plan.
        images: For `look_at`: SHA-256 of its picture, see `model_call`.
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
    """An answer that is not a legal tool call; nothing was executed.

    Attributes:
        phase: Phase of the round.
        author: The brain that answered.
        tool: Name of the called tool, None without a call.
        answer: Text of the answer, or the arguments of the call.
        problem: Error message that is returned to the brain.
    """

    kind: Literal["illegal_call"] = "illegal_call"
    phase: str = ""
    author: str = ""
    tool: str | None = None
    answer: str = Field("", alias="said")
    problem: str = ""
