"""What a person does, and what becomes of it: wishes, added prompts, edits, answers."""

from __future__ import annotations

from typing import Any, Literal

from memory.events.base import OutsideEvent, RoundEvent
from memory.events.brain import Tokens


class WishEvent(OutsideEvent):
    """What a person wants of all later plans; it belongs to no round.

    Attributes:
        wish: `id`, `kind`, `attributes`, `strength`, `share`, `text` and `since`, the first round
            that it is for; of the kind `mix` `synthetic_share`, that of trainings; of `schedule`
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
    """A wish or an addition is taken back.

    Attributes:
        id: Its id.
    """

    kind: Literal["forget"] = "forget"
    id: str


class WishesShownEvent(RoundEvent):
    """A model's plan was turned down once, as the model could not know of new wishes.

    Attributes:
        wishes: Ids of the wishes that the model is shown now.
    """

    kind: Literal["told"] = "told"
    wishes: tuple[str, ...] = ()


class ProposedEvent(RoundEvent):
    """The draft of a plan as wishes and additions have made it, before it is asked about.

    Attributes:
        made: `draft`, `shifts`, `additions`, `warnings`.
    """

    kind: Literal["proposed"] = "proposed"
    made: dict[str, Any]


class PlanEditEvent(RoundEvent, OutsideEvent):
    """A person edited a plan while it waits for approval; the last edit counts.

    Attributes:
        question: Key of the approval that it waits for.
        made: As in `proposed`.
    """

    kind: Literal["plan_edit"] = "plan_edit"
    question: str
    made: dict[str, Any]


class SteeredEvent(RoundEvent):
    """What wishes and additions changed in the plan of the round.

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
        why: The reason that they gave.
        by: `user`, or `nobody` where time ran out.
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
        tool: Name of the tool that it called, None for none.
        answer: Its text, or the arguments of the call.
        tokens: Tokens of both.
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
