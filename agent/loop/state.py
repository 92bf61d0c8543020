"""What the loop keeps: the state of a round, plain JSON and messages, and a session's record."""

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

# What the agent may call in each phase; a tool that ends its phase moves on to the next one.
PHASES: dict[str, tuple[str, ...]] = {
    "plan": ("recall_memory", "inspect_failures", "analyse", "look_at", "ask_user", "propose_plan"),
    "generate": ("generate_batch",),
    "train": ("train_dstm",),
    "evaluate": ("evaluate_real",),
    "review": ("inspect_failures", "recall_memory", "finish"),
    "done": (),
}

ADVANCES: dict[str, str] = {
    "propose_plan": "generate",
    "generate_batch": "train",
    "train_dstm": "evaluate",
    "evaluate_real": "review",
    "finish": "done",
}


# Record version since which the graph calls what is due, a call is answered once in a phase, and a
# model's plan has to spend the budget.
GRAPH_WORKS = 3
# Record version since which models of JSON actions plan and do nothing else.
PLANS_ONLY = 4
# Record version since which models with a context that is not small are offered `analyse`.
ANALYSES = 5
# Record version since which a plan that a model takes or edits says whose draft it is.
NAMES_DRAFT = 6
# Tokens of a context that counts as small.
SMALL_CONTEXT = 4000
# Author of the calls that the graph makes itself.
GRAPH = "graph"
# What the graph calls in each phase, since record version 3: nothing is to be chosen.
DUE: dict[str, tuple[str, ...]] = {
    "generate": ("generate_batch",),
    "train": ("train_dstm",),
    "evaluate": ("evaluate_real",),
    "review": ("inspect_failures",),
}


class RoundState(TypedDict):
    """State of one LangGraph thread, which is one round.

    n_illegal: illegal or malformed answers in a row; n_lookups: calls of the phase so far, none
    of which has ended it; brief: whether the brain answers by JSON actions, as small models do.
    """

    round: int
    phase: str
    messages: Annotated[list[AnyMessage], add_messages]
    n_illegal: int
    n_lookups: int
    brief: bool


def new_round(number: int) -> RoundState:
    """Return the state in which a round begins."""
    return RoundState(
        round=number, phase="plan", messages=[], n_illegal=0, n_lookups=0, brief=False
    )


E = TypeVar("E", bound=Event)


class EventLog(Protocol):
    """What the loop writes to and reads of a journal, see `memory.journal.Journal`."""

    def append(self, event: E, /) -> E:
        """Write an event, once if it has a key, and return it as it is read back."""

    def get(self, key: str, kind: type[E], /) -> E | None:
        """Return the event with a key."""

    def events(self, *kinds: type[E], since: int | None = None) -> Sequence[E]:
        """Return the events of some kinds, oldest first; since: of this round and later ones."""

    def of_rounds(self, *numbers: int) -> Sequence[Event]:
        """Return the events of some rounds."""

    def appended(self, n_known: int, /) -> Sequence[Event]:
        """Return the events after the first `n_known`."""

    def rounds(self, last: int | None = None) -> list[Round]:
        """Return the rounds so far, or the last few of them."""

    def round(self, number: int, /) -> Round | None:
        """Return one round."""


def record_version(journal: EventLog) -> int:
    """Return the version of a record, whose rules its session keeps."""
    heads = journal.events(HeadEvent)
    return heads[0].record if heads else RECORD_VERSION


def is_answer(message: AnyMessage) -> bool:
    """Tell whether a message is a brain's, not a call of the graph's own."""
    return isinstance(message, AIMessage) and message.response_metadata.get("author") != GRAPH


def due(phase: str, messages: Sequence[AnyMessage], version: int, brief: bool) -> str | None:
    """Return the tool that the graph calls now, None where a brain has to choose.

    Args:
        phase: The phase of the round.
        messages: The conversation of the round.
        version: Of the record.
        brief: Whether the brain is a small model, which has nothing to say of a round's end.
    """
    if version < GRAPH_WORKS:
        return None
    answered = {message.name for message, _ in lookups(messages)}
    names = DUE.get(phase, ())
    if phase == "review" and brief and version >= PLANS_ONLY:
        names = (*names, "finish")
    return next((name for name in names if name not in answered), None)


def lookups(messages: Sequence[AnyMessage]) -> list[tuple[ToolMessage, dict[str, Any]]]:
    """Return the results that the present phase has so far, with the arguments of their calls."""
    arguments = {
        call["id"]: call["args"]
        for message in messages
        if isinstance(message, AIMessage)
        for call in message.tool_calls
    }
    found: list[tuple[ToolMessage, dict[str, Any]]] = []
    for message in messages:
        if isinstance(message, ToolMessage) and message.status != "error":
            found.append((message, arguments.get(message.tool_call_id, {})))
            if message.name in ADVANCES:
                found.clear()
    return found


class TargetView(Protocol):
    """Name, classes and vocabulary of a target."""

    @property
    def name(self) -> str:
        """Its name."""

    @property
    def class_names(self) -> Sequence[str]:
        """Classes of its images."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Its words."""


class SessionView(Protocol):
    """What the loop knows of a session, live or recorded."""

    @property
    def name(self) -> str:
        """Name of the session."""

    @property
    def settings(self) -> Settings:
        """The settings that count now."""

    @property
    def journal(self) -> EventLog:
        """Its record."""
