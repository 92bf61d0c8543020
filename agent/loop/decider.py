"""Asks the brain for the next step, within its budgets, and journals question and answer.

Where a language model cannot decide (no connection, no budget left, one illegal call after the
other), the policy brain takes the step in its place: journaled as a fallback, shown in the report.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, AnyMessage, ToolMessage

from agent.brains.actions import storable
from agent.brains.spending import Spending, Usage, estimate_tokens, spent
from agent.config.settings import LLMSettings
from agent.loop.recording import offer
from agent.loop.state import ADVANCES, RoundState
from memory.errors import BrainError
from memory.journal import Event, Journal

# What is left of an old tool result when the prompt has to become shorter.
_SHORT = 200


class Decider:
    """Asks one brain; `fallback` steps in for it, or is None for brains that need none."""

    def __init__(
        self,
        brain: BaseChatModel,
        author: str,
        fallback: BaseChatModel | None,
        journal: Journal,
        settings: LLMSettings,
    ) -> None:
        self._brain = brain
        self._author = author
        self._fallback = fallback
        self._journal = journal
        self._settings = settings
        self._asleep_until = 0.0
        self._spending = spent(journal, author, settings)

    @property
    def spending(self) -> Spending:
        """What is spent so far; a person may have talked to the same model meanwhile."""
        self._spending.take_in(self._journal)
        return self._spending

    @property
    def has_fallback(self) -> bool:
        """Tell whether a policy steps in after illegal calls."""
        return self._fallback is not None

    @property
    def plans_briefly(self) -> bool:
        """Tell whether the brain speaks JSON actions, as small models do."""
        return getattr(self._brain, "mode", "native") == "json"

    def ask(self, state: RoundState, tools: Sequence[dict[str, Any]]) -> AIMessage:
        """Return the next message of the round; `tools` are the legal ones.

        An answer that was journaled before a crash is not asked for again.
        """
        number = sum(isinstance(m, AIMessage) for m in state["messages"])
        key = f"model_call/{state['round']}/{number}"
        if recorded := self._journal.get(key):
            return _from_json(recorded)
        started = time.monotonic()
        messages = fit(state["messages"], self._settings.context_tokens)
        reason = self._reason_against(state, messages, tools)
        answer = None
        if reason is None:
            try:
                answer = self._brain.bind_tools(tools).invoke(messages)
            except BrainError as error:
                self._asleep_until = time.monotonic() + self._settings.cool_down_s
                reason = str(error)
        if answer is None:
            answer = self._fall_back(state, tools, number, str(reason))
            author, usage = f"policy:{self._settings.fallback}", Usage(0, 0, 0.0)
        else:
            author, usage = self._author, self.spending.usage(answer)
        name, told = offer(tools, "json" if self.plans_briefly else "native")
        self._journal.append("tools", key=f"tools/{name}", **told)
        event = self._journal.append(
            "model_call",
            key=key,
            round=state["round"],
            phase=state["phase"],
            author=author,
            tools=[tool["function"]["name"] for tool in tools],
            offer=name,
            messages=[message_to_json(m) for m in _news(state["messages"])],
            answer=message_to_json(answer),
            tokens={"prompt": usage.prompt, "answer": usage.answer},
            usd=usage.usd,
            seconds=round(time.monotonic() - started, 3),
        )
        return _from_json(event)

    def _reason_against(
        self, state: RoundState, messages: Sequence[AnyMessage], tools: Sequence[dict[str, Any]]
    ) -> str | None:
        """Return why the brain must not be asked now, or None."""
        if self._fallback is None:
            return None
        if state["n_illegal"] >= self._settings.max_illegal:
            last = next((str(m.content) for m in reversed(messages)), "")
            return f"{state['n_illegal']} illegal calls in a row; the last answer to one: {last}"
        if time.monotonic() < self._asleep_until:
            return f"the model failed less than {self._settings.cool_down_s:g} s ago"
        return self.spending.reason_against(messages, tools)

    def _fall_back(
        self, state: RoundState, tools: Sequence[dict[str, Any]], number: int, reason: str
    ) -> AIMessage:
        """Let the policy take the step that ends the phase."""
        if self._fallback is None:
            raise BrainError(f"The brain {self._author} gave no answer: {reason}")
        self._journal.append(
            "fallback",
            key=f"fallback/{state['round']}/{number}",
            round=state["round"],
            phase=state["phase"],
            reason=reason[:1000],
        )
        ending = [tool for tool in tools if tool["function"]["name"] in ADVANCES]
        answer = self._fallback.bind_tools(ending).invoke(state["messages"])
        assert isinstance(answer, AIMessage)
        return answer


def fit(messages: Sequence[AnyMessage], max_tokens: int) -> list[AnyMessage]:
    """Return the messages, old tool results shortened from the oldest on until they fit.

    The opening (who you are, what is known) and the last message are never touched: the opening
    is cut to the budget where it is written.
    """
    fitted = list(messages)
    for i, message in enumerate(fitted[:-1]):
        if estimate_tokens(fitted) <= max_tokens:
            break
        text = str(message.content)
        if isinstance(message, ToolMessage) and len(text) > _SHORT:
            fitted[i] = message.model_copy(update={"content": f"{text[:_SHORT]} ... (shortened)"})
    return fitted


def message_to_json(message: AnyMessage) -> dict[str, Any]:
    """Return what a message says, without what a policy brain reads beside it."""
    found: dict[str, Any] = {"role": message.type, "content": str(message.content)}
    if isinstance(message, AIMessage):
        found["tool_calls"] = [
            {"name": call["name"], "args": call["args"], "id": call["id"]}
            for call in message.tool_calls
        ]
    if isinstance(message, ToolMessage):
        found |= {"name": message.name, "id": message.tool_call_id, "status": message.status}
    safe: dict[str, Any] = storable(found)
    return safe


def _from_json(event: Event) -> AIMessage:
    answer = event["answer"]
    return AIMessage(
        content=answer["content"],
        tool_calls=answer["tool_calls"],
        response_metadata={"author": event["author"]},
    )


def _news(messages: Sequence[AnyMessage]) -> Sequence[AnyMessage]:
    """Return what the brain has not been told before: all after its last answer."""
    last = max((i for i, m in enumerate(messages) if isinstance(m, AIMessage)), default=-1)
    return messages[last + 1 :]
