"""Actions of a person and their effects: wishes, added prompts, edits, answers."""

from __future__ import annotations

from typing import Any, Literal

from memory.events.base import OutsideEvent, RoundEvent
from memory.events.brain import Tokens


class WishEvent(OutsideEvent):
    """A person's preference for all later plans; it belongs to no round.

    Attributes:
        wish: `id`, `kind`, `attributes`, `strength`, `share`, `text` and `since`, the first round
            that it applies to; for the kind `mix`, `synthetic_share` of trainings; for `schedule`,
            `schedule`, the rounds from `since` on.
    """

    kind: Literal["wish"] = "wish"
    wish: dict[str, Any]


class AdditionEvent(OutsideEvent):
    """A prompt that a person adds to the next plan.

    Attributes:
        addition: `id` and `prompt`.
    """

    kind: Literal["addition"] = "addition"
    addition: dict[str, Any]


class ForgetEvent(OutsideEvent):
    """A wish or an addition was withdrawn.

    Attributes:
        id: Id of the wish or addition.
    """

    kind: Literal["forget"] = "forget"
    id: str


class WishesShownEvent(RoundEvent):
    """A model's plan was returned once because it was made without knowing of new wishes.

    Attributes:
        wishes: Ids of the wishes that the model is now shown.
    """

    kind: Literal["told"] = "told"
    wishes: tuple[str, ...] = ()


class ProposedEvent(RoundEvent):
    """The draft of a plan after wishes and additions were applied, before approval.

    Attributes:
        made: `draft`, `shifts`, `additions`, `warnings`.
    """

    kind: Literal["proposed"] = "proposed"
    made: dict[str, Any]


class PlanEditEvent(RoundEvent, OutsideEvent):
    """A person edited a plan that waits for approval; the last edit is used.

    Attributes:
        question: Key of the approval that the plan waits for.
        made: As in `proposed`.
    """

    kind: Literal["plan_edit"] = "plan_edit"
    question: str
    made: dict[str, Any]


class SteeredEvent(RoundEvent):
    """The changes of the round's plan by wishes and additions.

    Attributes:
        shifts: For each wish, `wish` (its id) and the share of images `before` and `after`.
        additions: Ids of the additions that are in the plan.
    """

    kind: Literal["steered"] = "steered"
    shifts: tuple[dict[str, Any], ...] = ()
    additions: tuple[str, ...] = ()


class AnswerEvent(RoundEvent, OutsideEvent):
    """A person's answer to a question of the brain.

    Attributes:
        question: The question.
        answer: The answer.
    """

    kind: Literal["answer"] = "answer"
    question: str = ""
    answer: str = ""


class ApprovalEvent(RoundEvent, OutsideEvent):
    """A person's decision on a plan.

    Attributes:
        verdict: `approve` or `reject`.
        why: The reason given.
        by: `user`, or `nobody` after the time limit.
    """

    kind: Literal["approval"] = "approval"
    verdict: Literal["approve", "reject"]
    why: str = ""
    by: str = ""


class ChatCallEvent(OutsideEvent):
    """A person's question to the language model in chat, and its answer.

    Attributes:
        author: The brain that answers.
        question: The question.
        tool: Name of the called tool, None without a call.
        answer: Text of the answer, or the arguments of the call.
        tokens: Tokens of question and answer.
        usd: Cost in US dollars.
        seconds: Time until the answer.
    """

    kind: Literal["chat_call"] = "chat_call"
    author: str
    question: str = ""
    tool: str | None = None
    answer: str | None = None
    tokens: Tokens
    usd: float = 0.0
    seconds: float = 0.0
