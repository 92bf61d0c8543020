"""What another brain would have planned, asked with what the recorded one knew."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, SystemMessage, ToolMessage
from pydantic import ValidationError

from agent import brains
from agent.brains import Brain, BrainContext, Turn
from agent.brains.probe import with_mode
from agent.config.settings import Settings
from agent.loop.context import brief
from agent.loop.observations import LOOK_BACK, unpack
from agent.loop.tool_schemas import tool_schemas
from agent.loop.toolbox import Toolbox
from agent.loop.validation import validate
from agent.planners import AttributeDistribution, Observation, PlanDraft
from agent.replay.recorded import RecordedEffects, RecordedSession
from eval.agreement import Agreement, agreement
from memory.errors import BrainError, SettingsError, ToolError
from memory.journal import Event, round_of, rounds, standing
from memory.records import Plan, Round

# Refused plans after which a brain counts as having none.
MAX_TRIES = 3


@dataclass(frozen=True)
class Decision:
    """One decision of a session, and what the other brain said to it; plan None: no legal one."""

    round: int
    recorded: Plan
    plan: Plan | None
    agreement: Agreement | None
    problem: str = ""


def counterfactual(events: Sequence[Event], brain: str, start: int = 1) -> Iterator[Decision]:
    """Ask `brain` for a plan at every recorded decision from round `start` on.

    It is told what the recorded brain was told at the start of the round, and offered propose_plan
    alone. Nothing is drawn. Raises SettingsError for an unknown brain or when no plan is left,
    SessionError for a record that holds too little.
    """
    session = RecordedSession(events)
    effects = RecordedEffects(session)
    propose_plan = Toolbox(session, effects).tools["propose_plan"]
    distribution = AttributeDistribution.model_validate(session.head["palette"])
    asked: Brain | None = None
    past: dict[int, list[Event]] = defaultdict(list)
    openings: dict[int, list[Round]] = {}
    settings = session.settings
    found = False
    kept = standing(events)
    for event in kept:
        if "settings" in event:
            settings = Settings.model_validate(event["settings"])
        number = round_of(event)
        if event["kind"] == "opening":
            openings[event["round"]] = [
                r
                for n in sorted(past)[-LOOK_BACK:]
                for r in rounds(past[n])
                if r.number < event["round"]
            ]
            opening = event
        if number:
            past[number].append(event)
        if event["kind"] != "plan" or event["plan"]["round"] < start:
            continue
        found = True
        if asked is None:
            context = BrainContext(distribution, effects.target.vocabulary, settings.llm)
            asked = with_mode(brains.build(brain, context), settings.llm)
        recorded = Plan.model_validate(event["plan"])
        before = openings[recorded.round]
        facts = unpack(opening["facts"], before, effects.target)
        observation = Observation(
            round=recorded.round,
            n_images=facts.n_images,
            images_per_prompt=facts.images_per_prompt,
            seed=settings.session.seed,
            rounds=tuple(before),
        )
        slices = [score.key for score in facts.report.slices] if facts.report else []
        tools = tool_schemas(
            [propose_plan],
            effects.target.vocabulary,
            facts.n_images,
            slices,
            asked.mode == "json",
        )
        system, text = brief(facts, effects.templates)
        messages: list[AnyMessage] = [SystemMessage(system), HumanMessage(text)]
        plan, problem = None, ""
        for number in range(MAX_TRIES):
            turn = Turn(
                recorded.round,
                number,
                messages,
                tools,
                partial(Observation.model_copy, observation),
            )
            try:
                answer = asked.decide(turn)
            except BrainError as error:
                problem = str(error)
                break
            plan, problem = _plan(answer, recorded.round, facts.n_images, brain, effects, slices)
            if plan:
                break
            messages += [answer, _reply(answer, problem)]
        yield Decision(
            recorded.round, recorded, plan, agreement(recorded, plan) if plan else None, problem
        )
    if not found:
        raise SettingsError(f"The session has no plan from round {start} on.")


def _plan(
    answer: AIMessage,
    round_number: int,
    n_images: int,
    author: str,
    effects: RecordedEffects,
    slices: Sequence[str],
) -> tuple[Plan | None, str]:
    call = next((c for c in answer.tool_calls if c["name"] == "propose_plan"), None)
    if call is None:
        return None, "The answer does not call propose_plan."
    try:
        draft = PlanDraft.model_validate(call["args"])
        plan = validate(
            draft,
            round_number,
            n_images,
            author,
            effects.target.vocabulary,
            effects.count_tokens,
            effects.max_tokens,
            slices,
        )
    except (ToolError, ValidationError) as error:
        return None, str(error)[:1000]
    return plan, ""


def _reply(answer: AIMessage, problem: str) -> AnyMessage:
    if not answer.tool_calls:
        return HumanMessage(problem)
    call = answer.tool_calls[0]
    return ToolMessage(problem, tool_call_id=call["id"], name=call["name"], status="error")
