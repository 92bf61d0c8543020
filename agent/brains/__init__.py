"""Brains, which decide the next step of a round; one file per kind, which `build` finds by name.

There are two kinds. A chat model, which may be any LangChain chat model, reads messages and answers
by tool calls. A planner reads an observation and needs no language model. Both take a `Turn`, so
the loop asks them in the same way.

A brain file defines a function `build(argument, context)`, which returns a chat model or a `Brain`;
`argument` is the part after the colon, as in `policy:thompson`.
"""

from __future__ import annotations

import difflib
import os
import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from langchain_core.callbacks import BaseCallbackHandler
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, ToolCall
from langchain_core.messages.ai import UsageMetadata
from langchain_core.runnables.config import ensure_config, merge_configs
from tenacity import RetryCallState

from agent.config.sections import LLMSettings
from agent.planners import AttributeDistribution, Observation
from memory.errors import BrainError, SettingsError, ShapingError
from memory.events import ModelCallEvent
from prompts.vocabulary import Vocabulary
from tools.plugins import load, names

Mode = Literal["native", "json"]

_PLANNERS = "policy"
# Environment variables that clients of language models read.
_OF_CLIENTS = (
    "OPENAI_BASE_URL", "OPENAI_API_BASE", "OLLAMA_HOST", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY",
    "http_proxy", "https_proxy", "all_proxy",
)  # fmt: skip


@dataclass(frozen=True)
class BrainContext:
    """The part of a session that brains are built from."""

    distribution: AttributeDistribution
    vocabulary: Vocabulary
    llm: LLMSettings


@dataclass(frozen=True)
class Turn:
    """One question to a brain.

    Attributes:
        round: Number of the round.
        number: Number of answers in the round so far.
        messages: The conversation of the round.
        tools: The tools that are legal now, in OpenAI's function format.
        observe: Returns the observation of a planner.
        notify: Called with messages about retries while the brain is asked.
    """

    round: int
    number: int
    messages: Sequence[AnyMessage]
    tools: Sequence[dict[str, Any]]
    observe: Callable[[], Observation]
    notify: Callable[[str], None] = lambda text: None

    @property
    def legal(self) -> list[str]:
        """Names of the tools that are legal now."""
        return [tool["function"]["name"] for tool in self.tools]


class Brain(Protocol):
    """Decides the next step of a round."""

    @property
    def mode(self) -> Mode:
        """Whether the brain calls tools natively or, as small models do, by JSON actions."""

    def decide(self, turn: Turn) -> AIMessage:
        """Return a message with the next tool calls; raises BrainError if there is no answer."""


@dataclass
class ChatBrain:
    """A chat model as a brain, which is not asked for `cool_down_s` seconds after a failure."""

    model: BaseChatModel
    cool_down_s: float
    _rests_until: float = field(default=0.0, init=False)
    _why: str = field(default="", init=False)

    @property
    def mode(self) -> Mode:
        """How the model calls tools."""
        mode: Mode = getattr(self.model, "mode", "native")
        return mode

    def decide(self, turn: Turn) -> AIMessage:
        """Return the model's answer; raises BrainError if it fails or has failed just before."""
        if time.monotonic() < self._rests_until:
            raise BrainError(f"the model failed less than {self.cool_down_s:g} s ago: {self._why}")
        try:
            # In addition to the callbacks of the graph, which stream and trace.
            config = merge_configs(ensure_config(), {"callbacks": [_Retries(turn.notify)]})
            return self.model.bind_tools(turn.tools).invoke(list(turn.messages), config)
        except BrainError as error:
            self._why = str(error)
            self._rests_until = time.monotonic() + self.cool_down_s
            raise


class _Retries(BaseCallbackHandler):
    """Reports requests that are retried."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify

    def on_retry(self, retry_state: RetryCallState, **_: Any) -> None:
        """Report the reason and the time until the next request."""
        error = retry_state.outcome.exception() if retry_state.outcome else None
        reason = re.sub(r" \(\d+ tr(?:y|ies)\)", "", str(error))  # the maximum number of tries
        self._notify(
            f"Request {retry_state.attempt_number} failed, the next one comes in "
            f"{retry_state.upcoming_sleep:.1f} s: {reason}"
        )


def build(spec: str, context: BrainContext) -> Brain:
    """Build the brain KIND:ARGUMENT; raises SettingsError if it is unknown or cannot be built."""
    kind, _, argument = spec.partition(":")
    if kind not in (known := names("agent.brains")):
        raise SettingsError(f"Unknown brain {spec!r}. {_near(spec)} Kinds: {', '.join(known)}.")
    try:
        built: BaseChatModel | Brain = load("agent.brains", kind)(argument, context)
    except ShapingError:
        raise
    except Exception as error:
        # Clients read the environment, some of them on import, and raise errors of many types.
        given = [name for name in _OF_CLIENTS if name in os.environ]
        raise SettingsError(
            f"The client of the brain {spec!r} cannot be built: {str(error).rstrip('.')}. Correct "
            "or unset what it reads from the environment: "
            f"{', '.join(given) or 'none of its variables is set'}."
        ) from error
    if isinstance(built, BaseChatModel):
        return ChatBrain(built, context.llm.cool_down_s)
    return built


def _near(spec: str) -> str:
    """Suggest a brain for an unknown name, whose kind is misspelt or missing."""
    first, _, argument = re.sub(r"[/ ]+", ":", spec.strip(), count=1).partition(":")
    kind = first.lower().replace("-", "")
    meant = difflib.get_close_matches(kind, names("agent.brains"), 1, 0.8)
    if meant and argument:
        return f"Did you mean {meant[0]}:{argument}?"
    if planner := difflib.get_close_matches(spec.lower(), names("agent.planners"), 1, 0.75):
        return f"Did you mean {_PLANNERS}:{planner[0]}?"
    return (
        f"If {spec!r} is a language model: openai:{spec} for OpenAI or a server that is compatible "
        f"with it, ollama:{spec} for Ollama. Without one: {_PLANNERS}:audited_failure."
    )


def planner_of(brain: str) -> str | None:
    """Return the planner of a brain KIND:ARGUMENT, or None if the brain is not a planner."""
    kind, _, argument = brain.partition(":")
    return argument if kind == _PLANNERS else None


def planner_brain(planner: str) -> str:
    """Return the name of a planner as a brain, e.g. `policy:thompson`."""
    return f"{_PLANNERS}:{planner}"


def answer_of(event: ModelCallEvent) -> AIMessage:
    """Return a journaled answer as a message, with its token usage."""
    tokens = event.tokens
    return AIMessage(
        content=event.answer.content,
        tool_calls=[ToolCall(name=c.name, args=c.args, id=c.id) for c in event.answer.tool_calls],
        response_metadata={"author": event.author, "retries": event.retries},
        usage_metadata=UsageMetadata(
            input_tokens=tokens.prompt, output_tokens=tokens.answer, total_tokens=tokens.total
        ),
    )
