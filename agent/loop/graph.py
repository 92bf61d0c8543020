"""The graph of one round, with a node for each phase.

    observe -> plan -> generate -> train -> evaluate -> review -> END

In each phase the graph calls the tool that is due or, where there is a choice, asks a brain for
tool calls, offers it only the tools that are legal in the phase, and executes the calls in order.
A phase is entered again until a call ends it; a question to a person interrupts the graph.
If a language model cannot decide (no connection, no budget left, repeated illegal calls), a planner
decides in its place; this is journaled as a fallback and shown in the report.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any, Literal

from langchain_core.messages import AIMessage, AnyMessage, HumanMessage, ToolCall, ToolMessage
from langgraph.checkpoint.base import BaseCheckpointSaver
from langgraph.graph import END, START, StateGraph
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import Command

from agent.brains import Brain, Turn, answer_of, planner_brain, planner_of
from agent.brains.actions import as_plain_messages, storable
from agent.brains.spending import Spending, Usage, estimate_tokens
from agent.loop.approval import Rejected
from agent.loop.effects import Effects
from agent.loop.eyes import pictures_of, with_pictures
from agent.loop.observations import observe, open_round
from agent.loop.stages import run_baseline
from agent.loop.state import (
    ADVANCES,
    GRAPH,
    PHASES,
    RoundState,
    SessionView,
    is_answer,
    lookups,
    new_round,
)
from agent.loop.toolbox import CallContext, Toolbox
from memory.errors import BrainError, SessionError, ToolError
from memory.events import FallbackEvent, Message, ModelCallEvent, Tokens, ToolsEvent
from memory.records import digest

# Maximum number of steps of a round: far more than a round needs, but it stops an endless loop.
RECURSION_LIMIT = 200
# Consecutive illegal answers after which a session without a fallback stops.
MAX_ILLEGAL = 5
# Characters that are kept of an old tool result when the prompt has to be shortened.
_SHORT = 200
# Characters of the printed reason for a fallback.
_REASON = 300


def build_graph(
    session: SessionView,
    effects: Effects,
    brain: Brain,
    fallback: Brain | None = None,
    checkpointer: BaseCheckpointSaver[Any] | None = None,
) -> CompiledStateGraph[RoundState]:
    """Build the graph of a round.

    Args:
        session: The session, with its settings and journal.
        effects: Side effects: drawing, training, evaluation, memory and questions to a person.
        brain: The brain that decides.
        fallback: The brain that replaces a language model that fails. None: no replacement.
        checkpointer: Stores the state after each step. None: the state is not stored.
    """
    notify = effects.observer.warn
    decider = Decider(session, effects.templates, brain, fallback, notify, effects.picture)
    toolbox = Toolbox(session, effects)

    def start(state: RoundState) -> RoundState:
        run_baseline(session.journal, effects)
        spending = decider.spending
        left = (spending.tokens_left(), spending.usd_left())
        number = state["round"]
        messages = open_round(session, effects, number, *left)
        return {**new_round(number), "messages": messages}

    def advance(state: RoundState) -> Command[str]:
        name = toolbox.due(state)
        update = _work(state, toolbox, name) if name else _decide(state, decider, toolbox)
        return Command(update=update, goto=END if update["phase"] == "done" else update["phase"])

    graph = StateGraph(RoundState)
    graph.add_node("observe", start)
    graph.add_edge(START, "observe")
    graph.add_edge("observe", "plan")
    for phase, following in pairwise([*(name for name in PHASES if name != "done"), END]):
        # For drawings of the graph; phases in which a brain chooses may be entered again.
        again = () if phase in ("generate", "train", "evaluate") else (phase,)
        graph.add_node(phase, advance, destinations=(*again, following))
    compiled = graph.compile(checkpointer=checkpointer)
    return compiled.with_config(recursion_limit=RECURSION_LIMIT)


class Decider:
    """Asks the brain of a session within its budgets, and journals questions and answers.

    `fallback` replaces a language model that fails; it is not used if the brain is a planner. The
    budgets are those of the settings at the time of the question.
    """

    def __init__(
        self,
        session: SessionView,
        templates: Mapping[str, str],
        brain: Brain,
        fallback: Brain | None,
        notify: Callable[[str], None] = lambda text: None,
        picture: Callable[[str], bytes | None] = lambda sha256: None,
    ) -> None:
        self._notify, self._picture = notify, picture
        self._session = session
        self._templates = templates
        self._brain = brain
        self._fallback = fallback
        self._spending: Spending | None = None
        _ = self.spending  # raises SettingsError if money is limited but the price is unknown

    @property
    def spending(self) -> Spending:
        """The spending so far, including calls that a person has made in chat meanwhile."""
        settings, spending = self._session.settings, self._spending
        if spending is None or not spending.is_of(settings.brain, settings.llm):
            spending = self._spending = Spending(settings.brain, settings.llm)
        spending.take_in(self._session.journal)
        return spending

    @property
    def plans_briefly(self) -> bool:
        """Whether the brain answers by JSON actions, as small models do."""
        return self._brain.mode == "json"

    def is_last_resort(self, author: str) -> bool:
        """Return whether the author of an answer has no fallback."""
        return self._stand_in is None or planner_of(author) is not None

    @property
    def _stand_in(self) -> Brain | None:
        return None if planner_of(self._session.settings.brain) is not None else self._fallback

    def ask(self, state: RoundState, tools: Sequence[dict[str, Any]]) -> AIMessage:
        """Return the brain's next message of the round; `tools` are the schemas of legal tools.

        An answer that was journaled before a crash is returned without asking again.
        """
        journal, settings = self._session.journal, self._session.settings
        round_, number = state["round"], sum(is_answer(m) for m in state["messages"])
        key = f"model_call/{round_}/{number}"
        if recorded := journal.get(key, ModelCallEvent):
            return answer_of(recorded)
        started = time.monotonic()
        messages = fit(state["messages"], settings.llm.context_tokens)
        turn = Turn(
            round_, number, messages, tools, lambda: observe(self._session, round_), self._notify
        )
        try:
            self._check_limits(state, turn)
            if settings.llm.images:
                turn = replace(turn, messages=with_pictures(messages, self._picture))
            answer = self._brain.decide(turn)
            author, usage = settings.brain, self.spending.usage(answer)
        except BrainError as error:
            if (stand_in := self._stand_in) is None:
                raise
            author = planner_brain(settings.llm.fallback)
            self._notify(
                f"Round {round_}, {state['phase']}: {author} decides in place of "
                f"{settings.brain}: {str(error)[:_REASON]}"
            )
            journal.append(
                FallbackEvent(
                    key=f"fallback/{round_}/{number}",
                    round=round_,
                    phase=state["phase"],
                    reason=str(error)[:1000],
                )
            )
            ending = [tool for tool in tools if tool["function"]["name"] in ADVANCES]
            answer = stand_in.decide(replace(turn, messages=messages, tools=ending))
            usage = Usage(0, 0, 0.0)
        offered = journal.append(self._offered(tools))
        event = ModelCallEvent(
            key=key,
            round=round_,
            phase=state["phase"],
            author=author,
            tools=tuple(turn.legal),
            offer=str(offered.key).removeprefix("tools/"),
            messages=tuple(message_of(m) for m in _news(state["messages"])),
            answer=message_of(answer),
            tokens=Tokens(prompt=usage.prompt, answer=usage.answer),
            usd=usage.usd,
            seconds=round(time.monotonic() - started, 3),
            retries=answer.response_metadata.get("retries", 0),
        )
        return answer_of(journal.append(event))

    def _offered(self, tools: Sequence[dict[str, Any]]) -> ToolsEvent:
        """Return the event that records the offered tools; for JSON actions also as plain text."""
        text = ""
        if self.plans_briefly:
            (words,) = as_plain_messages([], tools, self._templates["json_action"])
            text = str(words.content)
        event = ToolsEvent(mode=self._brain.mode, tools=tuple(tools), text=text)
        return event.model_copy(update={"key": f"tools/{digest(event.content())}"})

    def _check_limits(self, state: RoundState, turn: Turn) -> None:
        """Raise BrainError if the fallback has to decide: too many illegal calls, or no budget."""
        if self._stand_in is None:
            return
        if state["n_illegal"] >= self._session.settings.llm.max_illegal:
            last = next((str(m.content) for m in reversed(turn.messages)), "")
            raise BrainError(
                f"{state['n_illegal']} illegal calls in a row; the last answer to one: {last}"
            )
        if reason := self.spending.reason_against(turn.messages, turn.tools):
            raise BrainError(reason)


def fit(messages: Sequence[AnyMessage], max_tokens: int) -> list[AnyMessage]:
    """Return the messages with tool results shortened, oldest first, until they fit.

    A shortened result also loses its pictures. The opening messages and the last message are never
    shortened; the opening is written to fit its share of the context.
    """
    fitted = list(messages)
    for i, message in enumerate(fitted[:-1]):
        if estimate_tokens(fitted) <= max_tokens:
            break
        text = str(message.content)
        if isinstance(message, ToolMessage) and (len(text) > _SHORT or pictures_of(message)):
            short = {"content": f"{text[:_SHORT]} ... (shortened)", "additional_kwargs": {}}
            fitted[i] = message.model_copy(update=short)
    return fitted


def message_of(message: AnyMessage) -> Message:
    """Convert a message to the form in which it is journaled."""
    data: dict[str, Any] = {"role": message.type, "content": str(message.content)}
    if isinstance(message, AIMessage):
        data["tool_calls"] = [
            {"name": call["name"], "args": call["args"], "id": call["id"]}
            for call in message.tool_calls
        ]
    if isinstance(message, ToolMessage):
        data |= {"name": message.name, "id": message.tool_call_id, "status": message.status}
    if pictures := pictures_of(message):
        data["images"] = pictures
    return Message.model_validate(storable(data))


def _decide(state: RoundState, decider: Decider, toolbox: Toolbox) -> dict[str, Any]:
    """Ask the brain and execute its calls; the result of an illegal call lists the legal ones."""
    state = {**state, "brief": decider.plans_briefly}
    offered = toolbox.schemas(toolbox.legal(state), state["brief"], state["round"])
    answer = decider.ask(state, offered)
    before = [*state["messages"], answer]
    author = str(answer.response_metadata.get("author", ""))
    phase, n_illegal, n_lookups = state["phase"], state["n_illegal"], state["n_lookups"]
    results: list[AnyMessage] = []
    if not answer.tool_calls:
        n_illegal += 1
        step = CallContext(state["round"], phase, toolbox.legal(state), author)
        problem = f"Your answer calls no tool. Call one of: {', '.join(step.legal)}."
        toolbox.refuse(step, None, str(answer.content), problem)
        results.append(HumanMessage(problem))
    for call in answer.tool_calls:
        so_far = [*before, *results]
        now: RoundState = {**state, "phase": phase, "messages": so_far, "n_lookups": n_lookups}
        legal = toolbox.legal(now)
        step = CallContext(state["round"], phase, legal, author, lookups(so_far))
        status: Literal["success", "error"] = "success"
        shown: dict[str, Any] = {}
        try:
            text, shown = toolbox.execute(step, call)
            n_illegal, n_lookups = 0, n_lookups + 1
            if call["name"] in ADVANCES:
                phase, n_lookups = ADVANCES[call["name"]], 0
        except ToolError as error:
            text, status = str(error), "error"
            # A rejection by a person is not a mistake of the brain.
            n_illegal += not isinstance(error, Rejected)
        result = ToolMessage(text, tool_call_id=call["id"], name=call["name"], status=status)
        results.append(result.model_copy(update={"additional_kwargs": shown}))
    if n_illegal > MAX_ILLEGAL and decider.is_last_resort(author):
        raise SessionError(
            f"The brain made {n_illegal} illegal calls in a row in phase {phase!r}; the last "
            f"answer was: {results[-1].content} Choose another with --brain and run the same "
            "command again; finished work is kept."
        )
    counts = {"n_illegal": n_illegal, "n_lookups": n_lookups}
    return {"messages": [answer, *results], "phase": phase, "brief": state["brief"], **counts}


def _work(state: RoundState, toolbox: Toolbox, name: str) -> dict[str, Any]:
    """Execute the tool that is due and return the update of the state."""
    phase, number = state["phase"], state["round"]
    # Nine letters and digits: some servers accept no other ids.
    n_before, n_phase = len(lookups(state["messages"])), list(PHASES).index(phase)
    call = ToolCall(name=name, args={}, id=f"g{number:05d}{n_before}{n_phase:02d}")
    text, _ = toolbox.execute(CallContext(number, phase, (name,), GRAPH), call)
    asked = AIMessage("", tool_calls=[call], response_metadata={"author": GRAPH})
    result = ToolMessage(text, tool_call_id=call["id"], name=name, status="success")
    return {"messages": [asked, result], "phase": ADVANCES.get(name, phase), "n_lookups": 0}


def _news(messages: Sequence[AnyMessage]) -> Sequence[AnyMessage]:
    """Return the messages after the last answer of the brain."""
    last = max((i for i, m in enumerate(messages) if is_answer(m)), default=-1)
    return messages[last + 1 :]
