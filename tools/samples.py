"""Labelled images as arrays: what targets, generators and tasks hand to one another."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from memory.errors import DataError

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


@dataclass(frozen=True)
class Samples:
    """`n` images with what is known of them.

    images: uint8, (n, channels, height, width), 0..255
    classes: int64, (n,), index into the target's class names
    attributes: one mapping per image; an attribute that could not be measured is absent
    ids: unique names of the source images
    weights: float64, (n,), at least 0; how much an image counts in training
    """

    images: Images
    classes: Labels
    attributes: Sequence[Mapping[str, str]]
    ids: Sequence[str]
    weights: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))

    def __post_init__(self) -> None:
        n = len(self.images)
        if self.images.ndim != 4 or self.images.dtype != np.uint8:
            raise DataError(
                "images must be uint8 of shape (n, channels, height, width), got "
                f"{self.images.dtype} of shape {self.images.shape}"
            )
        if len(self.weights) == 0:
            object.__setattr__(self, "weights", np.ones(n))
        for name in ("classes", "attributes", "ids", "weights"):
            if len(getattr(self, name)) != n:
                raise DataError(f"{n} images but {len(getattr(self, name))} {name}")

    def __len__(self) -> int:
        return len(self.images)

    def take(self, index: Sequence[int] | NDArray[np.int64]) -> Samples:
        """Return the samples at `index`, in that order."""
        chosen = [int(i) for i in index]
        return Samples(
            images=self.images[chosen],
            classes=self.classes[chosen],
            attributes=[self.attributes[i] for i in chosen],
            ids=[self.ids[i] for i in chosen],
            weights=self.weights[chosen],
        )


def concatenate(parts: Sequence[Samples]) -> Samples:
    """Join samples of one image shape; raises DataError when there are none."""
    if not parts:
        raise DataError("no samples to join")

    def chain() -> Iterator[tuple[Mapping[str, str], str]]:
        for part in parts:
            yield from zip(part.attributes, part.ids, strict=True)

    attributes, ids = zip(*chain(), strict=True) if any(len(p) for p in parts) else ((), ())
    return Samples(
        images=np.concatenate([part.images for part in parts]),
        classes=np.concatenate([part.classes for part in parts]),
        attributes=list(attributes),
        ids=list(ids),
        weights=np.concatenate([part.weights for part in parts]),
    )
