"""From a draft to a plan: every proposal is checked before anything is generated."""

from __future__ import annotations

from collections.abc import Callable

from agent.planners import PlanDraft, PromptDraft
from memory.errors import ToolError, unknown
from memory.records import Plan, PromptSpec
from prompts.vocabulary import Vocabulary

MAX_PROMPTS = 200


def validate(
    draft: PlanDraft,
    round_number: int,
    n_images: int,
    author: str,
    vocabulary: Vocabulary,
    count_tokens: Callable[[str], int],
    max_tokens: int,
) -> Plan:
    """Return the plan, or raise ToolError with everything that is wrong and what would be legal.

    A prompt's class is the one given or the one its words imply; a prompt over the token limit is
    allowed but named in `warnings`, since its end has no effect.
    """
    problems = []
    if not draft.prompts:
        problems.append("a plan needs at least one prompt")
    if len(draft.prompts) > MAX_PROMPTS:
        problems.append(f"{len(draft.prompts)} prompts are too many; at most {MAX_PROMPTS}")
    total = sum(max(p.count, 0) for p in draft.prompts)
    if total > n_images:
        problems.append(f"the counts add up to {total}, but only {n_images} images are left")
    specs, warnings = [], []
    for number, prompt in enumerate(draft.prompts[:MAX_PROMPTS]):
        found = _problems(prompt, vocabulary)
        if found:
            problems += [f"prompt {number + 1} ({prompt.text[:60]!r}): {text}" for text in found]
            continue
        spec = _spec(prompt, f"r{round_number:03d}p{number:02d}", vocabulary)
        n_tokens = count_tokens(spec.text)
        if n_tokens > max_tokens:
            warnings.append(
                f"prompt {number + 1} has {n_tokens} tokens; the generator reads only the first "
                f"{max_tokens}: {spec.text[:80]!r}"
            )
        specs.append(spec)
    if draft.hypothesis and not -1 <= draft.hypothesis.expected_change <= 1:
        problems.append("expected_change must lie between -1 and 1")
    if problems:
        raise ToolError("The plan was not accepted: " + "; ".join(problems) + ".")
    return Plan(
        round=round_number,
        author=author,
        prompts=tuple(specs),
        hypothesis=draft.hypothesis,
        why=draft.why[:500],
        warnings=tuple(warnings),
    )


def _problems(prompt: PromptDraft, vocabulary: Vocabulary) -> list[str]:
    found = vocabulary.problems(prompt.attributes)
    if not 0 < len(prompt.text.strip()) <= 1000:
        found.append(f"the text must have 1 to 1000 characters, it has {len(prompt.text.strip())}")
    if not 1 <= prompt.count <= 100_000:
        found.append(f"the count must be 1 or more, it is {prompt.count}")
    if prompt.class_name is not None and prompt.class_name not in vocabulary.classes:
        found.append(unknown("class", prompt.class_name, vocabulary.classes))
    implied = vocabulary.class_name(prompt.attributes or vocabulary.parse(prompt.text))
    if prompt.class_name is None and implied is None:
        found.append(f"it names no class; say one of {', '.join(vocabulary.classes)}")
    if prompt.class_name and implied and prompt.class_name != implied:
        found.append(f"its words mean {implied!r}, but its class is {prompt.class_name!r}")
    return found


def _spec(prompt: PromptDraft, prompt_id: str, vocabulary: Vocabulary) -> PromptSpec:
    attributes = prompt.attributes or vocabulary.parse(prompt.text)
    class_name = prompt.class_name or vocabulary.class_name(attributes)
    assert class_name is not None  # _problems has refused prompts without a class
    return PromptSpec(
        id=prompt_id,
        text=prompt.text.strip(),
        class_name=class_name,
        attributes=attributes,
        count=prompt.count,
        why=prompt.why[:500],
    )
