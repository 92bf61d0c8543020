"""What a person at a session is asked, and what they answer: words, or a verdict on a plan."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from agent.loop.expectations import Expectation
from agent.planners import PlanDraft
from agent.steering.preferences import Effect
from memory.errors import ToolError
from memory.records import Plan, Record


class Rejected(ToolError):
    """A legal call that a person, or a wish of theirs, turns down; no mistake of the brain."""


class Made(Record):
    """What trials, and wishes and additions of a person, have made of a draft.

    shifts: what wishes moved; additions: ids of those that are in it; warnings: preferences that a
    language model did not follow.
    """

    draft: PlanDraft
    shifts: tuple[Effect, ...] = ()
    additions: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()


class Question(Record):
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
    made: Made | None = None


class Answer(Record):
    """What was answered; `text` is the words, or why a plan was rejected.

    by: "nobody" where a plan was approved because no answer came in time.
    """

    verdict: Literal["words", "approve", "reject"]
    text: str = Field("", max_length=2000)
    by: Literal["user", "nobody"] = "user"
