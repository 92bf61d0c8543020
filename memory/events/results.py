"""The plan of a round and what has come of it; the types are the records of memory/records.py."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from memory.events.base import Event, Occasional, RoundEvent
from memory.records import Batch, Credit, Failure, Lesson, Plan, Report, Training, Verdict


class PlanEvent(Event):
    """A plan was accepted.

    Attributes:
        plan: The plan.
        expectation: What the memory lets it expect, as `agent.loop.expectations.Expectation`
            without its time.
        n_tokens: Length of its texts in tokens of the generator.
        max_tokens: The longest text that the generator takes.
        undrawn: Words that the generator cannot draw, by text, if any.
        draft: What the author made of a draft: `accept`, `edit`; "" for a plan of its own.
    """

    kind: Literal["plan"] = "plan"
    plan: Plan
    expectation: dict[str, Any] = Field({})
    n_tokens: dict[str, int] = Field({})
    max_tokens: int = 0
    undrawn: Occasional[dict[str, tuple[str, ...]]] = Field({})
    draft: Occasional[str] = ""


class GeneratorEvent(Event):
    """What draws, once a session.

    Attributes:
        identity: Digest of weights and sampling.
    """

    kind: Literal["generator"] = "generator"
    identity: str


class StageEvent(RoundEvent):
    """A stage of the round has ended.

    Attributes:
        stage: `generate`, `train`, `evaluate` or `inspect`.
        seconds: Time worked, pauses apart.
    """

    kind: Literal["stage"] = "stage"
    stage: str
    seconds: float


class BatchEvent(Event):
    """Images were drawn and audited.

    Attributes:
        batch: Id of the job, shards with SHA-256, made and kept images of every prompt.
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
    """What the prompts of the round did for the slices.

    Attributes:
        credits: One for each prompt and slice.
    """

    kind: Literal["credits"] = "credits"
    credits: tuple[Credit, ...] = ()


class VerdictEvent(RoundEvent):
    """How the hypothesis of the plan came out.

    Attributes:
        verdict: The hypothesis, the figures before and after, and whether it held.
    """

    kind: Literal["verdict"] = "verdict"
    verdict: Verdict


class LessonEvent(Event):
    """What later sessions may recall of the round.

    Attributes:
        lesson: A sentence and what it rests on.
    """

    kind: Literal["lesson"] = "lesson"
    lesson: Lesson


class FailuresEvent(RoundEvent):
    """Where the DSTM of the round fails; written when the brain asks for it.

    Attributes:
        failures: Slices and clusters, ids of their photographs, and pictures.
    """

    kind: Literal["failures"] = "failures"
    failures: tuple[Failure, ...] = ()


class RoundDoneEvent(RoundEvent):
    """The round has ended.

    Attributes:
        summary: What the brain says of it.
        ends: Why the brain ends the session with it; "": it does not.
    """

    kind: Literal["round_done"] = "round_done"
    summary: str = ""
    ends: Occasional[str] = ""
