"""Training batches of pretraining: images with labels and captions, mirrored at random.

A batch is a function of (seed, step), so an interrupted run ends with the same weights as an
uninterrupted one.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from tools.data.samples import Dense, Samples
from tools.diffusion.label_codes import mirrored
from tools.settings import CaptionedRun, PretrainSettings
from tools.targets import Target

CAPTIONS_PER_IMAGE = 6

Captions = Sequence[Sequence[Sequence[Sequence[str]]]]
"""captions[image][flipped horizontally][flipped vertically][variant]."""


class CaptionedBatch(NamedTuple):
    """Images, uint8, (n, c, h, w), with labels as in `Samples` and one caption each."""

    images: NDArray[np.uint8]
    labels: Dense
    captions: list[str]


class Batches:
    """Batches by training step.

    Args:
        samples: Training images.
        target: Defines the vocabulary of the captions and the flips under which they stay valid.
        settings: Batch size, seed, and dropout of captions and attributes.
    """

    def __init__(self, samples: Samples, target: Target, settings: CaptionedRun) -> None:
        self._samples, self._settings = samples, settings
        self._captions = captions_of(samples, target, settings)
        self._order = order_of(samples, settings)
        self._may_flip = [direction in target.flips for direction in ("horizontal", "vertical")]

    def texts(self) -> Iterator[str]:
        """Yield every caption that a batch may contain, including the empty one."""
        yield ""
        across, down = ((False, True) if may else (False,) for may in self._may_flip)
        for image in self._captions:
            for h in across:
                for v in down:
                    yield from image[h][v]

    def __call__(self, step: int) -> CaptionedBatch:
        """Return the batch of a step."""
        rng = np.random.default_rng([self._settings.seed, step])
        rows = self._order(step)
        flips = rng.integers(0, 2, (len(rows), 2)).astype(bool) & self._may_flip
        images, labels = [], []
        for i, (horizontal, vertical) in zip(rows, flips.tolist(), strict=True):
            planes = {k: v[i] for k, v in self._samples.labels.items()}
            flipped = mirrored({"image": self._samples.images[i], **planes}, horizontal, vertical)
            images.append(flipped.pop("image"))
            labels.append(flipped)
        stacked: dict[str, NDArray[Any]] = {
            kind: np.stack([row[kind] for row in labels]) for kind in self._samples.labels
        }
        return CaptionedBatch(np.stack(images), stacked, self._sample_captions(rows, flips, rng))

    def _sample_captions(
        self, rows: Sequence[int], flips: NDArray[np.bool_], rng: np.random.Generator
    ) -> list[str]:
        """Return a caption for each row, "" with probability `text_dropout`."""
        variants = [
            self._captions[i][int(h)][int(v)] for i, (h, v) in zip(rows, flips, strict=True)
        ]
        return [
            ""
            if rng.random() < self._settings.text_dropout
            else texts[int(rng.integers(len(texts)))]
            for texts in variants
        ]


def order_of(samples: Samples, settings: CaptionedRun) -> Callable[[int], list[int]]:
    """Return a function from steps to image indices: shuffled epochs, or sampling by class.

    With `class_sampling_exponent` e above 0, the probability of an image is proportional to its
    class's frequency to the power of -e.
    """
    exponent = settings.class_sampling_exponent if isinstance(settings, PretrainSettings) else 0.0
    if exponent == 0:
        return lambda step: epoch_order(len(samples), settings, step)
    chances = np.bincount(samples.classes)[samples.classes].astype(float) ** -exponent
    chances /= chances.sum()

    def sampled(step: int) -> list[int]:
        rng = np.random.default_rng([settings.seed, 1, step])
        rows: list[int] = rng.choice(len(samples), settings.batch_size, p=chances).tolist()
        return rows

    return sampled


def epoch_order(n: int, settings: CaptionedRun, step: int) -> list[int]:
    """Return the image indices of a step, taken from consecutive shuffled epochs."""
    start = step * settings.batch_size
    positions = range(start, start + settings.batch_size)
    orders = {
        epoch: np.random.default_rng([settings.seed, 1, epoch]).permutation(n)
        for epoch in {p // n for p in positions}
    }
    return [int(orders[p // n][p % n]) for p in positions]


def captions_of(
    samples: Samples, target: Target, settings: CaptionedRun
) -> list[list[list[list[str]]]]:
    """Return the captions of all samples, see `Captions`.

    Attributes are dropped at random, so that the model also learns prompts that name only some of
    them; the first variant always names all.
    """
    rng = random.Random(settings.seed)
    vocabulary = target.vocabulary
    shared: dict[frozenset[tuple[str, str]], list[str]] = {}

    def variants(attributes: Mapping[str, str], n: int) -> list[str]:
        result = [vocabulary.caption(attributes, rng)]
        while len(result) < n:
            kept = {
                k: v for k, v in attributes.items() if rng.random() >= settings.attribute_dropout
            }
            if vocabulary.problems(kept):
                kept = {k: v for k, v in kept.items() if k not in vocabulary.requires}
            result.append(vocabulary.caption(kept, rng))
        return result

    def captions(attributes: Mapping[str, str]) -> list[str]:
        if settings.shared_captions is None:
            return variants(attributes, CAPTIONS_PER_IMAGE)
        key = frozenset(attributes.items())
        if key not in shared:
            shared[key] = variants(attributes, settings.shared_captions)
        return shared[key]

    return [
        [[captions(target.flip(dict(a), h, v)) for v in (False, True)] for h in (False, True)]
        for a in samples.attributes
    ]
