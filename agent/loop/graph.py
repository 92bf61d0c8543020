"""The graph of one round: observe, think, act, until the phase is done.

    observe -> think -> act -> think -> ... -> END

`think` asks the brain for tool calls, offering only what is legal in the phase; `act` executes
them one after the other. The brain is a chat model: an LLM or a policy that needs none.
"""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from agent.loop.approval import Rejected
from agent.loop.decider import Decider
from agent.loop.state import ADVANCES, RoundState
from agent.loop.toolbox import Toolbox
from memory.errors import SessionError, ToolError

# Far above the calls of a round, far below an endless loop.
RECURSION_LIMIT = 200
# Illegal answers in a row after which a session stops whose brain nothing can step in for.
MAX_ILLEGAL = 5


def build_graph(
    decider: Decider, toolbox: Toolbox, checkpointer: BaseCheckpointSaver[Any] | None = None
) -> CompiledStateGraph[RoundState]:
    """Wire the graph of a round around a brain and its tools."""

    def observe(state: RoundState) -> dict[str, Any]:
        spending = decider.spending
        left = (spending.tokens_left(), spending.usd_left())
        return {"messages": toolbox.opening(state["round"], *left)}

    def think(state: RoundState) -> dict[str, Any]:
        legal = toolbox.legal(state["phase"], state["n_lookups"])
        return {"messages": [decider.ask(state, toolbox.offers(legal, decider.plans_briefly))]}

    def act(state: RoundState) -> dict[str, Any]:
        answer = state["messages"][-1]
        assert isinstance(answer, AIMessage)
        author = str(answer.response_metadata.get("author", ""))
        phase, n_illegal, n_lookups = state["phase"], state["n_illegal"], state["n_lookups"]
        results: list[ToolMessage | HumanMessage] = []
        if not answer.tool_calls:
            n_illegal += 1
            legal = toolbox.legal(phase, n_lookups)
            said = toolbox.refuse(state["round"], phase, legal, str(answer.content), author)
            results.append(HumanMessage(said))
        for call in answer.tool_calls:
            legal = toolbox.legal(phase, n_lookups)
            try:
                text, status = (
                    toolbox.execute(state["round"], phase, legal, call, author),
                    "success",
                )
                n_illegal, n_lookups = 0, n_lookups + 1
                if call["name"] in ADVANCES:
                    phase, n_lookups = ADVANCES[call["name"]], 0
            except ToolError as error:
                text, status = str(error), "error"
                # A person's no is no mistake of the brain.
                n_illegal += not isinstance(error, Rejected)
            results.append(
                ToolMessage(text, tool_call_id=call["id"], name=call["name"], status=status)
            )
        nobody_else = author.startswith("policy:") or not decider.has_fallback
        if n_illegal > MAX_ILLEGAL and nobody_else:
            raise SessionError(
                f"The brain made {n_illegal} illegal calls in a row in phase {phase!r}; the last "
                f"answer was: {results[-1].content} Choose another with --brain and run the same "
                "command again; finished work is kept."
            )
        return {
            "messages": results,
            "phase": phase,
            "n_illegal": n_illegal,
            "n_lookups": n_lookups,
        }

    graph = StateGraph(RoundState)
    graph.add_node("observe", observe)
    graph.add_node("think", think)
    graph.add_node("act", act)
    graph.add_edge(START, "observe")
    graph.add_edge("observe", "think")
    graph.add_edge("think", "act")
    graph.add_conditional_edges("act", lambda s: END if s["phase"] == "done" else "think")
    compiled = graph.compile(checkpointer=checkpointer)
    return compiled.with_config(recursion_limit=RECURSION_LIMIT)
