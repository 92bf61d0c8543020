"""The recorded brain: the answers of a journal, each to the question that it was given to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from langchain_core.messages import AIMessage
from langchain_core.messages.ai import UsageMetadata

from agent.brains import BrainContext, Mode, Turn
from memory.errors import BrainError
from memory.journal import Event, read_events


class RecordedBrain:
    """Gives the answer that the journal holds for this round and this many answers before it."""

    mode: Mode = "native"

    def __init__(self, events: Sequence[Event]) -> None:
        self._answers = {e["key"]: e for e in events if e["kind"] == "model_call"}

    def decide(self, turn: Turn) -> AIMessage:
        """Return the recorded answer; raises BrainError where there is none."""
        event = self._answers.get(f"model_call/{turn.round}/{turn.number}")
        if event is None:
            raise BrainError(
                f"The journal has no answer number {turn.number + 1} of round {turn.round}."
            )
        return answer_of(event)


def answer_of(event: Event) -> AIMessage:
    """Return the answer of an event `model_call`, with the tokens that it took."""
    n_in, n_out = event["tokens"]["prompt"], event["tokens"]["answer"]
    return AIMessage(
        content=event["answer"]["content"],
        tool_calls=event["answer"]["tool_calls"],
        usage_metadata=UsageMetadata(
            input_tokens=n_in, output_tokens=n_out, total_tokens=n_in + n_out
        ),
    )


def build(argument: str, context: BrainContext) -> RecordedBrain:
    """Build `recorded:JOURNAL`, the path of a journal.jsonl."""
    return RecordedBrain(read_events(Path(argument)))
