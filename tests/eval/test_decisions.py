from __future__ import annotations

import pytest

from eval.decisions import decisions, legal_share
from memory.events import (
    Event,
    FallbackEvent,
    HeadEvent,
    IllegalCallEvent,
    Message,
    ModelCallEvent,
    Tokens,
    ToolCallEvent,
)

BRAIN = "openai:small"


def call(round_number: int, author: str = BRAIN) -> ModelCallEvent:
    return ModelCallEvent(
        round=round_number,
        author=author,
        answer=Message(role="ai", content=""),
        tokens=Tokens(prompt=100, answer=7),
        usd=0.01,
        seconds=2.0,
    )


EVENTS: list[Event] = [
    HeadEvent(session="night", target="elpv"),
    call(1),
    IllegalCallEvent(round=1, author=BRAIN),
    call(1),
    ToolCallEvent(round=1, author=BRAIN, tool="finish"),
    FallbackEvent(round=1),
    call(1, "policy:thompson"),
    ToolCallEvent(round=1, author="policy:thompson", tool="finish"),
    call(2),
    ToolCallEvent(round=2, author=BRAIN, tool="finish"),
]


def test_counts_what_the_brain_itself_did() -> None:
    first, second = decisions(BRAIN, EVENTS)
    assert (first.n_answers, first.n_legal, first.n_illegal, first.n_fallbacks) == (2, 1, 1, 1)
    assert (first.prompt_tokens, first.answer_tokens, first.seconds) == (200, 14, 4.0)
    assert first.usd == pytest.approx(0.02)
    assert (second.n_legal, second.n_illegal, second.n_fallbacks) == (1, 0, 0)
    assert legal_share([first, second]) == pytest.approx(2 / 3)


def test_without_calls_there_is_no_share() -> None:
    assert decisions(BRAIN, EVENTS[:1]) == []
    assert legal_share([]) is None
