"""State of a round (plain JSON and messages), its phases, and the loop's view of a session."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Protocol, TypedDict, TypeVar

from langchain_core.messages import AIMessage, AnyMessage, ToolMessage
from langgraph.graph.message import add_messages

from agent.config.settings import Settings
from memory.events import Event, HeadEvent
from memory.journal import RECORD_VERSION
from memory.records import Round
from prompts.vocabulary import Vocabulary

# Tools that the agent may call in each phase.
PHASES: dict[str, tuple[str, ...]] = {
    "plan": ("recall_memory", "inspect_failures", "analyse", "look_at", "ask_user", "propose_plan"),
    "generate": ("generate_batch",),
    "train": ("train_dstm",),
    "evaluate": ("evaluate_real",),
    "review": ("inspect_failures", "recall_memory", "finish"),
    "done": (),
}

# Tools that end their phase, and the phase that follows.
ADVANCES: dict[str, str] = {
    "propose_plan": "generate",
    "generate_batch": "train",
    "train_dstm": "evaluate",
    "evaluate_real": "review",
    "finish": "done",
}


# Record version since which the graph calls the tools that are due, a repeated call in a phase
# returns the earlier result, and a model's plan has to spend the budget.
GRAPH_WORKS = 3
# Record version since which models with JSON actions only plan.
PLANS_ONLY = 4
# Record version since which models are offered `analyse`, except those with a small context.
ANALYSES = 5
# Record version since which a plan names the author of the draft that a model accepted or edited.
NAMES_DRAFT = 6
# Largest context in tokens that counts as small.
SMALL_CONTEXT = 4000
# Author of the calls that the graph makes itself.
GRAPH = "graph"
# Tools that the graph calls in each phase since record version 3, as there is nothing to choose.
DUE: dict[str, tuple[str, ...]] = {
    "generate": ("generate_batch",),
    "train": ("train_dstm",),
    "evaluate": ("evaluate_real",),
    "review": ("inspect_failures",),
}


class RoundState(TypedDict):
    """State of one LangGraph thread, i.e. of one round.

    Attributes:
        round: Number of the round.
        phase: Current phase, a key of `PHASES`.
        messages: Conversation of the round.
        n_illegal: Number of consecutive illegal or malformed answers.
        n_lookups: Number of calls in the current phase, none of which has ended it.
        brief: Whether the brain answers by JSON actions, as small models do.
    """

    round: int
    phase: str
    messages: Annotated[list[AnyMessage], add_messages]
    n_illegal: int
    n_lookups: int
    brief: bool


def new_round(number: int) -> RoundState:
    """Return the initial state of a round."""
    return RoundState(
        round=number, phase="plan", messages=[], n_illegal=0, n_lookups=0, brief=False
    )


E = TypeVar("E", bound=Event)


class EventLog(Protocol):
    """The part of a journal's interface that the loop uses, see `memory.journal.Journal`."""

    def append(self, event: E, /) -> E:
        """Write an event, once if it has a key, and return it as stored."""

    def get(self, key: str, kind: type[E], /) -> E | None:
        """Return the event with a key, or None."""

    def events(self, *kinds: type[E], since: int | None = None) -> Sequence[E]:
        """Return the events of the given kinds, oldest first; since: first round to include."""

    def of_rounds(self, *numbers: int) -> Sequence[Event]:
        """Return the events of the given rounds."""

    def appended(self, n_known: int, /) -> Sequence[Event]:
        """Return the events after the first `n_known`."""

    def rounds(self, last: int | None = None) -> list[Round]:
        """Return the rounds so far, or the last ones."""

    def round(self, number: int, /) -> Round | None:
        """Return the round with a number, or None."""


def record_version(journal: EventLog) -> int:
    """Return the record version of a journal, which determines the rules of its session."""
    heads = journal.events(HeadEvent)
    return heads[0].record if heads else RECORD_VERSION


def is_answer(message: AnyMessage) -> bool:
    """Return whether a message is an answer of a brain, not a call that the graph made itself."""
    return isinstance(message, AIMessage) and message.response_metadata.get("author") != GRAPH


def due(phase: str, messages: Sequence[AnyMessage], version: int, brief: bool) -> str | None:
    """Return the tool that the graph has to call next, or None if a brain has to choose.

    Args:
        phase: The phase of the round.
        messages: The conversation of the round.
        version: Record version of the session.
        brief: Whether the brain answers by JSON actions; the graph then also calls `finish`.
    """
    if version < GRAPH_WORKS:
        return None
    answered = {message.name for message, _ in lookups(messages)}
    names = DUE.get(phase, ())
    if phase == "review" and brief and version >= PLANS_ONLY:
        names = (*names, "finish")
    return next((name for name in names if name not in answered), None)


def lookups(messages: Sequence[AnyMessage]) -> list[tuple[ToolMessage, dict[str, Any]]]:
    """Return the tool results of the current phase with the arguments of their calls."""
    arguments = {
        call["id"]: call["args"]
        for message in messages
        if isinstance(message, AIMessage)
        for call in message.tool_calls
    }
    results: list[tuple[ToolMessage, dict[str, Any]]] = []
    for message in messages:
        if isinstance(message, ToolMessage) and message.status != "error":
            results.append((message, arguments.get(message.tool_call_id, {})))
            if message.name in ADVANCES:
                results.clear()
    return results


class TargetView(Protocol):
    """Name, classes and vocabulary of a target."""

    @property
    def name(self) -> str:
        """Name of the target."""

    @property
    def class_names(self) -> Sequence[str]:
        """Classes of its images."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Attributes and values that prompts can use."""


class SessionView(Protocol):
    """The part of a session's interface that the loop uses, live or recorded."""

    @property
    def name(self) -> str:
        """Name of the session."""

    @property
    def settings(self) -> Settings:
        """The current settings."""

    @property
    def journal(self) -> EventLog:
        """The journal of the session."""
