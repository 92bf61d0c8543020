"""Side effects of the loop: everything that is slow, random, looked up, or asked of a person.

The loop itself only decides and journals; it accesses everything else through `Effects`.
`agent.loop.live_effects` does the work, `agent.replay.recorded` reads its outcomes from a journal.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, Protocol

from langchain_core.messages import AnyMessage

from agent.loop.approval import ApprovalRequest
from agent.loop.drafts import PolicyDraft
from agent.loop.expectations import Expectation
from agent.loop.eyes import Look, Subject
from agent.loop.observer import Observer
from agent.loop.state import E, TargetView
from agent.planners import Observation
from memory.events import Event
from memory.items import MemoryItem, SearchHit
from memory.records import Batch, Failure, Plan, Report, Training

if TYPE_CHECKING:
    from tools.generators import Feature


class Effects(Protocol):
    """Side effects of a session, live or recorded."""

    @property
    def target(self) -> TargetView:
        """The target, as far as the loop uses it."""

    @property
    def observer(self) -> Observer:
        """Shows the progress of the session."""

    @property
    def templates(self) -> Mapping[str, str]:
        """Texts of the `prompt_files`, by name."""

    def word(self, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return tools in OpenAI's function format, with the descriptions shown to a brain."""

    def opening(self, round_number: int) -> list[AnyMessage] | None:
        """Return the opening messages of a round that an earlier version wrote.

        None: they are composed by `agent.loop.observations.open_round`.
        """

    # -- the generator, as used to check prompts -----------------------------------------------

    @property
    def max_tokens(self) -> int:
        """Number of tokens of a prompt that the generator reads."""

    def supports(self, feature: Feature, round_number: int) -> bool:
        """Return whether the generator has a feature, see `tools.generators.supports`."""

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of a prompt."""

    def undrawn(self, text: str) -> Sequence[str]:
        """Return the words of a prompt that have no effect on the image."""

    # -- the memory ----------------------------------------------------------------------------

    def recall(
        self, round_number: int, query: str
    ) -> tuple[Sequence[MemoryItem], Sequence[SearchHit]]:
        """Return lessons, and prompts with their results, for the opening of a round."""

    def draft(self, seen: Observation) -> PolicyDraft | None:
        """Return the policy's plan as a draft for a language model; None if a policy decides."""

    def coverage(self, seen: Observation) -> Mapping[str, tuple[float, float]]:
        """Return the coverage of each slice, see `agent.loop.likeness.coverage_by_slice`."""

    def search(self, key: str, query: str, n: int) -> str:
        """Return the best matches of the memory as text; key: event key of the tool call."""

    def expect(self, plan: Plan) -> Expectation:
        """Return the expected outcome of a plan, without its duration."""

    def nearest(self, plan: Plan) -> dict[str, str]:
        """Return the most similar earlier prompt in words, by the id of the plan's prompt."""

    def remember(self, events: Sequence[Event]) -> None:
        """Add the results of a round to the memory."""

    # -- the work ------------------------------------------------------------------------------

    @property
    def begins_with_baseline(self) -> bool:
        """Whether the session begins with round 0, see `agent.loop.stages`."""

    def worked_s(self) -> float:
        """Return the working time of the session in seconds, without pauses."""

    def stage(self, name: str, round_number: int) -> AbstractContextManager[None]:
        """Return a context manager for a stage; raises Stopped if the session has to end."""

    def load_generator(self) -> str:
        """Load the generator and the judge, and return the identity of the generator."""

    def draw(self, plan: Plan) -> Batch:
        """Draw the images of a plan and weight them by the judge."""

    def train(self, number: int) -> Training:
        """Select from the images of round `number`, and train the DSTM on all images so far.

        Photographs are added according to `dstm.train_on`; round 0 trains on photographs only.
        """

    def evaluate(self, training: Training) -> Report:
        """Evaluate a trained DSTM on the real photographs of the feedback split."""

    def inspect(self, number: int) -> tuple[Failure, ...]:
        """Return the failures of the DSTM of round `number`, which has been evaluated."""

    def analyse(
        self, key: str, round_number: int, by: Sequence[str], where: Mapping[str, str]
    ) -> str:
        """Return figures of groups of photographs as text; key: event key of the tool call."""

    def look(self, key: str, round_number: int, subject: Subject) -> Look:
        """Return a picture for a vision-language model; key: key of the event that refers to it."""

    def picture(self, sha256: str) -> bytes | None:
        """Return the PNG file of a picture that was shown; None if it is not stored."""

    # -- people --------------------------------------------------------------------------------

    def ask(self, request: ApprovalRequest, kind: type[E]) -> E:
        """Return the journaled answer to a question; interrupts the graph if there is none yet."""
