"""Requests that wait for a person, a plan to approve or a question to answer, and the answers."""

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
    """A legal call rejected by a person or by one of their preferences; not counted as illegal."""


class ResolvedDraft(Record):
    """A draft to which the user's preferences and additions were applied.

    Attributes:
        draft: The resulting draft.
        shifts: Share of the images before and after, for each preference.
        additions: Ids of the additions that the draft includes.
        warnings: Preferences that a language model did not follow, in words.
    """

    draft: PlanDraft
    shifts: tuple[PreferenceEffect, ...] = ()
    additions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class ApprovalRequest(Record):
    """A question whose answer the graph waits for.

    Attributes:
        key: Key of the journal event that answers it; a question that was answered before a crash
            is not asked again.
        kind: "words" for a free-text question, "plan" for the approval of a plan.
        round: Number of the round.
        text: The question, for "words".
        plan: The validated plan, for "plan".
        expectation: Outcome of the plan that the memory predicts.
        nearest: The most similar earlier prompt in words, by the id of the plan's prompt.
        resolved: The draft that the plan was made from.
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
    """The answer to an `ApprovalRequest`.

    Attributes:
        verdict: "words" for a free-text answer, otherwise the decision on a plan.
        text: The answer, or the reason for a rejection.
        by: "nobody" if a plan was approved because no answer came in time.
    """

    verdict: Literal["words", "approve", "reject"]
    text: str = Field("", max_length=2000)
    by: Literal["user", "nobody"] = "user"


def journal_answer(journal: EventLog, question: ApprovalRequest, answer: ApprovalDecision) -> None:
    """Journal a person's answer, so that the graph can continue."""
    key, number, text = question.key, question.round, answer.text
    if question.kind == "words" or answer.verdict == "words":
        journal.append(AnswerEvent(key=key, round=number, question=question.text, answer=text))
    else:
        event = ApprovalEvent(key=key, round=number, verdict=answer.verdict, why=text, by=answer.by)
        journal.append(event)
