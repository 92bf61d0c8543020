"""A plan, or a question of the agent, that waits for a person: what is asked, what is answered."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agent.loop.expectations import Expectation
from agent.loop.state import EventLog
from agent.planners import PlanDraft
from agent.steering.preferences import PreferenceEffect
from memory.errors import ToolError
from memory.events import AnswerEvent, ApprovalEvent
from memory.records import Plan, Record


class Rejected(ToolError):
    """A legal call that a person, or a wish of theirs, turns down; no mistake of the brain."""


class ResolvedDraft(Record):
    """What wishes and additions of a person have made of a draft.

    shifts: what wishes moved; additions: ids of those that are in it; warnings: preferences that a
    language model did not follow.
    """

    draft: PlanDraft
    shifts: tuple[PreferenceEffect, ...] = ()
    additions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class ApprovalRequest(Record):
    """A question that the graph waits for.

    `key` names the journal's event that answers it, so a question that was answered before a crash
    is not asked again. One for words has a `text`; one about a plan has the plan, checked already,
    what the memory expects of it, and for each prompt's id the nearest earlier prompt.
    """

    key: str
    kind: Literal["words", "plan"]
    round: int = Field(ge=1)
    text: str = ""
    plan: Plan | None = None
    expectation: Expectation | None = None
    nearest: dict[str, str] = Field(default_factory=dict)
    resolved: ResolvedDraft | None = None


class ApprovalDecision(Record):
    """What was answered; `text` is the words, or why a plan was rejected.

    by: "nobody" where a plan was approved because no answer came in time.
    """

    verdict: Literal["words", "approve", "reject"]
    text: str = Field("", max_length=2000)
    by: Literal["user", "nobody"] = "user"


def journal_answer(journal: EventLog, question: ApprovalRequest, answer: ApprovalDecision) -> None:
    """Journal the answer of a person, with which the graph continues."""
    key, number, text = question.key, question.round, answer.text
    if question.kind == "words" or answer.verdict == "words":
        journal.append(AnswerEvent(key=key, round=number, question=question.text, answer=text))
    else:
        event = ApprovalEvent(key=key, round=number, verdict=answer.verdict, why=text, by=answer.by)
        journal.append(event)
