"""Tokens and cost of calls to a language model, and their limits, checked before every call."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple, Protocol

from langchain_core.messages import AIMessage, BaseMessage

from agent.brains import planner_of
from agent.config.sections import LLMSettings
from eval.montage import SHEET_PX
from memory.errors import SettingsError
from memory.events import ChatCallEvent, Event, ModelCallEvent

PICTURES = "images"
"""Key in `additional_kwargs` of a message for its pictures, a list of "sha256" and "tokens"."""

# Tokens of a picture of SHEET_PX x SHEET_PX pixels: one per 750 pixels, which most models use at
# most.
PICTURE_TOKENS = SHEET_PX**2 // 750


class CallRecord(Protocol):
    """The part of a journal's interface that is needed to count calls."""

    def appended(self, n_known: int, /) -> Sequence[Event]:
        """Return the events after the first `n_known`."""


class Usage(NamedTuple):
    """Tokens of one call and their cost in US dollars."""

    prompt: int
    answer: int
    usd: float


class Spending:
    """Tokens and money spent so far, compared with `llm.max_tokens` and `llm.max_usd`.

    author: The brain, e.g. openai:MODEL. Raises SettingsError if money is limited and `llm.prices`
    does not contain the model.
    """

    def __init__(self, author: str, llm: LLMSettings) -> None:
        model = author.partition(":")[2]
        self._author, self._llm = author, llm
        self._price = llm.prices.get(model)
        self.n_tokens = 0
        self.usd = 0.0
        self._n_events = 0
        if llm.max_usd is not None and self._price is None and planner_of(author) is None:
            raise SettingsError(
                f"llm.max_usd is set, but the price of the model {model!r} is not known. Add it, "
                f'in USD per million tokens: --set \'llm.prices={{"{model}": '
                '{"prompt": 1.0, "answer": 3.0}}\''
            )

    def is_of(self, author: str, llm: LLMSettings) -> bool:
        """Return whether it counts for this brain with these settings."""
        return (author, llm) == (self._author, self._llm)

    def tokens_left(self) -> int | None:
        """Return the number of tokens left, or None without a limit."""
        limit = self._llm.max_tokens
        return None if limit is None else max(0, limit - self.n_tokens)

    def usd_left(self) -> float | None:
        """Return the money left in US dollars, or None without a limit."""
        limit = self._llm.max_usd
        return None if limit is None else max(0.0, limit - self.usd)

    def reason_against(
        self, messages: Sequence[BaseMessage], tools: Sequence[dict[str, Any]]
    ) -> str | None:
        """Return why the next call might exceed a limit, or None."""
        n_prompt, n_answer = estimate_tokens(messages, tools), self._llm.answer_tokens
        left = self.tokens_left()
        if left is not None and n_prompt + n_answer > left:
            return f"the next call may take {n_prompt + n_answer} tokens and {left} are left"
        usd, usd_left = self._cost(n_prompt, n_answer), self.usd_left()
        if usd_left is not None and usd > usd_left:
            return f"the next call may cost {usd:.4f} USD and {usd_left:.4f} are left"
        return None

    def usage(self, answer: AIMessage) -> Usage:
        """Return the usage of an answer; 0 if its server does not report it."""
        counted = answer.usage_metadata
        if counted is None:
            return Usage(0, 0, 0.0)
        n_prompt, n_answer = counted["input_tokens"], counted["output_tokens"]
        return Usage(n_prompt, n_answer, self._cost(n_prompt, n_answer))

    def add(self, usage: Usage) -> None:
        """Count a call."""
        self.n_tokens += usage.prompt + usage.answer
        self.usd += usage.usd

    def take_in(self, journal: CallRecord) -> None:
        """Count the calls that were added to a journal since the last time.

        These are calls in decisions and in chat, including those of undone rounds.
        """
        events = journal.appended(self._n_events)
        self._n_events += len(events)
        for event in events:
            if isinstance(event, ModelCallEvent | ChatCallEvent):
                self.add(Usage(event.tokens.prompt, event.tokens.answer, event.usd))

    def _cost(self, n_prompt: int, n_answer: int) -> float:
        if self._price is None:
            return 0.0
        return (n_prompt * self._price.prompt + n_answer * self._price.answer) / 1e6


def spent(journal: CallRecord, author: str, llm: LLMSettings) -> Spending:
    """Return the spending of a session so far, see `Spending.take_in`."""
    spending = Spending(author, llm)
    spending.take_in(journal)
    return spending


def estimate_tokens(messages: Sequence[BaseMessage], tools: Sequence[dict[str, Any]] = ()) -> int:
    """Estimate the number of tokens of a prompt: a third of its characters, rounded up.

    English has about four characters per token, figures and JSON about three. The tokens of
    pictures that messages refer to are added.
    """
    n = sum(len(str(m.content)) for m in messages) + len(json.dumps(list(tools)))
    n += sum(len(json.dumps(m.tool_calls)) for m in messages if isinstance(m, AIMessage))
    pictures = [one for m in messages for one in m.additional_kwargs.get(PICTURES, ())]
    return -(-n // 3) + sum(int(one["tokens"]) for one in pictures)
