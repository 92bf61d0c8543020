"""Labelled images as arrays: the exchange format of targets, generators and tasks."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from memory.errors import DataError, unknown

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]
Dense = Mapping[str, NDArray[Any]]
"""Pixel labels by kind: "segmentation", "depth", "normals"; see `Samples`."""

# Class id of pixels of unknown class.
VOID = 255

_DENSE_TYPES = {"segmentation": np.uint8, "depth": np.float32, "normals": np.float32}
KINDS = tuple(_DENSE_TYPES)
"""Kinds of pixel labels."""


@dataclass(frozen=True)
class Samples:
    """`n` labelled images.

    Attributes:
        images: uint8, (n, channels, height, width), 0..255.
        classes: int64, (n,), indices into the target's class names.
        attributes: One mapping per image; attributes that could not be measured are absent.
        ids: Unique names of the source images.
        weights: float64, (n,), at least 0; weights of the images in training.
        labels: Pixel labels by kind. "segmentation", uint8, (n, h, w): class ids, VOID where
            unknown; "depth", float32, (n, h, w): metres, NaN where unknown; "normals", float32,
            (n, 3, h, w): unit vectors facing the camera (x right, y down, z forward), NaN where
            unknown.
        groups: Group name of each photograph, shared by related ones such as the frames of a video.
            Empty: unknown.
    """

    images: Images
    classes: Labels
    attributes: Sequence[Mapping[str, str]]
    ids: Sequence[str]
    weights: NDArray[np.float64] = field(default_factory=lambda: np.zeros(0))
    labels: Dense = field(default_factory=dict)
    groups: Sequence[str] = ()

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
        if len(self.groups) not in (0, n):
            raise DataError(f"{n} images but {len(self.groups)} groups")
        for kind, values in self.labels.items():
            self._check_labels(kind, values)

    def _check_labels(self, kind: str, values: NDArray[Any]) -> None:
        if kind not in _DENSE_TYPES:
            raise DataError(unknown("kind of labels", kind, _DENSE_TYPES))
        n, _, *size = self.images.shape
        shape = (n, 3, *size) if kind == "normals" else (n, *size)
        if values.dtype != _DENSE_TYPES[kind] or values.shape != shape:
            raise DataError(
                f"{kind} must be {_DENSE_TYPES[kind].__name__} of shape {shape}, got "
                f"{values.dtype} of shape {values.shape}"
            )

    def __len__(self) -> int:
        return len(self.images)

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.images.shape[1:]
        return channels, height, width

    def take(self, index: Sequence[int] | NDArray[np.int64]) -> Samples:
        """Return the samples at `index`, in that order."""
        chosen = [int(i) for i in index]
        return Samples(
            images=self.images[chosen],
            classes=self.classes[chosen],
            attributes=[self.attributes[i] for i in chosen],
            ids=[self.ids[i] for i in chosen],
            weights=self.weights[chosen],
            labels={kind: values[chosen] for kind, values in self.labels.items()},
            groups=[self.groups[i] for i in chosen] if self.groups else (),
        )


class Pool(Protocol):
    """Collection of labelled images, e.g. `Samples`; see there for the arrays."""

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""

    @property
    def ids(self) -> Sequence[str]:
        """Names of the images; names of generated images begin with the id of their prompt."""

    @property
    def classes(self) -> Labels:
        """Indices into the target's class names, (n,)."""

    @property
    def weights(self) -> NDArray[np.float64]:
        """Weight of each image in training, (n,)."""

    def __len__(self) -> int:
        """Return the number of images."""

    def take(self, index: Sequence[int] | NDArray[np.int64]) -> Samples:
        """Return the samples at `index`, in that order."""


def parts_of(samples: Pool, size: int) -> Iterator[Samples]:
    """Yield all samples in order, `size` at a time, to limit memory."""
    for start in range(0, len(samples), size):
        yield samples.take(range(start, min(start + size, len(samples))))


def content_digest(samples: Samples) -> str:
    """Return the SHA-256 of images, classes and pixel labels."""
    content = hashlib.sha256(samples.images.tobytes() + samples.classes.tobytes())
    for _, values in sorted(samples.labels.items()):
        content.update(values.tobytes())
    return content.hexdigest()


def concatenate(parts: Sequence[Samples]) -> Samples:
    """Concatenate samples of equal image shape.

    Pixel labels that are missing in some part are dropped.

    Raises:
        DataError: There are no samples.
    """
    if not parts:
        raise DataError("no samples to join")
    ids = [name for part in parts for name in part.ids]
    groups = [group for part in parts for group in part.groups]
    return Samples(
        images=np.concatenate([part.images for part in parts]),
        classes=np.concatenate([part.classes for part in parts]),
        attributes=[attributes for part in parts for attributes in part.attributes],
        ids=ids,
        weights=np.concatenate([part.weights for part in parts]),
        labels={
            kind: np.concatenate([part.labels[kind] for part in parts])
            for kind in parts[0].labels
            if all(kind in part.labels for part in parts)
        },
        groups=groups if len(groups) == len(ids) else (),
    )
