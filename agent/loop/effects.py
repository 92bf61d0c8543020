"""What leaves the graph of a round: everything that is slow, drawn at random, looked up, or asked.

The loop itself decides and writes; it reaches the world through `Effects` alone.
`agent.loop.live_effects` does the work, `agent.replay.recorded` takes its outcomes from a journal.
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
    """What the loop needs of the world."""

    @property
    def target(self) -> TargetView:
        """Name, classes and vocabulary of the target."""

    @property
    def observer(self) -> Observer:
        """Who is shown what goes on."""

    @property
    def templates(self) -> Mapping[str, str]:
        """Texts of the `prompt_files` that a brain is shown."""

    def word(self, tools: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return tools, in OpenAI's function format, in the words that a brain is shown."""

    def opening(self, round_number: int) -> list[AnyMessage] | None:
        """Return a round's first messages as an earlier version wrote them, None: to be written."""

    # -- the generator, as far as prompts are checked against it -------------------------------

    @property
    def max_tokens(self) -> int:
        """How many tokens of a prompt the generator reads."""

    def supports(self, feature: Feature, round_number: int) -> bool:
        """Return whether the generator has a feature, see `tools.generators.supports`."""

    def count_tokens(self, text: str) -> int:
        """Return the tokens of a prompt."""

    def undrawn(self, text: str) -> Sequence[str]:
        """Return the words of a prompt that have no effect on what is drawn."""

    # -- the memory ----------------------------------------------------------------------------

    def recall(
        self, round_number: int, query: str
    ) -> tuple[Sequence[MemoryItem], Sequence[SearchHit]]:
        """Return lessons, and prompts with what they achieved, for the start of a round."""

    def draft(self, seen: Observation) -> PolicyDraft | None:
        """Return the policy's plan, which a language model may take; None where it decides."""

    def coverage(self, seen: Observation) -> Mapping[str, tuple[float, float]]:
        """Return what the images so far cover, see `agent.loop.likeness.coverage_by_slice`."""

    def search(self, key: str, query: str, n: int) -> str:
        """Return what the memory knows, in words; key: of the tool call that asks."""

    def expect(self, plan: Plan) -> Expectation:
        """Return what the memory lets a plan expect, but for the time."""

    def nearest(self, plan: Plan) -> dict[str, str]:
        """Return the nearest earlier prompt in words, by the id of the plan's prompt."""

    def remember(self, events: Sequence[Event]) -> None:
        """Add what a round has shown."""

    # -- the work ------------------------------------------------------------------------------

    @property
    def begins_with_baseline(self) -> bool:
        """Whether the session begins with round 0, see `agent.loop.stages`."""

    def worked_s(self) -> float:
        """Return the seconds that the session has worked, pauses apart."""

    def stage(self, name: str, round_number: int) -> AbstractContextManager[None]:
        """Bracket a stage; raises Stopped when the session has to end."""

    def load_generator(self) -> str:
        """Load what drawing needs, and return the identity of the generator."""

    def draw(self, plan: Plan) -> Batch:
        """Draw the images of a plan and let the judge weigh their labels."""

    def train(self, number: int) -> Training:
        """Choose from the images of round `number`, and train the DSTM on those of all so far.

        Photographs are added as `dstm.train_on` says; round 0 has no others.
        """

    def evaluate(self, training: Training) -> Report:
        """Measure a trained DSTM on the real photographs of the feedback split."""

    def inspect(self, number: int) -> tuple[Failure, ...]:
        """Find where the DSTM of round `number`, which was measured, fails."""

    def analyse(
        self, key: str, round_number: int, by: Sequence[str], where: Mapping[str, str]
    ) -> str:
        """Return figures of the last report's photographs, in words; key: of the tool call."""

    def look(self, key: str, round_number: int, subject: Subject) -> Look:
        """Return a picture for a model that sees; key: of the event that will hold it."""

    def picture(self, sha256: str) -> bytes | None:
        """Return a picture that was shown, a PNG file; None where it is not stored."""

    # -- people --------------------------------------------------------------------------------

    def ask(self, request: ApprovalRequest, kind: type[E]) -> E:
        """Return the journaled answer to a question; ends this run of the graph without one."""
