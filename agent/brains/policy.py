"""A planner as a brain: it performs the steps of a round in a fixed order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from langchain_core.messages import AIMessage, ToolCall, ToolMessage

from agent import planners
from agent.brains import BrainContext, Mode, Turn
from agent.planners import AttributeDistribution, Observation, Planner
from memory.errors import SettingsError, unknown
from prompts.vocabulary import Vocabulary
from tools.plugins import names

# Added to the seed after a rejection; far from the seeds of sessions that are compared.
_REDRAW = 1_000_003


@dataclass
class PlannerBrain:
    """Calls the tool that is due, with a plan by the planner; equal turns get equal calls."""

    planner: Planner
    distribution: AttributeDistribution
    vocabulary: Vocabulary
    mode: Mode = "native"

    def decide(self, turn: Turn) -> AIMessage:
        """Return a message with the tool call that is due."""
        name, arguments = self._choose(turn)
        call = ToolCall(name=name, args=arguments, id=f"r{turn.round:03d}c{turn.number:02d}")
        return AIMessage(content="", tool_calls=[call])

    def _choose(self, turn: Turn) -> tuple[str, dict[str, Any]]:
        results = [m for m in turn.messages if isinstance(m, ToolMessage)]
        called = [m.name for m in results if m.status != "error"]
        legal = turn.legal
        if "propose_plan" in legal:
            observation = turn.observe()
            if "recall_memory" in legal and "recall_memory" not in called:
                return "recall_memory", {"query": _question(observation)}
            if "inspect_failures" in legal and "inspect_failures" not in called:
                return "inspect_failures", {}
            # After a rejected plan, another seed draws other prompts.
            n_refused = sum((m.name, m.status) == ("propose_plan", "error") for m in results)
            seed = observation.seed + _REDRAW * n_refused
            again = observation.model_copy(update={"seed": seed})
            draft = self.planner.plan(again, self.distribution, self.vocabulary)
            return "propose_plan", draft.to_json()
        if "finish" in legal:
            if "inspect_failures" in legal and called[-1:] != ["inspect_failures"]:
                return "inspect_failures", {}
            return "finish", {"summary": f"Round {turn.round} by {self.planner.name}."}
        return legal[0], {}


def _question(observation: Observation) -> str:
    worst = [r.report.worst_slice for r in observation.rounds if r.report]
    return f"prompts that helped on {worst[-1]}" if worst and worst[-1] else "what helped"


def build(argument: str, context: BrainContext) -> PlannerBrain:
    """Build `policy:PLANNER`; raises SettingsError, with the known planners, for other names."""
    if not argument:
        raise SettingsError(unknown("planner", "", names("agent.planners")))
    return PlannerBrain(planners.build(argument), context.distribution, context.vocabulary)
