"""The state of one round's graph: plain JSON and messages, nothing else."""

from __future__ import annotations

from typing import Annotated, TypedDict

from langchain_core.messages import AnyMessage
from langgraph.graph.message import add_messages

# What the agent may call in each phase; a tool that ends its phase moves on to the next one.
PHASES: dict[str, tuple[str, ...]] = {
    "plan": ("recall_memory", "inspect_failures", "ask_user", "propose_plan"),
    "generate": ("generate_batch",),
    "train": ("train_dstm",),
    "evaluate": ("evaluate_real",),
    "review": ("inspect_failures", "recall_memory", "finish"),
    "done": (),
}

ADVANCES: dict[str, str] = {
    "propose_plan": "generate",
    "generate_batch": "train",
    "train_dstm": "evaluate",
    "evaluate_real": "review",
    "finish": "done",
}


class RoundState(TypedDict):
    """State of one LangGraph thread, which is one round.

    n_illegal: illegal or malformed answers in a row; n_lookups: calls of the phase so far, none
    of which has ended it.
    """

    round: int
    phase: str
    messages: Annotated[list[AnyMessage], add_messages]
    n_illegal: int
    n_lookups: int


def new_round(number: int) -> RoundState:
    """Return the state in which a round begins."""
    return RoundState(round=number, phase="plan", messages=[], n_illegal=0, n_lookups=0)
