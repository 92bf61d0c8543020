"""What the loop keeps: the state of a round, plain JSON and messages, and a session's record."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Protocol, TypedDict, TypeVar

from langchain_core.messages import AnyMessage
from langgraph.graph.message import add_messages

from agent.config.settings import Settings
from memory.events import Event
from memory.records import Round
from prompts.vocabulary import Vocabulary

# What the agent may call in each phase; a tool that ends its phase moves on to the next one.
PHASES: dict[str, tuple[str, ...]] = {
    "plan": ("recall_memory", "inspect_failures", "ask_user", "propose_plan"),
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


class RoundState(TypedDict):
    """State of one LangGraph thread, which is one round.

    n_illegal: illegal or malformed answers in a row; n_lookups: calls of the phase so far, none
    of which has ended it.
    """

    round: int
    phase: str
    messages: Annotated[list[AnyMessage], add_messages]
    n_illegal: int
    n_lookups: int


def new_round(number: int) -> RoundState:
    """Return the state in which a round begins."""
    return RoundState(round=number, phase="plan", messages=[], n_illegal=0, n_lookups=0)


E = TypeVar("E", bound=Event)


class EventLog(Protocol):
    """What the loop writes to and reads of a journal, see `memory.journal.Journal`."""

    def append(self, event: E, /) -> E:
        """Write an event, once if it has a key, and return it as it is read back."""

    def get(self, key: str, kind: type[E], /) -> E | None:
        """Return the event with a key."""

    def events(
        self, *kinds: type[E], undone: bool = False, since: int | None = None
    ) -> Sequence[E]:
        """Return the events of some kinds, oldest first."""

    def count(self, kind: type[Event], /) -> int:
        """Return how many events there are of a kind."""

    def of_rounds(self, *numbers: int) -> Sequence[Event]:
        """Return the events of some rounds."""

    def appended(self, n_known: int, /) -> Sequence[Event]:
        """Return the events after the first `n_known`."""

    def rounds(self, last: int | None = None) -> list[Round]:
        """Return the rounds so far, or the last few of them."""

    def round(self, number: int, /) -> Round | None:
        """Return one round."""


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
