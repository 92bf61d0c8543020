"""Counterfactual plans: another brain decides with the information of the recorded one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolMessage
from pydantic import ValidationError

from agent.brains import Brain, BrainContext, Turn
from agent.brains.probe import build_probed
from agent.loop.drafts import PlanChoice
from agent.loop.observations import observe, open_round
from agent.loop.proposals import Proposals
from agent.loop.toolbox import Toolbox
from agent.planners import AttributeDistribution
from agent.replay.recorded import RecordedEffects, RecordedSession
from eval.agreement import Agreement, agreement
from memory.errors import BrainError, SettingsError, ToolError
from memory.events import Event, PlanEvent
from memory.records import Plan

# Number of attempts at a legal plan.
MAX_TRIES = 3


@dataclass(frozen=True)
class Decision:
    """A decision of a session and the plan of the other brain.

    Attributes:
        round: Number of the round.
        recorded: Plan of the session.
        plan: Plan of the other brain; None: it made no legal one.
        agreement: Agreement of both plans; None without a plan.
        problem: Why there is no plan, "" if there is one.
    """

    round: int
    recorded: Plan
    plan: Plan | None
    agreement: Agreement | None
    problem: str = ""


def counterfactual(events: Sequence[Event], brain: str, start: int = 1) -> Iterator[Decision]:
    """Ask `brain` for a plan at every recorded decision from round `start` on.

    The brain reads the messages that the recorded brain read at the start of the round, and may
    call propose_plan only. No images are generated.

    Args:
        events: Events of the session's journal, including undone ones.
        brain: The brain, KIND:ARGUMENT.
        start: First round.

    Raises:
        SettingsError: The brain is unknown, or there is no plan from round `start` on.
        SessionError: The record version cannot be replayed.
    """
    session = RecordedSession(events)
    journal, effects = session.journal, RecordedEffects(session)
    toolbox, proposals = Toolbox(session, effects), Proposals(session, effects)
    plans = [event.plan for event in journal.recorded if isinstance(event, PlanEvent)]
    plans = [plan for plan in plans if plan.round >= start]
    if not plans:
        raise SettingsError(f"The session has no plan from round {start} on.")
    other: Brain | None = None
    for recorded in plans:
        number = recorded.round
        journal.skip_to(f"opening/{number}")
        if other is None:
            distribution = AttributeDistribution.model_validate(session.head.palette)
            llm = session.settings.llm
            context = BrainContext(distribution, effects.target.vocabulary, llm)
            other = build_probed(brain, context)
        messages = open_round(session, effects, number, None, None)
        tools = toolbox.schemas(["propose_plan"], other.mode == "json", number)
        plan, problem = None, ""
        for n_answers in range(MAX_TRIES):
            turn = Turn(number, n_answers, messages, tools, partial(observe, session, number))
            try:
                answer = other.decide(turn)
            except BrainError as error:
                problem = str(error)
                break
            plan, problem = _plan(answer, number, brain, proposals)
            if plan:
                break
            messages = [*messages, answer, _reply(answer, problem)]
        alike = agreement(recorded, plan) if plan else None
        yield Decision(number, recorded, plan, alike, problem)


def _plan(
    answer: AIMessage, round_number: int, author: str, proposals: Proposals
) -> tuple[Plan | None, str]:
    """Return the plan that an answer proposes and "", or None and the problem."""
    call = next((c for c in answer.tool_calls if c["name"] == "propose_plan"), None)
    if call is None:
        return None, "The answer does not call propose_plan."
    try:
        draft = proposals.compose(PlanChoice.model_validate(call["args"]), round_number)
        return proposals.check(draft, round_number, author), ""
    except (ToolError, ValidationError) as error:
        return None, str(error)[:1000]


def _reply(answer: AIMessage, problem: str) -> AnyMessage:
    if not answer.tool_calls:
        return HumanMessage(problem)
    call = answer.tool_calls[0]
    return ToolMessage(problem, tool_call_id=call["id"], name=call["name"], status="error")
