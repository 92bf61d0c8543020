"""Validation of drafts: every proposed plan is checked before anything is generated."""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Callable, Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

from pydantic import ValidationError

from agent.planners import PlanDraft, PromptDraft
from memory.errors import ToolError, unknown
from memory.records import Hypothesis, Plan, PromptSpec, slice_key
from prompts.printable import one_line
from prompts.render import quote
from prompts.vocabulary import Vocabulary

MAX_PROMPTS = 200
MAX_COUNT = 100_000
# Minimum share of the budget that a language model's plan spends, and minimum number of prompts.
LEAST_SPENT, LEAST_PROMPTS = 0.9, 4
# Maximum number of problems and of characters in a refusal, so that it fits into any context.
MAX_PROBLEMS = 10
MAX_REFUSAL = 2000
_MAX_PROBLEM = 400
_MAX_WARNINGS = 10
_MAX_TEXT = 1000
# Maximum length in characters of a quotation in a message.
_QUOTED = 80

_PAIR = re.compile(r"([^\s=:,;&+/|]+)\s*[=:]\s*([^\s=:,;&+/|]+)")
_SEPARATORS = re.compile(r"(?:[\s,;&+/|]|\band\b)*")


@dataclass(frozen=True)
class PlanRules:
    """Rules that the plan of a round is checked against.

    Attributes:
        vocabulary: Attributes, values and classes of the target.
        n_images: Budget of the round.
        count_tokens: Returns the number of tokens of a text.
        max_tokens: Number of tokens that the generator reads.
        slices: Keys of the slices of the last report.
        pull: Guidance by the DSTM for prompts that do not specify one.
        no_guidance: Why the DSTM cannot guide images in this round. None: it can. Prompts that
            request guidance get a warning.
        adapters: Names of the adapters that prompts may weight. If empty, prompts that weight
            adapters get a warning.
        undrawn: Returns the words of a text that the generator cannot draw.
        open_vocabulary: Whether the generator may follow any words. The text of a prompt with
            attributes is then not parsed, as it may express them in other words.
    """

    vocabulary: Vocabulary
    n_images: int
    count_tokens: Callable[[str], int]
    max_tokens: int
    slices: Sequence[str] = ()
    pull: str | None = None
    no_guidance: str | None = None
    adapters: Collection[str] = ()
    undrawn: Callable[[str], Sequence[str]] = lambda text: ()
    open_vocabulary: bool = False


def validate(draft: PlanDraft, round_number: int, author: str, rules: PlanRules) -> Plan:
    """Validate a draft and return its plan.

    A prompt has the given attributes and those parsed from its text; a prompt without text gets one
    from the caption grammar; its class is the given one or follows from its attributes. Prompts
    with equal text, class, pull and adapters are merged. The hypothesis gets the canonical key of
    its slice.

    Args:
        draft: The proposed plan.
        round_number: Number of the round.
        author: The brain that plans, e.g. `policy:thompson`.
        rules: Rules of the round.

    Returns:
        The plan. Its `warnings`, at most 10, name legal but ineffective choices: a text over the
        token limit, words outside the vocabulary, attributes that the text does not mention, a
        slice that is not measured.

    Raises:
        ToolError: The draft is invalid; the message names at most 10 problems and what would be
            legal, in at most 2,000 characters.
    """
    problems = _problems_of_size(draft, rules.n_images)
    specs: dict[Hashable, PromptSpec] = {}
    warnings = []
    n_merged = 0
    for number, prompt in enumerate(draft.prompts[:MAX_PROMPTS]):
        name = f"prompt {number + 1}"
        text = one_line(prompt.text)
        is_free = rules.open_vocabulary and bool(text and prompt.attributes)
        named = {} if is_free else rules.vocabulary.parse(text[:_MAX_TEXT])
        if faults := _problems(prompt, text, named, rules):
            problems += [f"{name} ({quote(text, _QUOTED)}): {problem}" for problem in faults]
            continue
        spec = _spec(prompt, text, named, f"r{round_number:03d}p{number:02d}", rules)
        if draft.levers and draft.levers.guidance is not None:
            spec = spec.model_copy(update={"guidance": draft.levers.guidance})
        about = _left_out(prompt, rules)
        weighed = tuple(sorted((spec.adapters or {}).items()))
        same = (spec.text, spec.class_name, spec.pull, weighed)
        if earlier := specs.get(same):
            n_merged += 1
            spec = earlier.model_copy(update={"count": earlier.count + spec.count})
        else:
            about += _warnings(spec, rules)
        warnings += [f"{name} {warning}" for warning in about]
        specs[same] = spec
    if n_merged:
        warnings.append(f"{n_merged} prompts repeated another and were added to it")
    hypothesis = None
    if draft.hypothesis:
        key, problem, warning = _check_slice(draft.hypothesis.slice, rules)
        problems += problem
        warnings += warning
        hypothesis = Hypothesis(slice=key, expected_change=draft.hypothesis.expected_change)
    if problems:
        raise refusal(problems)
    return Plan(
        round=round_number,
        author=author,
        prompts=tuple(specs.values()),
        hypothesis=hypothesis,
        why=one_line(draft.why)[:500],
        warnings=_bounded(warnings, _MAX_WARNINGS, "warnings"),
        levers=draft.levers,
    )


def least_prompts(n_images: int, images_per_prompt: int) -> int:
    """Return the minimum number of prompts of a language model's plan: four, fewer if it is small.

    images_per_prompt: Usual number of images per prompt.
    """
    return max(1, min(LEAST_PROMPTS, n_images // images_per_prompt))


def shortfalls(
    prompts: Sequence[PromptSpec],
    n_images: int,
    n_prompts: int,
    classes: Sequence[str],
    made: Mapping[str, int],
) -> list[str]:
    """Return what a language model's plan lacks, with numbers; empty if it lacks nothing.

    A class needs images if it would have less than half of an equal share of all images so far: if
    only some classes have generated images, a DSTM learns artefacts of generated images as features
    of these classes.

    Args:
        prompts: Prompts of the plan.
        n_images: Budget of the round.
        n_prompts: Minimum number of prompts, see `least_prompts`.
        classes: Classes that need images; ignored if fewer than two.
        made: Number of images of earlier rounds, by class.
    """
    problems = []
    total = sum(prompt.count for prompt in prompts)
    least = math.ceil(LEAST_SPENT * n_images)
    if total < least:
        problems.append(f"the counts add up to {total} of {n_images} images; spend {least} or more")
    if len(prompts) < n_prompts:
        problems.append(f"{len(prompts)} different prompts are too few; {n_prompts} are needed")
    if len(classes) < 2:
        return problems
    in_all = sum(made.values()) + n_images
    for name in classes:
        n_planned = sum(prompt.count for prompt in prompts if prompt.class_name == name)
        least = in_all // (2 * len(classes)) - made.get(name, 0)
        if n_planned < least:
            problems.append(
                f"the class {name!r} has {n_planned} of {n_images} images, and "
                f"{made.get(name, 0)} of the rounds before; it needs {least} now"
            )
    return problems


def wrong_arguments(tool: str, error: ValidationError) -> str:
    """Describe which arguments of a tool call are wrong, and how."""
    wrong = "; ".join(
        f"{'.'.join(map(str, e['loc']))[:100] or 'arguments'}: {e['msg'][:200]}"
        for e in error.errors()[:5]
    )
    return f"The arguments of {tool} are wrong: {wrong}."


def refusal(problems: Sequence[str]) -> ToolError:
    """Return the error that lists the problems of a plan."""
    cut = [p if len(p) <= _MAX_PROBLEM else f"{p[: _MAX_PROBLEM - 3]}..." for p in problems]
    start = "The plan was not accepted: "
    n_shown = min(len(cut), MAX_PROBLEMS)
    # Leave room for the number of problems that are not shown.
    while len(start) + len("; ".join(cut[:n_shown])) > MAX_REFUSAL - 30:
        n_shown -= 1
    return ToolError(start + "; ".join(_bounded(cut, n_shown, "problems")) + ".")


def slice_attributes(text: str) -> dict[str, str] | None:
    """Parse the name of a slice, such as "wafer=poly, brightness=dark", in any order.

    Name and value may be joined by "=" or ":", and pairs separated by blanks, commas, semicolons,
    "&", "+", "/", "|" or "and". None if the text is anything else or names an attribute twice.
    """
    lowered = text[:_MAX_TEXT].lower()
    pairs = _PAIR.findall(lowered)
    attributes = dict(pairs)
    rest = _PAIR.sub(" ", lowered)
    if not pairs or len(attributes) < len(pairs) or not _SEPARATORS.fullmatch(rest):
        return None
    return attributes


def _check_slice(text: str, rules: PlanRules) -> tuple[str, list[str], list[str]]:
    """Return a slice's canonical key, its problems and its warnings, at most one of either."""
    vocabulary, slices = rules.vocabulary, rules.slices
    attributes = slice_attributes(text)
    key = slice_key(attributes) if attributes else one_line(text)
    if key in slices:
        return key, [], []
    values = [f"{name}={value}" for name, known in vocabulary.attributes.items() for value in known]
    near = difflib.get_close_matches(key[:200], slices or values, n=5, cutoff=0.4)
    names = ", ".join(near or (slices or values)[:5])
    if attributes is None or vocabulary.problems(attributes):
        problem = f"the hypothesis names no slice: {quote(text, _QUOTED)}; near it are: {names}"
        return key, [problem], []
    if slices:
        warning = f"the slice {key!r} is not measured, so nothing will settle it; near: {names}"
        return key, [], [warning]
    return key, [], []


def _problems_of_size(draft: PlanDraft, n_images: int) -> list[str]:
    """Return the problems of the numbers of prompts and images."""
    problems = []
    if not draft.prompts:
        problems.append("a plan needs at least one prompt")
    if len(draft.prompts) > MAX_PROMPTS:
        problems.append(f"{len(draft.prompts)} prompts are too many; at most {MAX_PROMPTS}")
    total = sum(max(p.count, 0) for p in draft.prompts)
    if total > n_images:
        problems.append(
            f"the counts add up to {_say_count(total)}, but only {n_images} images are left"
        )
    return problems


def _problems(
    prompt: PromptDraft, text: str, named: Mapping[str, str], rules: PlanRules
) -> list[str]:
    """Return the problems of a prompt; named: Attributes parsed from its text."""
    vocabulary, attributes = rules.vocabulary, {**named, **prompt.attributes}
    problems = vocabulary.problems(attributes)
    problems += [
        f"its text says {key}={named[key]}, but its attributes say {key}={value}"
        for key, value in prompt.attributes.items()
        if named.get(key, value) != value and value in vocabulary.attributes[key]
    ]
    if len(text) > _MAX_TEXT or not (text or prompt.attributes):
        problems.append(f"the text must have 1 to {_MAX_TEXT} characters, it has {len(text)}")
    if prompt.count < 1:
        problems.append(f"the count must be 1 or more, it is {_say_count(prompt.count)}")
    if prompt.count > MAX_COUNT:
        problems.append(f"the count must be at most {MAX_COUNT}, it is {_say_count(prompt.count)}")
    if prompt.class_name is not None and prompt.class_name not in vocabulary.classes:
        problems.append(unknown("class", prompt.class_name[:_QUOTED], vocabulary.classes))
    value = attributes.get(vocabulary.class_attribute or "")
    implied = vocabulary.class_of.get(value) if value else None
    if prompt.class_name is None and value is None and vocabulary.class_attribute:
        problems.append(f"it names no class; say one of {', '.join(vocabulary.classes)}")
    if prompt.class_name in vocabulary.classes and implied and prompt.class_name != implied:
        problems.append(f"its words mean {implied!r}, but its class is {prompt.class_name!r}")
    foreign = (prompt.adapters or {}).keys() - set(rules.adapters) if rules.adapters else ()
    return problems + [unknown("adapter", n[:_QUOTED], rules.adapters) for n in sorted(foreign)]


def _say_count(count: int) -> str:
    """Format a count; Python refuses to format integers of more than 4,300 digits."""
    return str(count) if abs(count) < 10**12 else f"{'-' if count < 0 else ''}more than 10^12"


def _left_out(prompt: PromptDraft, rules: PlanRules) -> list[str]:
    """Return warnings about requests of a prompt that are ignored: guidance and adapters."""
    warnings = []
    if prompt.pull and rules.no_guidance:
        warnings.append(f"is drawn without its pull: {rules.no_guidance}")
    if prompt.adapters and not rules.adapters:
        warnings.append("is drawn without adapters: the generator has none")
    return warnings


def _warnings(spec: PromptSpec, rules: PlanRules) -> list[str]:
    """Return warnings about parts of a prompt that the generator may not draw."""
    vocabulary, n_tokens = rules.vocabulary, rules.count_tokens(spec.text)
    warnings = []
    if n_tokens > rules.max_tokens:
        limit = f"the generator reads only the first {rules.max_tokens}"
        warnings.append(f"has {n_tokens} tokens; {limit}")
    foreign = () if rules.open_vocabulary else vocabulary.foreign_words(spec.text)
    if foreign:
        warnings.append(f"has words that the vocabulary has not: {_quoted_words(foreign)}")
    named = vocabulary.parse(spec.text)
    unnamed = [f"{key}={value}" for key, value in spec.attributes.items() if key not in named]
    key = vocabulary.class_attribute
    if key and key not in named and key not in spec.attributes:
        unnamed.append(f"the class {spec.class_name!r}")
    if unnamed and not rules.open_vocabulary:
        warnings.append(f"does not say {', '.join(unnamed)}, and the generator reads only the text")
    warnings = [f"{warning}: {quote(spec.text, _QUOTED)}" for warning in warnings]
    if idle := rules.undrawn(spec.text):
        warnings.append(f"has words that the generator cannot draw: {_quoted_words(idle)}")
    return warnings


def _quoted_words(words: Sequence[str]) -> str:
    more = " and others" if len(words) > 5 else ""
    return ", ".join(quote(word, 30) for word in words[:5]) + more


def _spec(
    prompt: PromptDraft,
    text: str,
    named: Mapping[str, str],
    prompt_id: str,
    rules: PlanRules,
) -> PromptSpec:
    vocabulary, attributes = rules.vocabulary, {**named, **prompt.attributes}
    class_name = prompt.class_name or vocabulary.class_name(attributes)
    assert class_name is not None  # _problems has refused prompts without a class
    key = vocabulary.class_attribute
    if not text and key and key not in attributes:
        values = [value for value, meant in vocabulary.class_of.items() if meant == class_name]
        attributes[key] = class_name if class_name in values else values[0]
    return PromptSpec(
        id=prompt_id,
        text=text or vocabulary.caption(attributes),
        class_name=class_name,
        attributes=attributes,
        count=prompt.count,
        pull=None if rules.no_guidance else prompt.pull or rules.pull,
        adapters=(prompt.adapters or None) if rules.adapters else None,
        why=one_line(prompt.why)[:500],
    )


def _bounded(lines: Sequence[str], n: int, what: str) -> tuple[str, ...]:
    more = len(lines) - n
    return (*lines[:n], f"and {more} more {what}") if more > 0 else tuple(lines)
