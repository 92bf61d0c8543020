"""The first messages of a round, within the space that a model has.

Figures come from records; text that comes from data (memory, the user) is quoted and cut.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from agent.loop.drafts import PolicyDraft, share_of
from eval.report.blocks import failure_lines, plain, report_lines, verdict_text
from memory.items import Hit, MemoryItem
from memory.records import Failure, Report, Verdict, slice_key
from prompts.render import quote, render_text, source
from prompts.vocabulary import Vocabulary

# Most characters that are quoted of one text, by what it is.
_WISH, _LESSON, _PROMPT, _SLICE = 300, 240, 160, 80
_MAX_WISHES = 5
_MAX_CREDITS = 3
_MAX_SHARES = 8
_MAX_FAILURES = 10


@dataclass(frozen=True)
class Facts:
    """What a brain may know at the start of a round; plain data, nothing is looked up.

    Attributes:
        target: Name of the target.
        class_names: Classes of its images.
        vocabulary: Its attributes and their values.
        round: Number of the round.
        rounds: Rounds of the session.
        n_images: Budget of this round.
        images_left: Budget of this and all later rounds.
        images_per_prompt: Images that a prompt usually gets.
        max_chars: Space for the system text and the observation together.
        report: The last report.
        previous: The report before it.
        failures: Failures of the last report.
        verdict: How the last hypothesis came out.
        lessons: Lessons of the memory.
        similar: Prompts of the memory with what they achieved.
        steering: Answers and preferences of the user, the latest last.
        seconds_per_image: Time to draw one, None while it is not known.
        wishes: Ids of the preferences that hold.
        tokens_left: None without a limit.
        usd_left: None without a limit.
        baseline: The main figure of round 0 on feedback, None without a round 0.
        draft: A policy's plan for the round, which a language model may take.
    """

    target: str
    class_names: Sequence[str]
    vocabulary: Vocabulary
    round: int
    rounds: int
    n_images: int
    images_left: int
    images_per_prompt: int
    max_chars: int
    report: Report | None = None
    previous: Report | None = None
    failures: Sequence[Failure] = ()
    verdict: Verdict | None = None
    lessons: Sequence[MemoryItem] = ()
    similar: Sequence[Hit] = ()
    steering: Sequence[str] = ()
    seconds_per_image: float | None = None
    wishes: Sequence[str] = ()
    tokens_left: int | None = None
    usd_left: float | None = None
    baseline: float | None = None
    draft: PolicyDraft | None = None


class _Detail(NamedTuple):
    """How many entries of each optional part are shown."""

    similar: int
    lessons: int
    failures: int
    slices: int


def prompt_files() -> dict[str, str]:
    """Return the texts of the prompt files that a session shows to its brain, by name."""
    return {name: source(name) for name in ("system", "observation", "json_action")}


def brief(facts: Facts, templates: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Return the system text, the same in every round, and the observation of this round.

    Words, budget, wishes of the user (the last 5, 300 characters each), the overall figures and the
    last hypothesis are always shown, so a very small `max_chars` is exceeded. If both
    texts are longer, entries are left out: first the least similar prompts, then lessons, failures
    beyond the third, slices, the other failures.

    Args:
        facts: What is known.
        templates: Texts that stand in for the `prompt_files`.
    """
    templates = templates or prompt_files()
    system = _system(facts, templates["system"])
    observation = ""
    for detail in _details(facts):
        observation = _observation(facts, detail, templates["observation"])
        if len(system) + len(observation) <= facts.max_chars:
            break
    return system, observation


def say_prompt(hit: Hit, limit: int = _PROMPT) -> str:
    """Say a prompt of the memory with its kept-rate and its largest credits."""
    data = hit.item.data
    line = quote(hit.item.text, limit)
    made, rate = data.get("n_made"), data.get("kept_rate")
    if isinstance(made, float | int) and isinstance(rate, float | int):
        line += f": {rate:.2f} of {made:.0f} images kept"
    credits_ = [
        (name.removeprefix("credit "), float(value))
        for name, value in data.items()
        if name.startswith("credit ") and isinstance(value, float | int)
    ]
    largest = sorted(credits_, key=lambda item: -abs(item[1]))[:_MAX_CREDITS]
    if largest:
        texts = (f"{quote(key, _SLICE)} {value:+.3f}" for key, value in largest)
        line += f"; credit {', '.join(texts)}"
    return line


def _details(facts: Facts) -> Iterator[_Detail]:
    """Yield ever shorter ways to say the facts, one thing less each time."""
    detail = _Detail(
        similar=len(facts.similar),
        lessons=len(facts.lessons),
        failures=min(_MAX_FAILURES, sum(f.significant for f in facts.failures)),
        slices=5 if facts.report else 0,
    )
    yield detail
    for name, least in (("similar", 0), ("lessons", 0), ("failures", 3), ("slices", 0)):
        for n in range(getattr(detail, name) - 1, least - 1, -1):
            detail = detail._replace(**{name: n})
            yield detail
    yield detail._replace(failures=0)


def _system(facts: Facts, template: str) -> str:
    vocabulary = facts.vocabulary
    words = [f"- {key}: {', '.join(values)}" for key, values in vocabulary.attributes.items()]
    meanings = [
        f"Class {name}: {vocabulary.class_attribute} is "
        f"{' or '.join(v for v, meant in vocabulary.class_of.items() if meant == name)}."
        for name in vocabulary.classes
        if name in vocabulary.class_of.values()
    ]
    needs = [
        f"Name {key} only where {other} is {' or '.join(allowed)}."
        for key, conditions in vocabulary.requires.items()
        for other, allowed in conditions.items()
    ]
    attributes = _example(vocabulary)
    prompt = {"attributes": attributes, "count": min(facts.images_per_prompt, facts.n_images)}
    plan = {
        "prompts": [prompt],
        "why": "this slice is the worst",
        "hypothesis": {"slice": slice_key(attributes), "expected_change": 0.05},
    }
    return render_text(
        template,
        target=facts.target,
        classes=", ".join(facts.class_names),
        words="\n".join(words),
        rules="\n".join([*meanings, *needs]),
        example_text=quote(vocabulary.caption(attributes), _PROMPT),
        example=json.dumps(plan, ensure_ascii=False),
    )


def _example(vocabulary: Vocabulary) -> dict[str, str]:
    """Return legal attributes: the last value of the class attribute and of another one."""
    names = [key for key in vocabulary.attributes if key not in vocabulary.requires]
    others = [key for key in names if key != vocabulary.class_attribute]
    chosen = {vocabulary.class_attribute, *others[:1]}
    return {key: list(vocabulary.attributes[key])[-1] for key in names if key in chosen}


def _observation(facts: Facts, detail: _Detail, template: str) -> str:
    if facts.report:
        report = plain(report_lines(facts.report, facts.previous, detail.slices))
    else:
        report = "There is no report yet: spread the images over classes and attributes."
    if facts.report and facts.baseline is not None and facts.report.round:
        metric = facts.report.main_metric
        change = facts.report.metrics[metric].value - facts.baseline
        report += (
            f"\nRound 0, before any image was generated: {metric} {facts.baseline:.3f}; the images "
            f"so far have changed it by {change:+.3f}."
        )
    if facts.report and not any(f.significant for f in facts.failures):
        report += "\nNo slice is known to be significantly worse than the rest."
    return render_text(
        template,
        round=facts.round,
        rounds=facts.rounds,
        budget=_say_budget(facts),
        steering="\n".join(f"- {quote(wish, _WISH)}" for wish in facts.steering[-_MAX_WISHES:]),
        report=report,
        failures=plain(failure_lines(facts.failures, detail.failures)) if detail.failures else "",
        verdict=verdict_text(facts.verdict) if facts.verdict else "",
        lessons="\n".join(_say_lesson(item) for item in facts.lessons[: detail.lessons]),
        similar="\n".join(f"- {say_prompt(hit)}" for hit in facts.similar[: detail.similar]),
        planner=facts.draft.planner if facts.draft else "",
        draft="\n".join(_say_draft(facts)),
    )


def _say_draft(facts: Facts) -> list[str]:
    """Say the largest shares of the draft, of measured slices or else of single values."""
    draft = facts.draft
    if draft is None:
        return []
    slices = {score.key: score.attributes for score in facts.report.slices} if facts.report else {}
    slices = slices or {
        slice_key({name: value}): {name: value}
        for name, values in facts.vocabulary.attributes.items()
        for value in values
    }
    shares = {key: share_of(where, draft.plan.prompts) for key, where in slices.items()}
    lines = []
    for key in sorted(shares, key=lambda key: -shares[key])[:_MAX_SHARES]:
        line = f"- {quote(key, _SLICE)}: {shares[key]:.0%}"
        if gain := draft.gains.get(key):
            line += f", expected gain {gain[0]:+.3f} (standard deviation {gain[1]:.3f})"
        lines.append(line)
    return lines


def _say_budget(facts: Facts) -> str:
    sentences = [
        f"You may make {facts.n_images} images now, about {facts.images_per_prompt} per prompt; "
        f"{facts.images_left} are left in all."
    ]
    if facts.seconds_per_image is not None:
        seconds = facts.seconds_per_image * facts.n_images
        sentences.append(f"Drawing all now takes {seconds:.0f} s.")
    if facts.tokens_left is not None:
        sentences.append(f"You have {facts.tokens_left} tokens left.")
    if facts.usd_left is not None:
        sentences.append(f"You have {facts.usd_left:.4f} US dollars left.")
    return " ".join(sentences)


def _say_lesson(item: MemoryItem) -> str:
    held = item.data.get("held")
    outcome = "" if held is None else " (held)" if held else " (did not hold)"
    return f"- {quote(item.text, _LESSON)}{outcome}"
