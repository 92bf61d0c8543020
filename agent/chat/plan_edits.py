"""Edits of the pending plan by the chat commands `/edit` and `/add`.

Edits are pure functions from a plan and a line to a draft, which is validated like any other. They
raise ToolError with the legal forms.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from agent.loop.approval import ResolvedDraft
from agent.planners import PlanDraft, PromptDraft
from agent.planners.slices import shares_to_counts
from agent.steering.arguments import split_words, whole_number
from agent.steering.preferences import Preference
from agent.steering.steer import share
from memory.errors import ToolError, unknown
from memory.records import Plan, PromptSpec
from prompts.user_vocabulary import value_of
from prompts.vocabulary import Vocabulary

EDIT = "N count 12 | N ATTRIBUTE VALUE | N remove"
ADD = '"PROMPT" xN [ATTRIBUTE=VALUE ...]'
_TIMES = re.compile(r"[x×]\s?(-?\d+)|(-?\d+)\s?[x×]")  # noqa: RUF001 (people type it)


def edited(plan: Plan, text: str, n_images: int, vocabulary: Vocabulary) -> PlanDraft:
    """Apply a line of the form `EDIT` to a plan; rows are counted from 1.

    Args:
        plan: The plan.
        text: The line.
        n_images: Images of the round; if a count exceeds them, other rows shrink in proportion.
        vocabulary: Vocabulary of the target.
    """
    words = split_words(text)
    if len(words) < 2 or not words[0].isdecimal():
        raise ToolError("Say e.g. /edit 3 count 12, /edit 3 brightness dark, /edit 3 remove.")
    number = int(words[0][:6])
    if not 1 <= number <= len(plan.prompts):
        raise ToolError(f"The plan has no row {number}; its rows are 1 to {len(plan.prompts)}.")
    drafts = [_as_draft(prompt) for prompt in plan.prompts]
    field, _, value = words[1].partition("=")
    value = value or " ".join(words[2:])
    if field in ("remove", "delete"):
        if len(drafts) == 1:
            raise ToolError("It is the only row; /reject requests a new plan.")
        del drafts[number - 1]
    elif field in ("count", "images"):
        count = whole_number(value, n_images)
        drafts[number - 1] = drafts[number - 1].model_copy(update={"count": count})
        drafts = _fitted(drafts, number - 1, n_images)
    elif field == "text":
        drafts[number - 1] = PromptDraft(
            text=value, class_name=None, count=drafts[number - 1].count, why="edited"
        )
    else:
        drafts[number - 1] = _changed(drafts[number - 1], field, value, vocabulary)
    return _with_prompts(plan, drafts)


def added(plan: Plan, draft: PromptDraft, n_images: int) -> PlanDraft:
    """Add a prompt to a plan; the others shrink in proportion if `n_images` is exceeded."""
    drafts = _fitted([*map(_as_draft, plan.prompts), draft], len(plan.prompts), n_images)
    return _with_prompts(plan, drafts)


def read_addition(text: str, n_images: int) -> PromptDraft:
    """Parse a prompt of the form `ADD`, with 1 to `n_images` images."""
    words = split_words(text)
    texts: list[str] = []
    count = None
    given: dict[str, str] = {}
    class_name = None
    for word in words:
        if match := _TIMES.fullmatch(word):
            count = whole_number(match[1] or match[2], n_images)
        elif "=" in word:
            key, _, value = word.partition("=")
            if key == "class" and word != words[0]:
                class_name = value
            else:
                given[key] = value
        else:
            texts.append(word)
    if count is None or not (texts or given):
        raise ToolError(f'Say /add {ADD}, e.g. /add "a dark poly cell" x8')
    return PromptDraft(
        text=" ".join(texts),
        class_name=class_name,
        attributes=given,
        count=count,
        why="added by the user",
    )


def remade(
    resolved: ResolvedDraft,
    draft: PlanDraft,
    plan: Plan,
    held: Sequence[Preference],
    vocabulary: Vocabulary,
) -> ResolvedDraft:
    """Return a resolved draft with an edited draft in place of the resolved one.

    Args:
        resolved: The resolved draft.
        draft: The edited draft.
        plan: Plan of the edited draft, whose shares replace those after each shift.
        held: Active preferences.
        vocabulary: Vocabulary of the target.
    """
    by_id = {preference.id: preference for preference in held}
    shifts = [
        shift.model_copy(update={"after": share(by_id[shift.preference], plan.prompts, vocabulary)})
        for shift in resolved.shifts
        if shift.preference in by_id
    ]
    return resolved.model_copy(update={"draft": draft, "shifts": tuple(shifts)})


def _changed(draft: PromptDraft, key: str, value: str, vocabulary: Vocabulary) -> PromptDraft:
    """Return a prompt with another attribute value or class, and the caption of its attributes."""
    if key == "class":
        named = [c for c in vocabulary.classes if value_of(c) == value_of(value)]
        value = named[0] if named else value
        if value not in vocabulary.classes:
            raise ToolError(unknown("class", value[:40], vocabulary.classes))
        key = vocabulary.class_attribute or ""
        meant = [v for v, name in vocabulary.class_of.items() if name == value]
        if not meant:
            return draft
        value = value if value in meant else meant[0]
    if key not in vocabulary.attributes:
        fields = ["count", "text", "class", "remove", *vocabulary.attributes]
        raise ToolError(unknown("cell", key[:40], fields))
    value = value if value in vocabulary.attributes[key] else value_of(value)
    if value not in vocabulary.attributes[key]:
        raise ToolError(unknown(f"value of {key}", value[:40], vocabulary.attributes[key]))
    attributes = {**draft.attributes, key: value}
    for dependent, needs in vocabulary.requires.items():
        if dependent in attributes and any(
            attributes.get(other) not in allowed for other, allowed in needs.items()
        ):
            if dependent == key:
                raise ToolError("; ".join(vocabulary.problems(attributes)) + ".")
            del attributes[dependent]
    return PromptDraft(
        text=vocabulary.caption(attributes),
        class_name=vocabulary.class_name(attributes) or draft.class_name,
        attributes=attributes,
        count=draft.count,
        why="edited by the user",
    )


def _fitted(drafts: list[PromptDraft], fixed: int, n_images: int) -> list[PromptDraft]:
    """Shrink all drafts but `fixed` in proportion to `n_images` in total; drop empty ones."""
    total, left = sum(d.count for d in drafts), n_images - drafts[fixed].count
    others = [d for i, d in enumerate(drafts) if i != fixed]
    if total <= n_images or not others:
        return drafts
    counts = shares_to_counts([d.count for d in others], max(0, left))
    scaled = [d.model_copy(update={"count": n}) for d, n in zip(others, counts, strict=True)]
    scaled.insert(fixed, drafts[fixed])
    return [d for d in scaled if d.count]


def _with_prompts(plan: Plan, prompts: Sequence[PromptDraft]) -> PlanDraft:
    levers = plan.levers
    if levers and levers.n_images:
        levers = levers.model_copy(update={"n_images": sum(prompt.count for prompt in prompts)})
    return PlanDraft(
        prompts=tuple(prompts),
        hypothesis=plan.hypothesis,
        why=plan.why,
        levers=levers,
    )


def _as_draft(prompt: PromptSpec) -> PromptDraft:
    return PromptDraft.model_validate(prompt.model_dump(exclude={"id", "guidance"}))
