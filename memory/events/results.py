"""The plan of a round and its results; the types are the records of memory/records.py."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from memory.events.base import Event, Occasional, RoundEvent
from memory.records import Batch, Credit, Failure, Lesson, Plan, Report, Training, Verdict


class PlanEvent(Event):
    """A plan was accepted.

    Attributes:
        plan: The plan.
        expectation: Expected results according to the memory, as
            `agent.loop.expectations.Expectation` without its time.
        n_tokens: Length of each prompt text in tokens of the generator.
        max_tokens: Largest length that the generator accepts.
        undrawn: Words that the generator cannot draw, by prompt text.
        draft: How the author used a draft: `accept`, `edit`; "" for a plan of its own.
    """

    kind: Literal["plan"] = "plan"
    plan: Plan
    expectation: dict[str, Any] = Field({})
    n_tokens: dict[str, int] = Field({})
    max_tokens: int = 0
    undrawn: Occasional[dict[str, tuple[str, ...]]] = Field({})
    draft: Occasional[str] = ""


class GeneratorEvent(Event):
    """The generator, once per session.

    Attributes:
        identity: Digest of weights and sampling.
    """

    kind: Literal["generator"] = "generator"
    identity: str


class StageEvent(RoundEvent):
    """A stage of the round has ended.

    Attributes:
        stage: `generate`, `train`, `evaluate` or `inspect`.
        seconds: Duration without pauses.
    """

    kind: Literal["stage"] = "stage"
    stage: str
    seconds: float


class BatchEvent(Event):
    """Images were drawn and audited.

    Attributes:
        batch: Id of the job, shards with SHA-256, generated and kept images of every prompt.
    """

    kind: Literal["batch"] = "batch"
    batch: Batch


class TrainingEvent(Event):
    """The DSTM was trained.

    Attributes:
        training: Id of the job, folder and SHA-256 of the model, steps, loss.
    """

    kind: Literal["training"] = "training"
    training: Training


class ReportEvent(Event):
    """The DSTM was measured on the feedback photographs.

    Attributes:
        report: Figures with intervals, overall and per slice.
    """

    kind: Literal["report"] = "report"
    report: Report


class CreditsEvent(RoundEvent):
    """The credit of the round's prompts for changes of slices.

    Attributes:
        credits: One for each prompt and slice.
    """

    kind: Literal["credits"] = "credits"
    credits: tuple[Credit, ...] = ()


class VerdictEvent(RoundEvent):
    """The outcome of the plan's hypothesis.

    Attributes:
        verdict: The hypothesis, the figures before and after, and whether it held.
    """

    kind: Literal["verdict"] = "verdict"
    verdict: Verdict


class LessonEvent(Event):
    """A lesson of the round that later sessions may recall.

    Attributes:
        lesson: A sentence, with the slice and outcome that it is based on.
    """

    kind: Literal["lesson"] = "lesson"
    lesson: Lesson


class FailuresEvent(RoundEvent):
    """The failures of the round's DSTM, written when the brain inspects them.

    Attributes:
        failures: Slices and clusters, with ids of their photographs and pictures.
    """

    kind: Literal["failures"] = "failures"
    failures: tuple[Failure, ...] = ()


class RoundDoneEvent(RoundEvent):
    """The round has ended.

    Attributes:
        summary: The brain's summary of the round.
        ends: Why the brain ends the session after this round; "" if it does not.
    """

    kind: Literal["round_done"] = "round_done"
    summary: str = ""
    ends: Occasional[str] = ""
