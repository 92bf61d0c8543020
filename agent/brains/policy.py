"""The policy brain: a chat model without an LLM, which calls the same tools for a planner."""

from __future__ import annotations

from typing import Any

from langchain_core.messages import AIMessage, BaseMessage, ToolCall, ToolMessage
from pydantic import Field

from agent import planners
from agent.brains import BrainContext
from agent.brains._local import LocalBrain
from agent.planners import AttributeDistribution, Observation
from memory.errors import SettingsError, unknown
from prompts.vocabulary import Vocabulary
from tools.plugins import names

# Far from the seeds that people give to sessions they compare.
_REDRAW = 1_000_003


class PolicyBrain(LocalBrain):
    """Walks through a round in the fixed order and lets the planner write the plan.

    It reads the observation that the first message of a round carries; it answers the same
    messages always with the same calls.
    """

    planner: Any = Field(description="an agent.planners.Planner")
    palette: AttributeDistribution
    vocabulary: Vocabulary

    @property
    def _llm_type(self) -> str:
        return "policy"

    def answer(self, messages: list[BaseMessage], legal: list[str]) -> AIMessage:
        """Return the one tool call that is due."""
        called = [m.name for m in messages if isinstance(m, ToolMessage) and m.status != "error"]
        n_answers = sum(isinstance(m, AIMessage) for m in messages)
        observation = next(
            Observation.model_validate(m.additional_kwargs["observation"])
            for m in messages
            if "observation" in m.additional_kwargs
        )
        n_refused = sum(
            isinstance(m, ToolMessage) and (m.name, m.status) == ("propose_plan", "error")
            for m in messages
        )
        name, arguments = self._choose(legal, called, observation, n_refused)
        call_id = f"r{observation.round:03d}c{n_answers:02d}"
        call = ToolCall(name=name, args=arguments, id=call_id)
        return AIMessage(content="", tool_calls=[call])

    def _choose(
        self,
        legal: list[str],
        called: list[str | None],
        observation: Observation,
        n_refused: int,
    ) -> tuple[str, dict[str, Any]]:
        if "propose_plan" in legal:
            if "recall_memory" in legal and "recall_memory" not in called:
                return "recall_memory", {"query": self._question(observation)}
            if "inspect_failures" in legal and "inspect_failures" not in called:
                return "inspect_failures", {}
            # What was refused is not proposed again: another seed draws other prompts.
            seed = observation.seed + _REDRAW * n_refused
            again = observation.model_copy(update={"seed": seed})
            draft = self.planner.plan(again, self.palette, self.vocabulary)
            return "propose_plan", draft.to_json()
        if "finish" in legal:
            if "inspect_failures" in legal and called[-1:] != ["inspect_failures"]:
                return "inspect_failures", {}
            return "finish", {"summary": f"Round {observation.round} by {self.planner.name}."}
        return legal[0], {}

    def _question(self, observation: Observation) -> str:
        worst = [r.report.worst_slice for r in observation.rounds if r.report]
        return f"prompts that helped on {worst[-1]}" if worst and worst[-1] else "what helped"


def build(argument: str, context: BrainContext) -> PolicyBrain:
    """Build `policy:PLANNER`; raises SettingsError that names the known planners."""
    if not argument:
        raise SettingsError(unknown("planner", "", names("agent.planners")))
    planner = planners.build(argument)
    return PolicyBrain(planner=planner, palette=context.palette, vocabulary=context.vocabulary)
