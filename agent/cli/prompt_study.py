"""`shaping prompts`: many prompts for one request, by a brain and by the grammar, measured."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from langchain_core.language_models import BaseChatModel
from pydantic import Field

from agent import brains
from agent.brains import BrainContext, ChatBrain
from agent.brains.probe import with_mode
from agent.cli.prompt_authors import PromptRequest, PromptSet, ask, caption
from agent.config.settings import Settings
from agent.loop.components import Components
from eval.diversity import distinct_n, vendi
from eval.metrics import wilson
from eval.report.text import estimate_text
from memory import minilm
from memory.records import Estimate, Record, Share
from tools.data.drawn import ImageRequest, join
from tools.data.samples import Samples
from tools.generators import Generator
from tools.labelers.audit import AuditClassifier
from tools.pretraining.card import attribute_agreement
from tools.targets import Target

if TYPE_CHECKING:
    from rich.console import Console

# Images that are drawn at once.
_BATCH_SIZE = 32


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


class PromptComparison(Record):
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


def compare(
    settings: Settings, request: str, n: int, images_per_prompt: int, console: Console
) -> PromptComparison:
    """Write `n` prompts for a request by the settings' brain and by the grammar; measure both.

    distinct-n and Vendi depend on the number of texts, so the grammar writes as many as the brain
    if that gave fewer. A policy brain writes no prompts of its own: then there is only the
    grammar. Images of a prompt's number and index have the same noise for both. Raises
    SettingsError for a request without words of the vocabulary, or with words that exclude each
    other; BrainError if the brain fails before it wrote a prompt.
    """
    components = Components(settings)
    target = components.target
    asked = PromptRequest.parse(request, target.vocabulary)
    model = _model(settings, components)
    seed = settings.session.seed
    sets = []
    if model is not None:
        with console.status(f"{settings.brain} writes prompts"):
            sets.append(ask(model, settings.brain, asked, n, settings.llm))
    n_grammar = len(sets[0].texts) or n if sets else n
    sets.append(caption(asked, n_grammar, components.distribution, seed))
    with console.status("Training the audit"):
        audit = components.classifier(target)
    study = ImageStudy(target, components.generator, audit, images_per_prompt, seed)
    columns = []
    for prompts in sets:
        with console.status(f"Drawing the images of {prompts.author}"):
            figures = study.measure(prompts, asked.attributes)
        columns.append(Column(prompts=prompts, figures=figures))
    seen = {key for column in columns for key in column.figures.attributes}
    return PromptComparison(
        request=request,
        asked=dict(asked.attributes),
        unseen=tuple(key for key in asked.attributes if key not in seen),
        preset=settings.preset,
        generator=components.generator.identity,
        seed=seed,
        images_per_prompt=images_per_prompt,
        notice=target.notice,
        columns=tuple(columns),
    )


@dataclass(frozen=True)
class ImageStudy:
    """Draws the images of prompts and measures what can be seen on them.

    Attributes:
        target: Measures attributes on images.
        generator: Draws them.
        audit: Judges their class.
        images_per_prompt: How many are drawn of each prompt.
        seed: Of the generator's noise.
    """

    target: Target
    generator: Generator
    audit: AuditClassifier
    images_per_prompt: int
    seed: int

    def measure(self, prompts: PromptSet, asked: Mapping[str, str]) -> Figures:
        """Draw the images of a set of prompts and return its figures.

        The class attribute, where a prompt names it, counts as seen if the audit's most probable
        class is the one that it means. Attributes that neither target nor audit sees are left out.
        """
        texts, vocabulary = prompts.texts, self.target.vocabulary
        seen: dict[str, Estimate] = {}
        if texts:
            samples = self._draw(texts)
            for key, agreement in attribute_agreement(self.target, samples).items():
                seen[key] = _share(agreement["agreement"], int(agreement["n"]))
            judged = samples.take(np.flatnonzero(samples.classes >= 0))
            if len(judged) and vocabulary.class_attribute:
                share = self.audit.agreement(judged)
                seen[vocabulary.class_attribute] = _share(share, len(judged))
        count, limit = self.generator.count_tokens, self.generator.max_tokens
        return Figures(
            distinct_1=distinct_n(texts, 1),
            distinct_2=distinct_n(texts, 2),
            vendi=vendi(minilm.load().embed(texts)),
            valid=prompts.share_valid,
            n_cut=sum(count(text) > limit for text in texts),
            n_foreign=sum(bool(vocabulary.foreign_words(text)) for text in texts),
            n_images=len(texts) * self.images_per_prompt,
            attributes=seen,
            asked=_together([seen[key] for key in asked if key in seen]),
            named=_together(list(seen.values())),
        )

    def _draw(self, texts: Sequence[str]) -> Samples:
        """Draw the images of prompts; the class is -1 where a prompt names none."""
        vocabulary, class_names = self.target.vocabulary, list(self.target.class_names)
        attributes = [vocabulary.parse(text) for text in texts]
        names = [vocabulary.class_name(named) for named in attributes]
        classes = [-1 if name is None else class_names.index(name) for name in names]
        owner = [i for i in range(len(texts)) for _ in range(self.images_per_prompt)]
        requests = [
            ImageRequest(texts[i], f"p{i:04d}", number % self.images_per_prompt, self.seed)
            for number, i in enumerate(owner)
        ]
        drawn = [
            self.generator.draw(requests[start : start + _BATCH_SIZE])
            for start in range(0, len(requests), _BATCH_SIZE)
        ]
        return Samples(
            images=join(drawn).images,
            classes=np.array([classes[i] for i in owner], dtype=np.int64),
            attributes=[attributes[i] for i in owner],
            ids=[f"{r.prompt_id}-{r.index:04d}" for r in requests],
        )


def table(comparison: PromptComparison) -> tuple[list[str], list[list[str]]]:
    """Return the figures as a table: its head, and a row per figure with a cell per author."""
    columns = comparison.columns
    sets, figures = [c.prompts for c in columns], [c.figures for c in columns]
    keys = sorted({key for f in figures for key in f.attributes})
    rows = [
        ["prompts", *(str(len(s.texts)) for s in sets)],
        ["valid as written", *(_cell(f.valid) for f in figures)],
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
        ["asked for and seen", *(_cell(f.asked) for f in figures)],
        ["named and seen", *(_cell(f.named) for f in figures)],
        *(
            [
                f"  {key}{' (asked)' if key in comparison.asked else ''}",
                *(_cell(f.attributes.get(key)) for f in figures),
            ]
            for key in keys
        ),
    ]
    return ["figure", *(s.author for s in sets)], rows


def notes(comparison: PromptComparison, n_texts: int = 20) -> Iterator[str]:
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


def _model(settings: Settings, components: Components) -> BaseChatModel | None:
    """Return the chat model of the settings' brain, or None for a planner."""
    context = BrainContext(components.distribution, components.target.vocabulary, settings.llm)
    brain = with_mode(brains.build(settings.brain, context), settings.llm)
    return brain.model if isinstance(brain, ChatBrain) else None


def _share(value: float, n: int) -> Estimate:
    return wilson(round(value * n), n)


def _together(estimates: Sequence[Estimate]) -> Estimate:
    return wilson(
        sum(round(estimate.value * estimate.n) for estimate in estimates),
        sum(estimate.n for estimate in estimates),
    )


def _cell(estimate: Estimate | None) -> str:
    if estimate is None or estimate.n == 0:
        return "-"
    return estimate_text(estimate, digits=2)
