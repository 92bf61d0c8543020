"""The card of an MTDM: how well its images agree with their prompts, and what it was trained on."""

from __future__ import annotations

import json
import random
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.files import write_json
from tools.generators import Generator, ImageRequest
from tools.generators.mtdm import MTDMGenerator, load_pipeline
from tools.labelers.audit import AuditClassifier, train_audit
from tools.samples import Samples
from tools.settings import AuditSettings
from tools.targets import Target

N_IMAGES = 512
BATCH_SIZE = 32


def write_card(
    folder: Path,
    target: Target,
    cache_dir: Path,
    audit: AuditSettings | None = None,
    device: str = "cpu",
) -> dict[str, Any]:
    """Draw images for the captions of real photographs and write their figures to card.json.

    Uses the pipeline's default sampling. `trained` repeats the training's step, loss and settings
    if `train.json` lies beside the pipeline.
    """
    generator = MTDMGenerator(load_pipeline(folder, device))
    judge = train_audit(target, audit or AuditSettings(), cache_dir, device)
    samples, texts = draw_like(target, generator, N_IMAGES)
    state = folder.parent / "train.json"
    trained = json.loads(state.read_text("utf-8")) if state.exists() else None
    card = {
        "target": target.name,
        "notice": target.notice,
        "trained": trained,
        "n_images": len(samples),
        **agreement(judge, target, samples),
        "attributes": attribute_agreement(target, samples),
        **memorisation(target, samples),
        "example_prompts": texts[:4],
    }
    write_json(folder / "card.json", card)
    return card


def draw_like(
    target: Target, generator: Generator, n_images: int, seed: int = 0
) -> tuple[Samples, list[str]]:
    """Draw one image for the caption of each of `n_images` photographs of the generator split.

    Photographs are drawn with replacement, so classes and attributes are as frequent as in
    reality. Returns the images with what they were asked to show, and the captions.
    """
    real = target.split("generator")
    rng = random.Random(seed)
    rows = [rng.randrange(len(real)) for _ in range(n_images)]
    texts = [target.vocabulary.caption(real.attributes[row], rng) for row in rows]
    requests = [ImageRequest(text, "card", i, seed) for i, text in enumerate(texts)]
    images = [
        generator.draw(requests[start : start + BATCH_SIZE]).images
        for start in range(0, n_images, BATCH_SIZE)
    ]
    samples = Samples(
        images=np.concatenate(images),
        classes=real.classes[rows],
        attributes=[real.attributes[row] for row in rows],
        ids=[f"card-{i:04d}" for i in range(n_images)],
    )
    return samples, texts


def agreement(audit: AuditClassifier, target: Target, samples: Samples) -> dict[str, float]:
    """Return how often the audit sees the prompt's class, beside how often it is right on photos.

    The photographs are those of the feedback split, which the audit was not trained on.
    """
    generated = audit.agreement(samples)
    real = audit.agreement(target.split("feedback"))
    return {
        "audit_agreement_generated": generated,
        "audit_agreement_real": real,
        "audit_agreement_ratio": generated / real,
    }


def attribute_agreement(target: Target, samples: Samples) -> dict[str, dict[str, float]]:
    """Return, per attribute that can be measured, the share of images that show what was asked.

    `chance` is the share that a generator deaf to its prompt would reach with the same images.
    """
    measurable = _measurable(target)
    asked: dict[str, list[str]] = defaultdict(list)
    seen: dict[str, list[str]] = defaultdict(list)
    for image, attributes in zip(samples.images, samples.attributes, strict=True):
        measured = target.measure(image, attributes)
        for key in measurable & attributes.keys():
            asked[key].append(attributes[key])
            seen[key].append(measured.get(key, ""))
    result = {}
    for key in sorted(asked):
        a, s = np.array(asked[key]), np.array(seen[key])
        chance = sum(float((a == v).mean() * (s == v).mean()) for v in set(asked[key]))
        result[key] = {"agreement": float((a == s).mean()), "chance": chance, "n": len(a)}
    return result


def memorisation(target: Target, samples: Samples) -> dict[str, float]:
    """Compare distances to the nearest training photograph: of generated and of unseen real images.

    Root mean square over pixels, 0..255, medians. A ratio far below 1 means that the model
    repeats its training photographs.
    """
    known = _flat(target.split("generator"))
    generated = _nearest(_flat(samples), known)
    real = _nearest(_flat(target.split("feedback")), known)
    return {
        "nearest_training_image_generated": generated,
        "nearest_training_image_real": real,
        "nearest_training_image_ratio": generated / real,
    }


def _measurable(target: Target) -> set[str]:
    """Return the attributes that `target.measure` finds on some photograph."""
    audit = target.split("audit")
    return {
        key
        for image, attributes in zip(audit.images, audit.attributes, strict=True)
        for key in target.measure(image, attributes)
    }


def _flat(samples: Samples) -> NDArray[np.float32]:
    return samples.images.reshape(len(samples), -1).astype(np.float32)


def _nearest(images: NDArray[np.float32], known: NDArray[np.float32]) -> float:
    squares = (images**2).sum(1)[:, None] + (known**2).sum(1)[None] - 2 * images @ known.T
    nearest = np.sqrt(np.maximum(squares.min(1), 0) / images.shape[1])
    return float(np.median(nearest))
