"""The opening messages of a round, shortened to the context of the model.

Figures come from records; text that comes from data (memory, the user) is quoted and truncated.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

from pydantic import Field

from agent.loop.drafts import PolicyDraft, share_of
from eval.report.blocks import failure_lines, levers_text, plain_text, schedule_text, verdict_text
from eval.report.text import estimate_text
from memory.events.base import Occasional
from memory.items import MemoryItem, SearchHit
from memory.records import Failure, LaterRound, Record, Report, Round, Sparse, Verdict, slice_key
from prompts.printable import one_line
from prompts.render import quote, render_text, source
from prompts.vocabulary import Vocabulary

# Maximum length of a quotation in characters, by the kind of text.
_WISH, _LESSON, _PROMPT, _SLICE = 300, 240, 160, 80
_MAX_WISHES = 5
_MAX_CREDITS = 3
_MAX_FAILURES, _MAX_SLICES = 10, 12
_MAX_CONFUSIONS, _LAST_SHARES, _TREND = 4, 3, 6


# Characters of an opening of 700 tokens at three characters per token, as figures take. An opening
# of this size does not repeat what the schemas of the tools contain.
SMALL_CHARS = 2100


class Facts(Record):
    """The data that the opening messages of a round are rendered from.

    The journal stores them without the target and the earlier rounds, which it has elsewhere.

    Attributes:
        target: Name of the target.
        class_names: Classes of its images.
        vocabulary: Its attributes and their values.
        past: The earlier rounds, oldest first.
        round: Number of the round.
        rounds: Rounds of the session.
        n_images: Budget of this round.
        images_left: Budget of this and all later rounds.
        images_per_prompt: Usual number of images per prompt.
        max_chars: Maximum length of the system text and the observation together.
        lessons: Lessons from the memory.
        similar: Prompts from the memory with their results.
        steering: Answers and preferences of the user, the latest last.
        seconds_per_image: Time to draw an image. None: not known yet.
        wishes: Ids of the active preferences.
        tokens_left: Tokens that the model may still use. None: no limit.
        usd_left: Money that the model may still cost. None: no limit.
        baseline: The main figure of round 0 on feedback, None without a round 0.
        spare: Images that earlier plans did not use; negative if they used more than their budget.
        schedule: Schedule of this and later rounds that an earlier plan set.
        draft: A policy's plan for the round, which a language model may accept or edit.
        coverage: By slice, the share of its photographs that the images so far cover, and the share
            that as many photographs would cover.
        open_vocabulary: Whether the generator may follow words outside the vocabulary.
        look: Description of the picture in the message, "" without one.
    """

    target: str = Field(exclude=True)
    class_names: tuple[str, ...] = Field(exclude=True)
    vocabulary: Vocabulary = Field(exclude=True)
    past: tuple[Round, ...] = Field((), exclude=True)
    round: int
    rounds: int
    n_images: int
    images_left: int
    images_per_prompt: int
    max_chars: int
    lessons: tuple[MemoryItem, ...] = ()
    similar: tuple[SearchHit, ...] = ()
    steering: tuple[str, ...] = ()
    seconds_per_image: float | None = None
    wishes: tuple[str, ...] = ()
    tokens_left: int | None = None
    usd_left: float | None = None
    baseline: Sparse[float | None] = None
    spare: Occasional[int] = 0
    schedule: Occasional[tuple[LaterRound, ...]] = ()
    draft: Sparse[PolicyDraft | None] = None
    coverage: Sparse[dict[str, tuple[float, float]]] = Field({})
    open_vocabulary: Occasional[bool] = False
    look: Occasional[str] = ""

    @property
    def reports(self) -> list[Report]:
        """The reports of the earlier rounds, oldest first."""
        return [r.report for r in self.past if r.report]

    @property
    def report(self) -> Report | None:
        """The last report."""
        return self.reports[-1] if self.reports else None

    @property
    def failures(self) -> Sequence[Failure]:
        """Failures of the last round."""
        return self.past[-1].failures if self.past else ()

    @property
    def verdict(self) -> Verdict | None:
        """The verdict on the last hypothesis."""
        return self.past[-1].verdict if self.past else None


class _Detail(NamedTuple):
    """Number of entries shown of each optional part."""

    similar: int
    lessons: int
    failures: int
    slices: int


def prompt_files() -> dict[str, str]:
    """Return the texts of the prompt files used in a session, by name."""
    return {name: source(name) for name in ("system", "observation", "json_action")}


def opening_texts(facts: Facts, templates: Mapping[str, str] | None = None) -> tuple[str, str]:
    """Return the system text, the same in every round, and the observation of this round.

    The vocabulary, the budget, the user's preferences (the last 5, 300 characters each), the
    overall figures and the last hypothesis are always shown, so a very small `max_chars` is
    exceeded. To fit into it, entries are dropped in this order: the least similar prompts, lessons,
    failures that are not slices, and all slices but the first.

    Args:
        facts: Data to render.
        templates: Texts to use in place of the `prompt_files`.
    """
    templates = templates or prompt_files()
    system = _system(facts, templates["system"])
    observation = ""
    for detail in _details(facts):
        observation = _observation(facts, detail, templates["observation"])
        observation += f"\n{facts.look}" if facts.look else ""
        if len(system) + len(observation) <= facts.max_chars:
            break
    return system, observation


def say_prompt(hit: SearchHit, limit: int = _PROMPT) -> str:
    """Format a prompt from the memory with its kept-rate and its largest credits."""
    data = hit.item.data
    line = quote(hit.item.text, limit)
    made, rate = data.get("n_made"), data.get("kept_rate")
    if isinstance(made, float | int) and isinstance(rate, float | int):
        line += f": {rate:.2f} of {made:.0f} images kept"
    largest = sorted(hit.item.credits.items(), key=lambda item: -abs(item[1]))[:_MAX_CREDITS]
    if largest:
        texts = (f"{quote(key, _SLICE)} {value:+.3f}" for key, value in largest)
        line += f"; credit {', '.join(texts)}"
    return line


def _details(facts: Facts) -> Iterator[_Detail]:
    """Yield decreasing levels of detail, each with one entry less than the one before."""
    detail = _Detail(
        similar=len(facts.similar),
        lessons=len(facts.lessons),
        failures=min(
            _MAX_FAILURES, sum(f.significant and f.kind != "slice" for f in facts.failures)
        ),
        slices=_MAX_SLICES,
    )
    yield detail
    for name, least in (("similar", 0), ("lessons", 0), ("failures", 0), ("slices", 1)):
        for n in range(getattr(detail, name) - 1, least - 1, -1):
            detail = detail._replace(**{name: n})
            yield detail


def _system(facts: Facts, template: str) -> str:
    vocabulary = facts.vocabulary
    is_small = facts.max_chars <= SMALL_CHARS
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
    free = ["The text of a prompt may say them, and more, in your own words."]
    return render_text(
        template,
        target=facts.target,
        classes=", ".join(facts.class_names),
        words="those of the tools" if is_small else "\n".join(words),
        rules="\n".join(
            meanings if is_small else [*meanings, *needs, *free * facts.open_vocabulary]
        ),
    )


def _observation(facts: Facts, detail: _Detail, template: str) -> str:
    others = [f for f in facts.failures if f.significant and f.kind != "slice"]
    return render_text(
        template,
        round=facts.round,
        rounds=facts.rounds,
        budget=_say_budget(facts),
        steering="\n".join(f"- {quote(wish, _WISH)}" for wish in facts.steering[-_MAX_WISHES:]),
        scores=_say_scores(facts),
        last=_say_last(facts),
        slices=_say_slices(facts, detail.slices),
        failures=plain_text(failure_lines(others, detail.failures)) if detail.failures else "",
        lessons="\n".join(_say_lesson(item) for item in facts.lessons[: detail.lessons]),
        similar="\n".join(f"- {say_prompt(hit)}" for hit in facts.similar[: detail.similar]),
    )


def _say_scores(facts: Facts) -> str:
    """Format the main figure of each round and the most frequent confusions."""
    report = facts.report
    if report is None:
        return "There is no report yet: spread the images over classes and attributes."
    metric = report.main_metric
    by_round = [
        f"{r.report.metrics[metric].value:.3f}" + ("" if r.number else " before any image")
        for r in facts.past
        if r.report and metric in r.report.metrics and r.number != report.round
    ][-_TREND:]
    now = estimate_text(report.metrics[metric]) if metric in report.metrics else "not measured"
    lines = [f"{metric} on real photographs, round by round: {', '.join([*by_round, now])}."]
    wrong = [
        f"of {one.n_photographs} {one.true} {one.n} are taken for {one.predicted}"
        for one in report.confusions[:_MAX_CONFUSIONS]
    ]
    return "\n".join([*lines, *([f"Errors: {'; '.join(wrong)}."] if wrong else [])])


def _say_last(facts: Facts) -> str:
    """Format the last plan and its outcome."""
    last = next((r for r in reversed(facts.past) if r.plan), None)
    verdict = verdict_text(facts.verdict) if facts.verdict else ""
    if last is None or last.plan is None:
        return verdict
    slices = _slices(facts)
    shares = {key: share_of(where, last.plan.prompts) for key, where in slices.items()}
    largest = sorted((key for key in shares if shares[key]), key=lambda key: -shares[key])
    parts = [f"{shares[key]:.0%} {one_line(key)}" for key in largest[:_LAST_SHARES]]
    text = f"The last plan, by {last.plan.author}: {last.plan.n_images} images"
    text += f", {', '.join(parts)}." if parts else "."
    if last.batch:
        text += f" The audit kept {last.batch.n_kept}."
    if last.plan.levers:
        text += f" {levers_text(last.plan.levers)}"
    if last.training and last.training.n_real:
        text += (
            f" The model learnt from {last.training.n_images} images and "
            f"{last.training.n_real} photographs."
        )
    return f"{text} {verdict}".strip()


def _slices(facts: Facts) -> dict[str, dict[str, str]]:
    """Return the attributes of slices by key; single values if no slices have been measured."""
    if facts.report and facts.report.slices:
        return {score.key: score.attributes for score in facts.report.slices}
    return {
        slice_key({name: value}): {name: value}
        for name, values in facts.vocabulary.attributes.items()
        for value in values
    }


def _say_slices(facts: Facts, n: int) -> str:
    """Format the first `n` slices, one per line: failures, then by score or by share of the draft.

    Slices without any figure are left out.
    """
    report = facts.report
    scores = {score.key: score for score in report.slices} if report else {}
    before = {score.key: score for report in facts.reports[-2:-1] for score in report.slices}
    failing = {f.slice: f for f in facts.failures if f.significant and f.kind == "slice"}
    slices = {key: f.attributes for key, f in failing.items()} | _slices(facts)
    draft = facts.draft
    prompts = draft.plan.prompts if draft else ()
    drafted = {key: share_of(where, prompts) for key, where in slices.items()}
    order = [*failing]
    rest = [key for key in slices if key not in failing]
    if scores:
        order += sorted(rest, key=lambda key: scores[key].accuracy.value)
    else:
        order += sorted((key for key in rest if drafted.get(key)), key=lambda key: -drafted[key])
    lines = []
    for key in order[:n]:
        parts = []
        if score := scores.get(key):
            change = score.accuracy.value - before[key].accuracy.value if key in before else None
            since = "" if change is None else f", {change:+.2f}"
            parts.append(f"accuracy {estimate_text(score.accuracy, 2)}{since}")
        if failure := failing.get(key):
            if not score:
                error = failure.error_rate
                accuracy = error.model_copy(
                    update={"value": 1 - error.value, "low": 1 - error.high, "high": 1 - error.low}
                )
                parts.append(f"accuracy {estimate_text(accuracy, 2)}")
            parts[-1] += f", elsewhere {1 - failure.rest_error_rate:.2f} (q={failure.q_value:.1g})"
            if failure.fixable:
                parts.append(f"fixable {failure.fixable.chance.value:.2f}")
        n_made, n_kept = _drawn(facts.past, slices[key])
        if n_made:
            parts.append(f"{n_made} images so far, {n_kept / n_made:.0%} kept")
        if covered := facts.coverage.get(key):
            parts.append(f"cover {covered[0]:.0%} ({covered[1]:.0%})")
        if draft:
            parts.append(f"draft {drafted[key]:.0%}")
        if draft and (gain := draft.gains.get(key)):
            parts.append(f"gain {gain[0]:+.3f} (sd {gain[1]:.3f})")
        if parts:
            lines.append(f"- {one_line(key)}: {'; '.join(parts)}")
    if not lines:
        return ""
    heads = ["Slices, the worst first."] if scores else []
    if draft:
        heads.append(f"draft: its share of the images, by {draft.planner}.")
        heads += ["gain: expected of a round."] if draft.gains else []
    if any(key in facts.coverage for key in order[:n]):
        heads.append("cover: of the photographs, by these images (by as many photographs).")
    if any(failure.fixable for failure in failing.values()):
        heads.append("fixable: chance that an image is drawn well and helps.")
    if report and not any(f.significant for f in facts.failures):
        heads.append("None is significantly worse than the rest.")
    return "\n".join([" ".join(heads), *lines])


def _drawn(past: Sequence[Round], where: Mapping[str, str]) -> tuple[int, int]:
    """Return how many images with the given attribute values were drawn and kept."""
    n_made = n_kept = 0
    for done in past:
        if done.plan and done.batch:
            of = {p.id for p in done.plan.prompts if where.items() <= p.attributes.items()}
            n_made += sum(q.n_made for q in done.batch.quality if q.prompt_id in of)
            n_kept += sum(q.n_kept for q in done.batch.quality if q.prompt_id in of)
    return n_made, n_kept


def _say_budget(facts: Facts) -> str:
    sentences = [
        f"You may make {facts.n_images} images now, about {facts.images_per_prompt} per prompt; "
        f"{facts.images_left} are left in all."
    ]
    if facts.schedule:
        now = "now and in the rounds after"
        sentences.append(f"Your own schedule, {now}: {schedule_text(facts.schedule)}.")
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
