"""The state of one round's graph: plain JSON and messages, nothing else."""

from __future__ import annotations

from typing import Annotated, TypedDict

from langchain_core.messages import AnyMessage
from langgraph.graph.message import add_messages

# What the agent may call in each phase; a tool that ends its phase moves on to the next one.
PHASES: dict[str, tuple[str, ...]] = {
    "plan": ("recall_memory", "inspect_failures", "propose_plan"),
    "generate": ("generate_batch",),
    "train": ("train_dstm",),
    "evaluate": ("evaluate_real",),
    "review": ("inspect_failures", "finish"),
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
    """State of one LangGraph thread, which is one round."""

    round: int
    phase: str
    messages: Annotated[list[AnyMessage], add_messages]
    n_illegal: int
