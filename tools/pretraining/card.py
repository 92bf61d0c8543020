"""The card of an MTDM: agreement of its images with their prompts, and its training data."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np

from eval.copies import Copies
from memory.files import write_json
from tools import tasks
from tools.data.drawn import ImageRequest, join
from tools.data.samples import Samples
from tools.diffusion.pipeline import MTDMPipeline
from tools.diffusion.weights import load_pipeline
from tools.generators import Generator
from tools.generators.mtdm import MTDMGenerator
from tools.labelers.audit import AuditClassifier
from tools.models.copies import finder_of
from tools.settings import TrainSettings, renamed
from tools.targets import Target, licence_of, with_flips
from tools.tasks import Slicing
from tools.train_dstm import train_model

# Images of a card: at most, at least, and per photograph of the generator split.
MAX_IMAGES, MIN_IMAGES, PER_PHOTOGRAPH = 512, 64, 4
TEACHER = TrainSettings(
    model="unet", steps=300, batch_size=16, learning_rate=3e-3, balance_classes=False
)
BATCH_SIZE = 32

Progress = Callable[[int, int], None]
Watch = Callable[[str, str], AbstractContextManager[Progress]]
"""Opens a task with its unit; the context's value is called with the units done and in total."""


def _unwatched(task: str, unit: str) -> AbstractContextManager[Progress]:
    return nullcontext(lambda done, total: None)


def write_card(
    folder: Path,
    target: Target,
    train_judge: Callable[[Progress], AuditClassifier],
    device: str = "cpu",
    watch: Watch = _unwatched,
) -> dict[str, Any]:
    """Draw images for the captions of real photographs and write their figures to card.json.

    Images are drawn with the pipeline's default sampling. Agreement of classes is measured only if
    the audit split has photographs. `trained` contains step, loss and settings of the training if
    its state lies beside the pipeline.

    Args:
        folder: Folder of the MTDM.
        target: Target that it was trained on.
        train_judge: Trains a classifier of the target's classes, for an MTDM without labels.
        device: A torch device.
        watch: Displays the progress of drawing and training.

    Returns:
        The content of card.json.
    """
    generator = MTDMGenerator(load_pipeline(folder, device))
    with watch("draw for the card", "images") as progress:
        samples, texts = draw_like(target, generator, n_of_card(target), progress=progress)
    figures: dict[str, Any] = {}
    if samples.labels:
        figures = label_agreement(target, samples, device, watch=watch)
    elif len(target.split("audit")):
        with watch("train a judge of classes", "steps") as progress:
            figures = audit_agreement(train_judge(progress), target, samples)
    card = {
        "target": target.name,
        "notice": licence_of(target),
        "trained": _state(folder.parent, generator.pipeline),
        "n_images": len(samples),
        **figures,
        "attributes": attribute_agreement(target, samples),
        "copies": copies(target, samples).to_json(),
        "example_prompts": texts[:4],
    }
    write_json(folder / "card.json", card)
    return card


def n_of_card(target: Target) -> int:
    """Return the number of images that a card is measured on, fewer for few photographs."""
    n_wanted = PER_PHOTOGRAPH * len(target.split("generator"))
    return min(MAX_IMAGES, max(MIN_IMAGES, n_wanted))


def draw_like(
    target: Target,
    generator: Generator,
    n_images: int,
    seed: int = 0,
    progress: Progress = lambda done, total: None,
) -> tuple[Samples, list[str]]:
    """Draw one image for the caption of each of `n_images` photographs of the generator split.

    Photographs are sampled with replacement, so classes and attributes are distributed as in the
    photographs.

    Returns:
        The images with the attributes of their prompts, and the captions.
    """
    photographs = target.split("generator")
    rng = random.Random(seed)
    rows = [rng.randrange(len(photographs)) for _ in range(n_images)]
    real = photographs.take(rows)
    texts = [target.vocabulary.caption(attributes, rng) for attributes in real.attributes]
    requests = [ImageRequest(text, "card", i, seed) for i, text in enumerate(texts)]
    batches = []
    for start in range(0, n_images, BATCH_SIZE):
        progress(start, n_images)
        batches.append(generator.draw(requests[start : start + BATCH_SIZE]))
    drawn = join(batches)
    ids = [f"card-{i:04d}" for i in range(n_images)]
    return Samples(drawn.images, real.classes, real.attributes, ids, labels=drawn.labels), texts


def _state(folder: Path, pipeline: MTDMPipeline) -> dict[str, Any] | None:
    """Return the content of train.json, with the current sampling settings of the pipeline."""
    path = folder / "train.json"
    if not path.exists():
        return None
    state: dict[str, Any] = json.loads(path.read_text("utf-8"))
    # These may have been changed after the last step.
    now = {key: pipeline.config[key] for key in ("s_noise", "timestep_rho")}
    return state | {"settings": renamed(state["settings"]) | now}


def audit_agreement(audit: AuditClassifier, target: Target, samples: Samples) -> dict[str, float]:
    """Return the audit's agreement with the prompts' classes, and its accuracy on photographs.

    The photographs are of the feedback split, on which the audit was not trained.
    """
    generated = audit.agreement(samples)
    real = audit.agreement(target.split("feedback"))
    return {
        "audit_agreement_generated": generated,
        "audit_agreement_real": real,
        "audit_agreement_ratio": generated / max(real, 1e-9),
    }


def label_agreement(
    target: Target,
    samples: Samples,
    device: str = "cpu",
    teacher: TrainSettings = TEACHER,
    watch: Watch = _unwatched,
) -> dict[str, Any]:
    """Return the agreement of generated labels with networks trained on the audit split.

    For each kind of labels: the task's main metric (higher is better) on generated images and on
    the feedback split, on which the networks were not trained, and the ratio of the two.

    Args:
        target: Target with both splits.
        samples: Generated images with labels.
        device: A torch device.
        teacher: Training settings of the networks.
        watch: Displays the progress of the training.
    """
    known, unseen = target.split("audit"), target.split("feedback")
    names = target.pixel_classes
    agreements = {}
    for kind in samples.labels:
        if kind not in known.labels or kind not in unseen.labels:
            continue
        task = tasks.build(kind)
        train = with_flips(teacher.model_copy(update={"task": kind}), target)
        with watch(f"train a judge of {kind}", "steps") as progress:
            model, _ = train_model(known, task, len(names), train, device, progress)
        figures = {}
        for origin, part in (("generated", samples), ("real", unseen)):
            predictions = task.predict(model, part.images)
            report = task.report(predictions, part, names, 0, "card", Slicing())
            figures[origin] = report.metrics[task.metric].value
        ratio = figures["generated"] / max(figures["real"], 1e-9)
        agreements[kind] = {"figure": task.metric, **figures, "ratio": ratio}
    return {"label_agreement": agreements}


def attribute_agreement(target: Target, samples: Samples) -> dict[str, dict[str, float]]:
    """Return, per measurable attribute, the share of images that show the prompt's value.

    `chance` is the expected share if the same images were assigned to prompts at random.
    """
    measurable = _measurable(target)
    pairs: dict[str, list[tuple[str, str]]] = defaultdict(list)
    for image, attributes in zip(samples.images, samples.attributes, strict=True):
        measured = target.measure(image, attributes)
        for key in measurable & attributes.keys():
            pairs[key].append((attributes[key], measured.get(key, "")))
    result = {}
    for key, values in sorted(pairs.items()):
        prompted, shown = np.array(values).T
        chance = sum(
            float((prompted == v).mean() * (shown == v).mean()) for v in {v for v, _ in values}
        )
        agreement = float((prompted == shown).mean())
        result[key] = {"agreement": agreement, "chance": chance, "n": len(values)}
    return result


def copies(target: Target, samples: Samples) -> Copies:
    """Return how many generated images are near copies of photographs of the generator split."""
    finder = finder_of(target)
    return finder.summary(finder.search(samples.images)[1])


def _measurable(target: Target) -> set[str]:
    """Return the attributes that `target.measure` returns for any photograph."""
    audit = target.split("audit")
    return {
        key
        for image, attributes in zip(audit.images, audit.attributes, strict=True)
        for key in target.measure(image, attributes)
    }
