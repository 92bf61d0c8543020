"""Expected outcome of a plan before anything is drawn: kept images, changes of slices, duration.

It is computed from similar prompts in the memory (`memory.items.items_from_events`). A prompt of
the memory is used for a prompt of the plan if its text names the same class and its cosine
similarity s is at least 0.6. Its weight is w = (s - 0.6) / 0.4, so that w * n_made of its images
count: all of them for an equal text, none at the threshold.

Kept-rate, a Beta posterior mean: (10 r + sum w n k) / (10 + sum w n) with kept-rates k and images
n. r is the rate over all prompts found, shrunk towards 8 of 10: (8 + sum n k) / (10 + sum n).

Change of a slice: (sum w n c) / (50 + sum w n) per 100 images, where c is the credit of a similar
prompt for the slice, already shrunk by its error (`eval.credit`). The 50 images shrink it towards
no change. It is summed over the plan's prompts that have the slice's attributes; `benefit` and
`harm` are the sums of the positive and the negative changes. Credits are assumed to be proportional
to the number of images, so plans much larger than the batches of the memory gain less than this.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

from pydantic import Field
from scipy.stats import norm

from agent.loop.validation import slice_attributes
from memory.items import ERROR, SearchHit
from memory.records import Plan, PromptSpec, Record, Share
from prompts.render import quote
from prompts.vocabulary import Vocabulary

MIN_SIMILARITY = 0.6
PRIOR_KEPT, PRIOR_MADE = 8.0, 10.0
PRIOR_CREDIT_IMAGES = 50.0
# A prompt has failed if at least this many images were drawn and less than this share was kept.
FAILED_MADE, FAILED_RATE = 8, 0.4

_MAX_WARNINGS = 10
_MAX_TEXT = 2000


class PromptExpectation(Record):
    """The expected share of a prompt's images that the audit keeps."""

    prompt_id: str
    count: int = Field(ge=1)
    kept_rate: Share
    n_behind: float = Field(ge=0, description="weighted number of images of similar prompts")


class SliceExpectation(Record):
    """The expected change of a slice's accuracy, helpful and harmful prompts summed separately."""

    slice: str
    benefit: float = Field(ge=0)
    harm: float = Field(le=0)

    @property
    def change(self) -> float:
        """The sum of benefit and harm."""
        return self.benefit + self.harm


class Expectation(Record):
    """The expected outcome of a plan; `slices` are sorted by absolute change, largest first."""

    prompts: tuple[PromptExpectation, ...]
    kept_rate: Share = Field(description="share of the plan's images that the audit keeps")
    n_behind: float = Field(ge=0, description="unweighted number of images of all prompts found")
    slices: tuple[SliceExpectation, ...]
    seconds: float | None = Field(description="to generate the images; None: not known yet")
    warnings: tuple[str, ...]

    @property
    def n_images(self) -> int:
        """Number of images of the plan."""
        return sum(prompt.count for prompt in self.prompts)


def expect(
    plan: Plan,
    hits: Mapping[str, Sequence[SearchHit]],
    seconds_per_image: float | None,
    vocabulary: Vocabulary,
) -> Expectation:
    """Return the expected outcome of a plan by the formulas above.

    `warnings`, at most 10, name prompts for which a similar prompt with the same attributes has
    failed: of at least 8 images drawn less than 0.4 were kept, or a slice lost accuracy, i.e. the
    95% interval of its credited change, corrected for the number of slices, is below 0.

    Args:
        plan: The plan.
        hits: Similar items of the memory, by the id of the plan's prompt; only prompts are used.
        seconds_per_image: Time to draw an image. None: not known yet.
        vocabulary: Vocabulary that reads class and attributes from the texts of prompts.
    """
    made = {hit.item.id: hit for near in hits.values() for hit in near if _made(hit)}
    n_behind = sum(_made(hit) for hit in made.values())
    n_kept = sum(_made(hit) * _rate(hit) for hit in made.values())
    overall = (PRIOR_KEPT + n_kept) / (PRIOR_MADE + n_behind)

    prompts = []
    benefit: dict[str, float] = defaultdict(float)
    harm: dict[str, float] = defaultdict(float)
    failed: dict[tuple[tuple[str, str], ...], str] = {}
    for prompt in plan.prompts:
        similar = _similar(prompt, hits.get(prompt.id, ()), vocabulary)
        n = sum(_weight(hit) * _made(hit) for hit in similar)
        kept = sum(_weight(hit) * _made(hit) * _rate(hit) for hit in similar)
        rate = (PRIOR_MADE * overall + kept) / (PRIOR_MADE + n)
        prompts.append(
            PromptExpectation(
                prompt_id=prompt.id, count=prompt.count, kept_rate=min(1.0, rate), n_behind=n
            )
        )
        for key, per_100 in _changes(prompt, similar).items():
            change = per_100 * prompt.count / 100
            benefit[key] += max(0.0, change)
            harm[key] += min(0.0, change)
        tried = [hit for hit in similar if vocabulary.parse(hit.item.text) == prompt.attributes]
        if problem := _failure(tried):
            words = f"{prompt.id} {quote(prompt.text, 80)} was tried: {problem}"
            failed.setdefault(tuple(sorted(prompt.attributes.items())), words)
    warnings = list(failed.values())
    if len(warnings) > _MAX_WARNINGS:
        more = f"and {len(warnings) - _MAX_WARNINGS} more that were tried and failed"
        warnings[_MAX_WARNINGS:] = [more]
    slices = [SliceExpectation(slice=key, benefit=benefit[key], harm=harm[key]) for key in benefit]
    return Expectation(
        prompts=tuple(prompts),
        kept_rate=min(1.0, sum(p.kept_rate * p.count for p in prompts) / plan.n_images),
        n_behind=n_behind,
        slices=tuple(sorted(slices, key=lambda s: (-abs(s.change), s.slice))),
        seconds=None if seconds_per_image is None else seconds_per_image * plan.n_images,
        warnings=tuple(warnings),
    )


def say_expectation(expectation: Expectation) -> str:
    """Format an expectation in at most 2,000 characters, for people and chat models."""
    n_kept = expectation.kept_rate * expectation.n_images
    lines = [
        f"Expected: about {n_kept:.0f} of {expectation.n_images} images kept "
        f"({expectation.kept_rate:.2f}; {_say_basis(expectation.n_behind)})."
    ]
    if expectation.seconds is not None:
        lines.append(f"Generating takes about {expectation.seconds:.0f} s.")
    poor = sorted(expectation.prompts, key=lambda p: p.kept_rate)[:3]
    lines += [
        f"- {p.prompt_id}: only {p.kept_rate:.2f} kept ({_say_basis(p.n_behind)})"
        for p in poor
        if p.kept_rate < 0.5
    ]
    lines += [
        f"- slice {quote(s.slice, 80)}: {s.change:+.3f} (benefit {s.benefit:+.3f}, "
        f"harm {s.harm:+.3f})"
        for s in expectation.slices[:5]
    ]
    for warning in expectation.warnings:
        line = f"Warning: {warning}"
        if len("\n".join([*lines, line])) > _MAX_TEXT:
            break
        lines.append(line)
    return "\n".join(lines)


def _say_basis(n_behind: float) -> str:
    return f"from {n_behind:.0f} similar images" if n_behind >= 0.5 else "the memory knows none"


def _made(hit: SearchHit) -> float:
    return _number(hit, "n_made") if hit.item.kind == "prompt" else 0.0


def _rate(hit: SearchHit) -> float:
    return min(1.0, max(0.0, _number(hit, "kept_rate")))


def _number(hit: SearchHit, name: str) -> float:
    value = hit.item.data.get(name, 0.0)
    return float(value) if isinstance(value, float | int) else 0.0


def _weight(hit: SearchHit) -> float:
    return min(1.0, (hit.similarity - MIN_SIMILARITY) / (1 - MIN_SIMILARITY))


def _similar(
    prompt: PromptSpec, hits: Sequence[SearchHit], vocabulary: Vocabulary
) -> list[SearchHit]:
    key = vocabulary.class_attribute or ""
    return [
        hit
        for hit in hits
        if _made(hit)
        and hit.similarity >= MIN_SIMILARITY
        and vocabulary.parse(hit.item.text).get(key) == prompt.attributes.get(key)
    ]


def _changes(prompt: PromptSpec, similar: Sequence[SearchHit]) -> dict[str, float]:
    """Return the expected change per 100 images of the slices that a prompt belongs to."""
    total: dict[str, float] = defaultdict(float)
    images: dict[str, float] = defaultdict(float)
    for hit in similar:
        for key, per_100 in hit.item.credits.items():
            attributes = slice_attributes(key)
            if attributes and attributes.items() <= prompt.attributes.items():
                n = _weight(hit) * _made(hit)
                total[key] += n * per_100
                images[key] += n
    return {key: total[key] / (PRIOR_CREDIT_IMAGES + images[key]) for key in total}


def _failure(tried: Sequence[SearchHit]) -> str:
    """Return why prompts that were tried have failed; "" if they have not."""
    n_made = sum(_made(hit) for hit in tried)
    if n_made < FAILED_MADE:
        return ""
    n_kept = sum(_made(hit) * _rate(hit) for hit in tried)
    if n_kept / n_made < FAILED_RATE:
        return (
            f"the audit kept {n_kept:.0f} of {n_made:.0f} images; ask for less of it, or for "
            "something easier to draw"
        )
    by_slice: dict[str, list[tuple[float, float, float]]] = defaultdict(list)
    for hit in tried:
        for key, per_100 in hit.item.credits.items():
            if (error := _number(hit, f"{ERROR}{key}")) > 0:
                by_slice[key].append((_made(hit), per_100, error))
    n_worse = sum(_mean_is_below_0(credited, len(by_slice)) for credited in by_slice.values())
    if n_worse:
        return f"{n_worse} of {len(by_slice)} slices lost accuracy; ask for less of it"
    return ""


def _mean_is_below_0(credited: Sequence[tuple[float, float, float]], n_slices: int) -> bool:
    """Return whether a mean credit is significantly below 0 among `n_slices` slices.

    Errors of prompts of the same round are correlated, and the memory does not contain the round,
    so the standard errors of all prompts are added up as if they were of one round.

    Args:
        credited: Number of images, change per 100 images and its standard error, by prompt.
        n_slices: Number of tested slices (Bonferroni correction).
    """
    n = sum(images for images, _, _ in credited)
    mean = sum(images * change for images, change, _ in credited) / n
    error = sum(images * error for images, _, error in credited) / n
    return mean + float(norm.ppf(1 - 0.025 / n_slices)) * error < 0
