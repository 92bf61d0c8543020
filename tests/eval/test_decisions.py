from __future__ import annotations

from typing import Any

import pytest

from eval.decisions import decisions, legal_share

BRAIN = "openai:small"


def call(round_number: int, author: str = BRAIN) -> dict[str, Any]:
    return {
        "kind": "model_call",
        "round": round_number,
        "author": author,
        "tokens": {"prompt": 100, "answer": 7},
        "usd": 0.01,
        "seconds": 2.0,
    }


EVENTS: list[dict[str, Any]] = [
    {"kind": "session", "session": "night"},
    call(1),
    {"kind": "illegal_call", "round": 1, "author": BRAIN},
    call(1),
    {"kind": "tool_call", "round": 1, "author": BRAIN},
    {"kind": "fallback", "round": 1},
    call(1, "policy:thompson"),
    {"kind": "tool_call", "round": 1, "author": "policy:thompson"},
    call(2),
    {"kind": "tool_call", "round": 2, "author": BRAIN},
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
