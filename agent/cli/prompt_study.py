"""`shaping prompts`: many prompts for one request, by a brain and by the grammar, measured."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage, HumanMessage
from pydantic import Field

from agent import brains
from agent.brains import BrainContext, ChatBrain
from agent.brains.probe import with_mode
from agent.brains.spending import Spending
from agent.config.settings import LLMSettings, Settings
from agent.loop.components import Components
from agent.planners import AttributeDistribution
from agent.steering.lexicon import Lexicon
from eval.diversity import distinct_n, vendi
from eval.metrics import wilson
from eval.report.text import estimate_text
from memory import minilm
from memory.errors import BrainError, SettingsError
from memory.records import Estimate, Record, Share
from prompts.render import quote, render
from prompts.vocabulary import Vocabulary
from tools.data.drawn import ImageRequest
from tools.data.samples import Samples
from tools.generators import Generator
from tools.labelers.audit import AuditClassifier
from tools.pretraining.card import attribute_agreement
from tools.targets import Target

if TYPE_CHECKING:
    from rich.console import Console

MAX_CHARS = 240
ASK_AT_ONCE = 10
MAX_FRUITLESS = 3

# What a question shows of earlier prompts, so that it stays short for small models.
_MAX_KNOWN = 40
_MAX_REJECTED = 3
# Draws of the grammar per prompt that is wanted, before it counts as exhausted.
_TRIES = 20
_BATCH_SIZE = 32

Finding = Literal["kept", "malformed", "lost", "contradicting", "duplicate"]


class PromptSet(Record):
    """The prompts that one author wrote for a request, and what became of the others."""

    author: str = Field(description="a brain's name, or grammar")
    texts: tuple[str, ...] = Field(description="kept: different, and they say all that was asked")
    n_written: int = Field(ge=0, description="kept and dropped")
    n_malformed: int = Field(ge=0, description="no text, empty, too long or not printable")
    n_lost: int = Field(ge=0, description="do not say an attribute that was asked for")
    n_contradicting: int = Field(ge=0, description="say another value of one, too or instead")
    n_duplicates: int = Field(ge=0, description="valid, but there already")
    n_calls: int = Field(0, ge=0, description="answers of a brain")
    n_tokens: int = Field(0, ge=0, description="of a brain, prompts and answers")
    stopped: str = Field("", description="why there are fewer prompts than wanted")

    @property
    def share_valid(self) -> Estimate:
        """Share of the prompts as written that say what was asked, duplicates included."""
        return wilson(len(self.texts) + self.n_duplicates, self.n_written)


class Figures(Record):
    """How different prompts are, and how much of what they say can be seen on their images."""

    distinct_1: Share
    distinct_2: Share
    vendi: float = Field(ge=0, description="of MiniLM vectors: effective number of prompts")
    valid: Estimate = Field(description="share of the prompts as written")
    n_cut: int = Field(ge=0, description="prompts longer than the generator reads")
    n_foreign: int = Field(ge=0, description="prompts with words that the vocabulary has not")
    n_images: int = Field(ge=0)
    attributes: dict[str, Estimate] = Field(
        description="share of the images of prompts naming an attribute that show its value"
    )
    asked: Estimate = Field(
        description="the same over the request's attributes, each of each image counted as one"
    )
    named: Estimate = Field(description="the same over all attributes of the prompts")


class Column(Record):
    """An author's prompts with their figures."""

    prompts: PromptSet
    figures: Figures


class Comparison(Record):
    """The prompts of all authors for one request."""

    request: str
    asked: dict[str, str]
    unseen: tuple[str, ...] = Field(description="asked for, but not to be measured on images")
    preset: str
    generator: str
    seed: int
    images_per_prompt: int
    notice: str
    columns: tuple[Column, ...]


class Sieve:
    """Keeps prompts that are new and say all that was asked for; counts the others."""

    def __init__(self, asked: Mapping[str, str], vocabulary: Vocabulary) -> None:
        self.texts: list[str] = []
        self.counts: Counter[Finding] = Counter()
        self._asked = asked
        self._vocabulary = vocabulary
        self._seen: set[str] = set()

    def take(self, text: object) -> str | None:
        """Keep a prompt and return None, or return why not."""
        finding, reason = self._judge(text)
        self.counts[finding] += 1
        if finding == "kept":
            self.texts.append(_clean(text))
            self._seen.add(_plain(text))
            return None
        return f"{_quote(text)}: {reason}"

    def result(self, author: str, **rest: Any) -> PromptSet:
        """Return what was kept and counted; `rest` are further fields of the set."""
        return PromptSet(
            author=author,
            texts=tuple(self.texts),
            n_written=self.counts.total(),
            n_malformed=self.counts["malformed"],
            n_lost=self.counts["lost"],
            n_contradicting=self.counts["contradicting"],
            n_duplicates=self.counts["duplicate"],
            **rest,
        )

    def _judge(self, text: object) -> tuple[Finding, str]:
        clean = _clean(text)
        if not (0 < len(clean) <= MAX_CHARS and clean.isprintable()):
            return "malformed", f"a prompt is one line of 1 to {MAX_CHARS} characters"
        found = self._vocabulary.parse(clean)
        for key, value in self._asked.items():
            if key not in found:
                return "lost", f"it does not say {key}={value}"
        if wrong := contradictions(clean, self._asked, self._vocabulary):
            return "contradicting", f"it says {', '.join(wrong)}"
        if _plain(text) in self._seen:
            return "duplicate", "it is there already"
        return "kept", ""


def compare(
    settings: Settings, request: str, n: int, images_per_prompt: int, console: Console
) -> Comparison:
    """Write `n` prompts for a request by the settings' brain and by the grammar; measure both.

    distinct-n and Vendi depend on the number of texts, so the grammar writes as many as the brain
    if that gave fewer. A policy brain writes no prompts of its own: then there is only the
    grammar. Images of a prompt's number and index have the same noise for both. Raises
    SettingsError for a request without words of the vocabulary, or with words that exclude each
    other; BrainError if the brain fails before it wrote a prompt.
    """
    components = Components(settings)
    target, palette = components.target, components.distribution
    asked = understand(request, target.vocabulary)
    brain = _brain(settings, palette, target.vocabulary)
    seed = settings.session.seed
    sets = []
    if brain is not None:
        with console.status(f"{settings.brain} writes prompts"):
            sets.append(
                ask(brain, settings.brain, request, asked, n, target.vocabulary, settings.llm)
            )
    n_grammar = len(sets[0].texts) or n if sets else n
    sets.append(say(asked, n_grammar, target.vocabulary, palette, seed))
    with console.status("Training the audit"):
        audit = components.classifier(target)
    generator = components.generator
    columns = []
    for prompts in sets:
        with console.status(f"Drawing the images of {prompts.author}"):
            figures = measure(prompts, asked, images_per_prompt, seed, generator, audit, target)
        columns.append(Column(prompts=prompts, figures=figures))
    seen = {key for column in columns for key in column.figures.attributes}
    return Comparison(
        request=request,
        asked=asked,
        unseen=tuple(key for key in asked if key not in seen),
        preset=settings.preset,
        generator=generator.identity,
        seed=seed,
        images_per_prompt=images_per_prompt,
        notice=target.notice,
        columns=tuple(columns),
    )


def understand(request: str, vocabulary: Vocabulary) -> dict[str, str]:
    """Return the attributes that a request names; SettingsError if none, or if not clear."""
    asked = vocabulary.parse(request)
    by_class = vocabulary.class_attribute
    if by_class and by_class not in asked and (meant := Lexicon(vocabulary).class_of(request)):
        asked[by_class] = meant
    example = vocabulary.caption({k: next(iter(v)) for k, v in vocabulary.attributes.items()})
    if not asked or len(request) > 1000:
        raise SettingsError(
            f"The request {request[:80]!r} must name an attribute of {vocabulary.name}, in at most "
            f"1000 characters. An example: {example!r}."
        )
    if wrong := contradictions(request, asked, vocabulary):
        named = ", ".join(f"{key}={value}" for key, value in asked.items())
        raise SettingsError(
            f"The request {request[:80]!r} names {named}, but also {', '.join(wrong)}. "
            "Name one value of each attribute."
        )
    return asked


def contradictions(text: str, asked: Mapping[str, str], vocabulary: Vocabulary) -> list[str]:
    """Return each "attribute=value" that a text names although another value was asked for."""
    found = []
    for key, value in asked.items():
        # The value asked for becomes an attribute of its own, so that `parse` looks past it.
        others = {v: phrases for v, phrases in vocabulary.attributes[key].items() if v != value}
        attributes = {
            **vocabulary.attributes,
            key: others,
            "": {value: vocabulary.attributes[key][value]},
        }
        named = vocabulary.model_copy(update={"attributes": attributes}).parse(text)
        if key in named:
            found.append(f"{key}={named[key]}")
    return found


def ask(
    brain: BaseChatModel,
    author: str,
    request: str,
    asked: Mapping[str, str],
    n: int,
    vocabulary: Vocabulary,
    llm: LLMSettings,
) -> PromptSet:
    """Let a brain write `n` prompts, at most ASK_AT_ONCE with a call of `write_prompts`.

    Ends early, and says why, when MAX_FRUITLESS answers in a row add nothing, when a limit of
    `llm` is reached, or when the brain fails after its first prompts.
    """
    sieve, spending = Sieve(asked, vocabulary), Spending(author, llm)
    rejected: list[str] = []
    stopped, n_calls, fruitless = "", 0, 0
    while len(sieve.texts) < n and not stopped:
        n_wanted = min(ASK_AT_ONCE, n - len(sieve.texts))
        tools = [_tool(n_wanted)]
        question = _question(request, asked, n_wanted, vocabulary, sieve.texts, rejected)
        if reason := spending.reason_against([question], tools):
            stopped = reason
            break
        try:
            answer = brain.bind_tools(tools).invoke([question])
        except BrainError as error:
            if not sieve.texts:
                raise
            stopped = str(error)
            break
        n_calls += 1
        spending.add(spending.usage(answer))
        n_before = len(sieve.texts)
        written = _written(answer)[:n_wanted]
        rejected = [why for text in written if (why := sieve.take(text))][:_MAX_REJECTED]
        fruitless = 0 if len(sieve.texts) > n_before else fruitless + 1
        if fruitless == MAX_FRUITLESS:
            stopped = f"{fruitless} answers in a row held no new prompt that says what was asked"
    return sieve.result(author, n_calls=n_calls, n_tokens=spending.n_tokens, stopped=stopped)


def say(
    asked: Mapping[str, str],
    n: int,
    vocabulary: Vocabulary,
    palette: AttributeDistribution,
    seed: int,
) -> PromptSet:
    """Let the caption grammar write `n` prompts.

    Each says what was asked for and a random part of what else a photograph with these attributes
    has, photographs drawn by frequency. Where no photograph has them all, nothing is added.
    """
    rng, sieve = random.Random(seed), Sieve(asked, vocabulary)
    rows = [(r.attributes, r.n) for r in palette.rows if asked.items() <= r.attributes.items()]
    rows = rows or [(dict(asked), 1)]
    for _ in range(n * _TRIES):
        if len(sieve.texts) == n:
            break
        (row,) = rng.choices([row for row, _ in rows], weights=[count for _, count in rows])
        more = sorted(row.keys() - asked.keys())
        added = rng.sample(more, rng.randint(0, len(more)))
        attributes = {**asked, **{key: row[key] for key in added}}
        if not vocabulary.problems(attributes):
            sieve.take(vocabulary.caption(attributes, rng))
    missing = len(sieve.texts) < n
    return sieve.result("grammar", stopped="it has hardly any other prompts" if missing else "")


def measure(
    prompts: PromptSet,
    asked: Mapping[str, str],
    images_per_prompt: int,
    seed: int,
    generator: Generator,
    audit: AuditClassifier,
    target: Target,
) -> Figures:
    """Draw the images of a set of prompts and return its figures.

    Attributes are measured by the target on the images; the class attribute, where a prompt names
    it, counts as seen if the audit's most probable class is the one that it means. Attributes that
    neither sees are left out.
    """
    texts = prompts.texts
    attributes = [target.vocabulary.parse(text) for text in texts]
    seen: dict[str, Estimate] = {}
    if texts:
        samples = _draw(texts, attributes, images_per_prompt, seed, generator, target)
        for key, found in attribute_agreement(target, samples).items():
            seen[key] = _share(found["agreement"], int(found["n"]))
        judged = samples.take(np.flatnonzero(samples.classes >= 0))
        class_attribute = target.vocabulary.class_attribute
        if len(judged) and class_attribute:
            seen[class_attribute] = _share(audit.agreement(judged), len(judged))
    return Figures(
        distinct_1=distinct_n(texts, 1),
        distinct_2=distinct_n(texts, 2),
        vendi=vendi(minilm.load().embed(texts)),
        valid=prompts.share_valid,
        n_cut=sum(generator.count_tokens(text) > generator.max_tokens for text in texts),
        n_foreign=sum(bool(target.vocabulary.foreign_words(text)) for text in texts),
        n_images=len(texts) * images_per_prompt,
        attributes=seen,
        asked=_together([seen[key] for key in asked if key in seen]),
        named=_together(list(seen.values())),
    )


def table(comparison: Comparison) -> tuple[list[str], list[list[str]]]:
    """Return the figures as a table: its head, and a row per figure with a cell per author."""
    columns = comparison.columns
    sets, figures = [c.prompts for c in columns], [c.figures for c in columns]
    keys = sorted({key for f in figures for key in f.attributes})
    rows = [
        ["prompts", *(str(len(s.texts)) for s in sets)],
        ["valid as written", *(_say_estimate(f.valid) for f in figures)],
        *(
            [f"  {name}", *(str(getattr(s, f"n_{name}")) for s in sets)]
            for name in ("malformed", "lost", "contradicting", "duplicates")
        ),
        ["distinct-1", *(f"{f.distinct_1:.3f}" for f in figures)],
        ["distinct-2", *(f"{f.distinct_2:.3f}" for f in figures)],
        ["Vendi (MiniLM)", *(f"{f.vendi:.2f}" for f in figures)],
        ["longer than the generator reads", *(str(f.n_cut) for f in figures)],
        ["with words it may not know", *(str(f.n_foreign) for f in figures)],
        ["images", *(str(f.n_images) for f in figures)],
        ["asked for and seen", *(_say_estimate(f.asked) for f in figures)],
        ["named and seen", *(_say_estimate(f.named) for f in figures)],
        *(
            [
                f"  {key}{' (asked)' if key in comparison.asked else ''}",
                *(_say_estimate(f.attributes.get(key)) for f in figures),
            ]
            for key in keys
        ),
    ]
    return ["figure", *(s.author for s in sets)], rows


def notes(comparison: Comparison, n_texts: int = 20) -> Iterator[str]:
    """Yield what was understood, the first prompts of each author, and why there are no more."""
    asked = ", ".join(f"{key}={value}" for key, value in comparison.asked.items())
    yield f"Asked for: {asked}"
    if comparison.unseen:
        yield f"Not measured on images: {', '.join(comparison.unseen)}"
    for prompts in (column.prompts for column in comparison.columns):
        yield f"\n{prompts.author}:"
        yield from (f"  {text}" for text in prompts.texts[:n_texts])
        if len(prompts.texts) > n_texts:
            yield f"  ... and {len(prompts.texts) - n_texts} more; -o FILE writes them all"
        if prompts.stopped:
            yield f"  Stopped after {len(prompts.texts)}: {prompts.stopped}"


def _brain(
    settings: Settings, palette: AttributeDistribution, vocabulary: Vocabulary
) -> BaseChatModel | None:
    """Build the brain, or return None for one that has no language model."""
    context = BrainContext(palette, vocabulary, settings.llm)
    brain = with_mode(brains.build(settings.brain, context), settings.llm)
    return brain.model if isinstance(brain, ChatBrain) else None


def _tool(n: int) -> dict[str, Any]:
    text = {"type": "string", "maxLength": MAX_CHARS}
    prompts = {"type": "array", "items": text, "minItems": 1, "maxItems": n}
    return {
        "type": "function",
        "function": {
            "name": "write_prompts",
            "description": "Hand in new prompts, one image each.",
            "parameters": {
                "type": "object",
                "properties": {"prompts": prompts},
                "required": ["prompts"],
            },
        },
    }


def _question(
    request: str,
    asked: Mapping[str, str],
    n: int,
    vocabulary: Vocabulary,
    known: Sequence[str],
    rejected: Sequence[str],
) -> HumanMessage:
    def wordings(key: str, value: str) -> str:
        phrases = vocabulary.attributes[key][value]
        return f"{value} ({', '.join(map(_quote, [*phrases.adjective, *phrases.clause]))})"

    def needs(key: str) -> str:
        needed = vocabulary.requires.get(key, {}).items()
        words = " and ".join(f"{other} {' or '.join(values)}" for other, values in needed)
        return f" (only beside {words})" if words else ""

    text = render(
        "paraphrase",
        n=n,
        request=_quote(request),
        asked=[f"{key}: {wordings(key, value)}" for key, value in asked.items()],
        others=[
            f"{key}{needs(key)}: {'; '.join(wordings(key, value) for value in values)}"
            for key, values in vocabulary.attributes.items()
            if key not in asked
        ],
        subjects=", ".join(vocabulary.subjects),
        max_chars=MAX_CHARS,
        example=_quote(vocabulary.caption(asked)),
        known=[_quote(text) for text in known[-_MAX_KNOWN:]],
        rejected=rejected,
    )
    return HumanMessage(text)


def _written(answer: AIMessage) -> list[Any]:
    """Return what an answer hands in as prompts, of whatever type; [] if it hands in nothing."""
    written: list[Any] = []
    for call in answer.tool_calls:
        prompts = call["args"].get("prompts") if call["name"] == "write_prompts" else None
        written += prompts if isinstance(prompts, list) else []
    return written


def _draw(
    texts: Sequence[str],
    attributes: Sequence[dict[str, str]],
    images_per_prompt: int,
    seed: int,
    generator: Generator,
    target: Target,
) -> Samples:
    """Draw the images of prompts; the class is -1 where a prompt names none."""
    names = [target.vocabulary.class_name(named) for named in attributes]
    classes = [-1 if name is None else list(target.class_names).index(name) for name in names]
    owner = [i for i in range(len(texts)) for _ in range(images_per_prompt)]
    requests = [
        ImageRequest(texts[i], f"p{i:04d}", number % images_per_prompt, seed)
        for number, i in enumerate(owner)
    ]
    images = [
        generator.draw(requests[start : start + _BATCH_SIZE]).images
        for start in range(0, len(requests), _BATCH_SIZE)
    ]
    return Samples(
        images=np.concatenate(images),
        classes=np.array([classes[i] for i in owner], dtype=np.int64),
        attributes=[attributes[i] for i in owner],
        ids=[f"{r.prompt_id}-{r.index:04d}" for r in requests],
    )


def _share(value: float, n: int) -> Estimate:
    return wilson(round(value * n), n)


def _together(estimates: Sequence[Estimate]) -> Estimate:
    return wilson(
        sum(round(estimate.value * estimate.n) for estimate in estimates),
        sum(estimate.n for estimate in estimates),
    )


def _say_estimate(estimate: Estimate | None) -> str:
    if estimate is None or estimate.n == 0:
        return "-"
    return estimate_text(estimate, digits=2)


def _clean(text: object) -> str:
    return " ".join(text.split()) if isinstance(text, str) else ""


def _plain(text: object) -> str:
    """Return a prompt as it is compared with others: case and punctuation do not count."""
    return " ".join("".join(c for c in _clean(text).lower() if c.isalnum() or c in "- ").split())


def _quote(text: object) -> str:
    return quote(str(text), MAX_CHARS)
