"""Entry point of langgraph.json: the graph of a round for the tools of LangGraph.

Settings come from the environment variables SHAPING_PRESET and SHAPING_SECTION__KEY. The input of a
run is {"round": N}, where N is the next round of the session. Each plan interrupts the graph, which
is resumed by {"verdict": "approve"} or {"verdict": "reject", "text": WHY}.
"""

from __future__ import annotations

import atexit
import os
from contextlib import ExitStack
from functools import cache

from langgraph.checkpoint.memory import InMemorySaver
from langgraph.graph.state import CompiledStateGraph

from agent.autonomous.runner import begin
from agent.config.settings import load_settings
from agent.loop.components import Components
from agent.loop.graph import build_graph
from agent.loop.observer import Observer
from agent.loop.state import RoundState
from agent.session.folder import open_session


class _Approving(Observer):
    """Observer for approval of plans through the interrupts of the graph."""

    approves = True


@cache
def round_graph() -> CompiledStateGraph[RoundState]:
    """Open the session set by the environment until the process ends, and return its graph."""
    settings = load_settings(os.environ.get("SHAPING_PRESET", "solar"), (), os.environ)
    stack = ExitStack()
    session = stack.enter_context(open_session(settings, settings.session.name or "studio"))
    atexit.register(stack.close)
    components = Components.of_session(session, _Approving())
    return build_graph(session, *begin(components), InMemorySaver())
