"""The recorded brain: the answers of a journal, each to the question that it was given to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from langchain_core.messages import AIMessage, ToolCall
from langchain_core.messages.ai import UsageMetadata

from agent.brains import BrainContext, Mode, Turn
from memory.errors import BrainError
from memory.events import Event, ModelCallEvent
from memory.journal import read_events


class JournalBrain:
    """Gives the answer that the journal holds for this round and this many answers before it."""

    mode: Mode = "native"

    def __init__(self, events: Sequence[Event]) -> None:
        self._answers = {e.key: e for e in events if isinstance(e, ModelCallEvent)}

    def decide(self, turn: Turn) -> AIMessage:
        """Return the recorded answer; raises BrainError where there is none."""
        event = self._answers.get(f"model_call/{turn.round}/{turn.number}")
        if event is None:
            raise BrainError(
                f"The journal has no answer number {turn.number + 1} of round {turn.round}."
            )
        return answer_of(event)


def answer_of(event: ModelCallEvent) -> AIMessage:
    """Return an answer, with the tokens that it took."""
    tokens = event.tokens
    return AIMessage(
        content=event.answer.content,
        tool_calls=[ToolCall(name=c.name, args=c.args, id=c.id) for c in event.answer.tool_calls],
        response_metadata={"author": event.author, "retries": event.retries},
        usage_metadata=UsageMetadata(
            input_tokens=tokens.prompt, output_tokens=tokens.answer, total_tokens=tokens.total
        ),
    )


def build(argument: str, context: BrainContext) -> JournalBrain:
    """Build `recorded:JOURNAL`, the path of a journal.jsonl."""
    return JournalBrain(read_events(Path(argument)))
