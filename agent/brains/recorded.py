"""The recorded brain: the answers of a journal, each to the question that it was given to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from langchain_core.messages import AIMessage, BaseMessage
from langchain_core.messages.ai import UsageMetadata
from pydantic import Field

from agent.brains import BrainContext
from agent.brains._local import LocalBrain
from memory.errors import BrainError
from memory.journal import Event, read_events


class RecordedBrain(LocalBrain):
    """Gives the answer that the journal holds for this round and this many answers before it."""

    answers: dict[str, Any] = Field(description="events of kind model_call by their key")

    @property
    def _llm_type(self) -> str:
        return "recorded"

    def answer(self, messages: list[BaseMessage], legal: list[str]) -> AIMessage:
        """Return the recorded answer; raises BrainError where there is none."""
        number = sum(isinstance(m, AIMessage) for m in messages)
        round_number = next(
            m.additional_kwargs["observation"]["round"]
            for m in messages
            if "observation" in m.additional_kwargs
        )
        event = self.answers.get(f"model_call/{round_number}/{number}")
        if event is None:
            raise BrainError(
                f"The journal has no answer number {number + 1} of round {round_number}."
            )
        n_in, n_out = event["tokens"]["prompt"], event["tokens"]["answer"]
        return AIMessage(
            content=event["answer"]["content"],
            tool_calls=event["answer"]["tool_calls"],
            usage_metadata=UsageMetadata(
                input_tokens=n_in, output_tokens=n_out, total_tokens=n_in + n_out
            ),
        )


def from_events(events: list[Event]) -> RecordedBrain:
    """Build the brain from a journal's events."""
    return RecordedBrain(answers={e["key"]: e for e in events if e["kind"] == "model_call"})


def build(argument: str, context: BrainContext) -> RecordedBrain:
    """Build `recorded:JOURNAL`, the path of a journal.jsonl."""
    return from_events(read_events(Path(argument)))
