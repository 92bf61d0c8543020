"""Statistics of a brain's decisions: legal and illegal calls, tokens, cost and time per round."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from pydantic import Field

from memory.events import Event, FallbackEvent, IllegalCallEvent, ModelCallEvent, ToolCallEvent
from memory.records import Record


class Decisions(Record):
    """The decisions of one round; only calls of the brain itself count as legal or illegal.

    prompt_tokens, answer_tokens: sums over the answers; seconds: time spent waiting for answers.
    """

    round: int = Field(ge=1)
    brain: str
    n_answers: int = Field(0, ge=0)
    n_legal: int = Field(0, ge=0)
    n_illegal: int = Field(0, ge=0)
    n_fallbacks: int = Field(0, ge=0)
    prompt_tokens: int = Field(0, ge=0)
    answer_tokens: int = Field(0, ge=0)
    usd: float = Field(0, ge=0)
    seconds: float = Field(0, ge=0)


def decisions(brain: str, events: Iterable[Event]) -> list[Decisions]:
    """Count a session's journalled decisions by round; brain: author whose calls are counted."""
    counts: dict[int, dict[str, Any]] = defaultdict(lambda: defaultdict(int))
    for event in events:
        if not isinstance(event, ModelCallEvent | ToolCallEvent | IllegalCallEvent | FallbackEvent):
            continue
        row = counts[event.round]
        if isinstance(event, FallbackEvent):
            row["n_fallbacks"] += 1
        elif event.author != brain:
            continue
        elif isinstance(event, ModelCallEvent):
            row["n_answers"] += 1
            row["prompt_tokens"] += event.tokens.prompt
            row["answer_tokens"] += event.tokens.answer
            row["usd"] += event.usd
            row["seconds"] += event.seconds
        else:
            row["n_legal" if isinstance(event, ToolCallEvent) else "n_illegal"] += 1
    return [Decisions(round=n, brain=brain, **counts[n]) for n in sorted(counts)]


def legal_share(rows: Iterable[Decisions]) -> float | None:
    """Return the share of the brain's calls that are legal, 0..1; None without any call."""
    rows = list(rows)
    n_legal = sum(row.n_legal for row in rows)
    n_calls = n_legal + sum(row.n_illegal for row in rows)
    return n_legal / n_calls if n_calls else None
