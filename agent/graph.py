"""The graph of one round: observe, think, act, until the phase is done.

    observe -> think -> act -> think -> ... -> END

`think` asks the brain for tool calls, offering only what is legal in the phase; `act` executes
them one after the other. The brain is a chat model: an LLM or a policy that needs none.
"""

from __future__ import annotations

from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage, ToolMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph

from agent.state import ADVANCES, PHASES, RoundState
from agent.toolbox import Toolbox
from memory.errors import SessionError, ToolError

# Illegal or malformed calls in a row after which the session stops instead of asking for ever.
MAX_ILLEGAL = 5


def build_graph(
    brain: BaseChatModel, toolbox: Toolbox, checkpointer: BaseCheckpointSaver[Any] | None = None
) -> CompiledStateGraph[RoundState]:
    """Wire the graph of a round around a brain and its tools."""

    def observe(state: RoundState) -> dict[str, Any]:
        return {"messages": toolbox.opening(state["round"])}

    def think(state: RoundState) -> dict[str, Any]:
        legal = [toolbox.tools[name] for name in PHASES[state["phase"]]]
        answer = brain.bind_tools(legal).invoke(state["messages"])
        return {"messages": [answer]}

    def act(state: RoundState) -> dict[str, Any]:
        answer = state["messages"][-1]
        assert isinstance(answer, AIMessage)
        phase, n_illegal = state["phase"], state["n_illegal"]
        results: list[ToolMessage | HumanMessage] = []
        if not answer.tool_calls:
            n_illegal += 1
            results.append(HumanMessage(f"Call one of: {', '.join(PHASES[phase])}."))
        for call in answer.tool_calls:
            try:
                text = toolbox.execute(state["round"], phase, call)
                phase, n_illegal = ADVANCES.get(call["name"], phase), 0
                results.append(ToolMessage(text, tool_call_id=call["id"], name=call["name"]))
            except ToolError as error:
                n_illegal += 1
                results.append(
                    ToolMessage(
                        str(error), tool_call_id=call["id"], name=call["name"], status="error"
                    )
                )
        if n_illegal > MAX_ILLEGAL:
            raise SessionError(
                f"The brain made {n_illegal} illegal calls in a row in phase {phase!r}; the last "
                f"answer was: {results[-1].content} Choose another with --brain and run the same "
                "command again; finished work is kept."
            )
        return {"messages": results, "phase": phase, "n_illegal": n_illegal}

    graph = StateGraph(RoundState)
    graph.add_node("observe", observe)
    graph.add_node("think", think)
    graph.add_node("act", act)
    graph.add_edge(START, "observe")
    graph.add_edge("observe", "think")
    graph.add_edge("think", "act")
    graph.add_conditional_edges("act", lambda s: END if s["phase"] == "done" else "think")
    return graph.compile(checkpointer=checkpointer)
