"""`shaping prompts`: measure how well prompts of a brain and of the grammar match a request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from langchain_core.language_models import BaseChatModel
from pydantic import Field
from rich.console import Console

from agent.brains import BrainContext, ChatBrain
from agent.brains.probe import build_probed
from agent.cli.prompt_authors import REASONS, PromptRequest, PromptSet, ask, caption
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
from tools.targets.cross_fitting import undivided

# Images per call of the generator; prompts printed per author.
_BATCH_SIZE = 32
_N_SHOWN = 20


class Figures(Record):
    """Diversity of prompts, and agreement of their images with the attributes that they name."""

    distinct_1: Share
    distinct_2: Share
    vendi: float = Field(ge=0, description="of MiniLM vectors: effective number of prompts")
    n_cut: int = Field(ge=0, description="prompts that the generator truncates")
    n_foreign: int = Field(ge=0, description="prompts with words outside the vocabulary")
    n_images: int = Field(ge=0)
    attributes: dict[str, Estimate] = Field(
        description="share of images that show an attribute's value, of prompts that name it"
    )
    asked: Estimate = Field(description="the same, pooled over the attributes of the request")


class PromptStudy(Record):
    """The prompts of all authors for one request, with their figures."""

    request: str
    asked: dict[str, str]
    unseen: tuple[str, ...] = Field(description="requested, but not measurable on images")
    generator: str
    seed: int
    authors: tuple[tuple[PromptSet, Figures], ...]


def study(
    settings: Settings, request: str, n: int, images_per_prompt: int, console: Console
) -> PromptStudy:
    """Write `n` prompts for a request by the settings' brain and by the grammar; measure both.

    distinct-n and Vendi depend on the number of texts, so the grammar writes as many as the brain.
    For a planner as the brain there is only the grammar. Images of the same prompt number and index
    have the same noise for both authors.

    Args:
        settings: Settings with the brain, target and generator.
        request: The request in the user's words.
        n: Number of prompts per author.
        images_per_prompt: Images per prompt, at least 1.
        console: Shows the progress.

    Raises:
        SettingsError: The request names no attribute, or two values of one.
        BrainError: The brain fails before it has written a valid prompt.
    """
    components = Components(settings)
    target, generator, seed = components.target, components.generator, settings.session.seed
    asked = PromptRequest.parse(request, target.vocabulary)
    sets = []
    if model := _model(settings, components):
        with console.status(f"{settings.brain} writes prompts"):
            sets.append(ask(model, settings.brain, asked, n, settings.llm))
        n = len(sets[0].texts) or n
    sets.append(caption(asked, n, components.distribution, seed))
    with console.status("Training the audit"):
        audit = components.classifier(undivided(target))
    authors = []
    for prompts in sets:
        with console.status(f"Drawing the images of {prompts.author}"):
            samples = draw(prompts, target, generator, images_per_prompt, seed)
            figures = measure(prompts, samples, target, generator, audit, asked.attributes)
        authors.append((prompts, figures))
    seen = {key for _, figures in authors for key in figures.attributes}
    return PromptStudy(
        request=request,
        asked=dict(asked.attributes),
        unseen=tuple(key for key in asked.attributes if key not in seen),
        generator=generator.identity,
        seed=seed,
        authors=tuple(authors),
    )


def draw(
    prompts: PromptSet, target: Target, generator: Generator, images_per_prompt: int, seed: int
) -> Samples | None:
    """Draw the images of prompts.

    Args:
        prompts: The prompts.
        target: Target with their vocabulary.
        generator: The generator.
        images_per_prompt: Images per prompt, at least 1.
        seed: Seed of the noise.

    Returns:
        Images with the class and attributes that their prompt names, -1 for no class; None: there
        are no prompts.
    """
    if not prompts.texts:
        return None
    vocabulary, class_names = target.vocabulary, list(target.class_names)
    attributes = [vocabulary.parse(text) for text in prompts.texts]
    names = [vocabulary.class_name(named) for named in attributes]
    classes = np.array([-1 if n is None else class_names.index(n) for n in names], np.int64)
    owner = np.repeat(np.arange(len(names)), images_per_prompt)
    requests = [
        ImageRequest(text, f"p{i:04d}", index, seed)
        for i, text in enumerate(prompts.texts)
        for index in range(images_per_prompt)
    ]
    starts = range(0, len(requests), _BATCH_SIZE)
    return Samples(
        images=join([generator.draw(requests[i : i + _BATCH_SIZE]) for i in starts]).images,
        classes=classes[owner],
        attributes=[attributes[i] for i in owner],
        ids=[f"{request.prompt_id}-{request.index:04d}" for request in requests],
    )


def measure(
    prompts: PromptSet,
    samples: Samples | None,
    target: Target,
    generator: Generator,
    audit: AuditClassifier,
    asked: Mapping[str, str],
) -> Figures:
    """Return the figures of prompts.

    An image shows the class attribute if its most probable class by the audit is the one that the
    prompt names. Attributes that neither the target nor the audit measures are left out.

    Args:
        prompts: The prompts.
        samples: Their images, see `draw`.
        target: Target, which measures attributes on images.
        generator: Generator, which counts tokens of prompts.
        audit: Classifier of images.
        asked: Attributes of the request.
    """
    texts, vocabulary = prompts.texts, target.vocabulary
    seen: dict[str, Estimate] = {}
    if samples:
        for key, shown in attribute_agreement(target, samples).items():
            seen[key] = wilson(round(shown["agreement"] * shown["n"]), int(shown["n"]))
        judged = samples.take(np.flatnonzero(samples.classes >= 0))
        if len(judged) and vocabulary.class_attribute:
            n_right = round(audit.agreement(judged) * len(judged))
            seen[vocabulary.class_attribute] = wilson(n_right, len(judged))
    of_request = [seen[key] for key in asked if key in seen]
    n_shown = sum(round(share.value * share.n) for share in of_request)
    return Figures(
        distinct_1=distinct_n(texts, 1),
        distinct_2=distinct_n(texts, 2),
        vendi=vendi(minilm.load().embed(texts)),
        n_cut=sum(generator.count_tokens(text) > generator.max_tokens for text in texts),
        n_foreign=sum(bool(vocabulary.foreign_words(text)) for text in texts),
        n_images=len(samples) if samples else 0,
        attributes=seen,
        asked=wilson(n_shown, sum(share.n for share in of_request)),
    )


def table(result: PromptStudy) -> tuple[list[str], list[list[str]]]:
    """Return the columns and rows of a table with a row per figure and a column per author."""
    keys = sorted({key for _, figures in result.authors for key in figures.attributes})
    columns: list[dict[str, str]] = [
        {
            "prompts": str(len(prompts.texts)),
            "valid as written": _cell(prompts.share_valid),
            **{f"  {reason}": str(prompts.dropped.get(reason, 0)) for reason in REASONS},
            "distinct-1": f"{figures.distinct_1:.3f}",
            "distinct-2": f"{figures.distinct_2:.3f}",
            "Vendi (MiniLM)": f"{figures.vendi:.2f}",
            "longer than the generator reads": str(figures.n_cut),
            "with words it may not know": str(figures.n_foreign),
            "images": str(figures.n_images),
            "asked for and seen": _cell(figures.asked),
            **{
                f"  {key}{' (asked)' if key in result.asked else ''}": _cell(
                    figures.attributes.get(key)
                )
                for key in keys
            },
        }
        for prompts, figures in result.authors
    ]
    rows = [[name, *(column[name] for column in columns)] for name in columns[0]]
    return ["figure", *(prompts.author for prompts, _ in result.authors)], rows


def notes(result: PromptStudy) -> Iterator[str]:
    """Yield lines: the parsed request, the first prompts of each author, and why it stopped."""
    asked = ", ".join(f"{key}={value}" for key, value in result.asked.items())
    yield f"Asked for: {asked}"
    if result.unseen:
        yield f"Not measured on images: {', '.join(result.unseen)}"
    for prompts, _ in result.authors:
        yield f"\n{prompts.author}:"
        yield from (f"  {text}" for text in prompts.texts[:_N_SHOWN])
        if len(prompts.texts) > _N_SHOWN:
            yield f"  ... and {len(prompts.texts) - _N_SHOWN} more; -o FILE writes them all"
        if prompts.stopped:
            yield f"  Stopped after {len(prompts.texts)}: {prompts.stopped}"


def _model(settings: Settings, components: Components) -> BaseChatModel | None:
    """Return the chat model of the settings' brain; None: the brain is a planner."""
    context = BrainContext(components.distribution, components.target.vocabulary, settings.llm)
    brain = build_probed(settings.brain, context)
    return brain.model if isinstance(brain, ChatBrain) else None


def _cell(estimate: Estimate | None) -> str:
    return estimate_text(estimate, digits=2) if estimate and estimate.n else "-"
