"""Synthetic errors of dense labels, modelled on those of generators, to calibrate label quality.

A fault is a function of the labels of one image (as in `tools.data.samples.Samples`, without the
first axis), the labels of a donor image, a strength in 0..1 and a random generator. It changes all
kinds of labels in the same places.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import distance_transform_edt, gaussian_filter, label

from eval.dense import VOID
from eval.quality import unit_vectors

Generator = np.random.Generator
Labels = Mapping[str, NDArray[Any]]
Image = dict[str, NDArray[Any]]
"""Labels of one image by kind."""
Fault = Callable[[Labels, Labels, float, Generator], Image]


def corrupt(
    labels: Mapping[str, NDArray[Any]], rng: Generator, clean_share: float = 0.3
) -> dict[str, NDArray[Any]]:
    """Apply a random fault of uniformly distributed strength to the labels of most images.

    Args:
        labels: arrays by kind as in `Samples`, n images each.
        rng: draws faulty images, donors, faults and strengths.
        clean_share: expected share of images without a fault, 0..1.
    """
    n = len(next(iter(labels.values())))
    corrupted: dict[str, list[NDArray[Any]]] = {kind: [] for kind in labels}
    names = [*FAULTS]
    for i in range(n):
        image = {kind: filled(kind, values[i]) for kind, values in labels.items()}
        if rng.random() >= clean_share:
            j = (i + int(rng.integers(1, n))) % n if n > 1 else i
            donor = {kind: filled(kind, values[j]) for kind, values in labels.items()}
            fault = FAULTS[names[int(rng.integers(len(names)))]]
            image = fault(image, donor, float(rng.random()), rng)
        for kind, values in image.items():
            unknown: Any = VOID if kind == "segmentation" else np.nan
            valid = is_valid(kind, labels[kind][i])
            corrupted[kind].append(np.where(valid, values, np.array(unknown, values.dtype)))
    return {kind: np.stack(values) for kind, values in corrupted.items()}


def is_valid(kind: str, values: NDArray[Any]) -> NDArray[np.bool_]:
    """Return the mask of the known labels of one image, (h, w)."""
    valid: NDArray[np.bool_] = values != VOID if kind == "segmentation" else np.isfinite(values)
    return np.all(valid, axis=0) if kind == "normals" else valid


def filled(kind: str, values: NDArray[Any]) -> NDArray[Any]:
    """Return one image's labels with unknown pixels filled from the nearest known one, if any."""
    valid = is_valid(kind, values)
    if valid.all() or not valid.any():
        return values
    nearest = distance_transform_edt(~valid, return_distances=False, return_indices=True)
    return values[..., nearest[0], nearest[1]]


def elsewhere(labels: Labels, donor: Labels, strength: float, rng: Generator) -> Image:
    """Replace a vertical strip by the donor's labels; from strength 0.5, the whole image."""
    _, width = _size(labels)
    wide = max(1, round(width * min(1.0, 2 * strength)))
    start = int(rng.integers(0, width - wide + 1))
    faulty = {kind: values.copy() for kind, values in labels.items()}
    for kind, values in faulty.items():
        values[..., start : start + wide] = donor[kind][..., start : start + wide]
    return faulty


def shifted(labels: Labels, donor: Labels, strength: float, rng: Generator) -> Image:
    """Translate all labels in a random direction by up to a sixth of the width, edges repeated."""
    height, width = _size(labels)
    reach = strength * width / 6
    angle = rng.uniform(0, 2 * np.pi)
    dx, dy = round(reach * np.cos(angle)), round(reach * np.sin(angle))
    rows = np.clip(np.arange(height) + dy, 0, height - 1)
    columns = np.clip(np.arange(width) + dx, 0, width - 1)
    return {kind: values[..., rows[:, None], columns] for kind, values in labels.items()}


def coarse(labels: Labels, donor: Labels, strength: float, rng: Generator) -> Image:
    """Remove detail: one class per block of up to 12 pixels; depth and normals are blurred."""
    block = 1 + round(11 * strength)
    height, width = _size(labels)
    rows = np.minimum(np.arange(height) // block * block + block // 2, height - 1)
    columns = np.minimum(np.arange(width) // block * block + block // 2, width - 1)
    faulty = dict(labels)
    if "segmentation" in labels:
        faulty["segmentation"] = labels["segmentation"][rows[:, None], columns]
    if "depth" in labels:
        faulty["depth"] = np.exp(gaussian_filter(np.log(labels["depth"]), block / 3)).astype(
            np.float32
        )
    if "normals" in labels:
        blurred = gaussian_filter(labels["normals"], (0, block / 3, block / 3))
        faulty["normals"] = unit_vectors(blurred, axis=0).astype(np.float32)
    return faulty


def missing(labels: Labels, donor: Labels, strength: float, rng: Generator) -> Image:
    """Remove objects, i.e. regions of one class smaller than a tenth of the image.

    Each is removed with a probability of `strength` and filled from the nearest pixel around it.
    Without segmentation, objects are random discs.
    """
    removed = np.zeros(_size(labels), np.bool_)
    for region in _small_regions(labels, rng):
        if rng.random() < strength:
            removed |= region
    if not removed.any() or removed.all():
        return dict(labels)
    nearest = distance_transform_edt(removed, return_distances=False, return_indices=True)
    return {kind: values[..., nearest[0], nearest[1]] for kind, values in labels.items()}


def mistaken(labels: Labels, donor: Labels, strength: float, rng: Generator) -> Image:
    """Give regions another class of the image, another depth and another slant.

    Each region is changed with a probability of `strength`.
    """
    faulty = {kind: values.copy() for kind, values in labels.items()}
    classes = np.unique(labels["segmentation"]) if "segmentation" in labels else np.arange(1)
    regions = [labels["segmentation"] == k for k in classes] if len(classes) > 1 else []
    for region in regions or _small_regions(labels, rng):
        if rng.random() >= strength:
            continue
        if "segmentation" in faulty:
            faulty["segmentation"][region] = rng.choice(classes)
        if "depth" in faulty:
            faulty["depth"][region] *= np.float32(np.exp(rng.normal(0, 0.6)))
        if "normals" in faulty:
            turned = _turned(labels["normals"], rng.normal(0, 0.5, 2))
            faulty["normals"][:, region] = turned[:, region]
    return faulty


def noisy(labels: Labels, donor: Labels, strength: float, rng: Generator) -> Image:
    """Add spatially correlated errors to classes, log depth and normals."""
    size = _size(labels)

    def smooth() -> NDArray[np.float64]:
        field = gaussian_filter(rng.normal(size=size), 3)
        scaled: NDArray[np.float64] = field / max(float(field.std()), 1e-9)
        return scaled

    faulty = dict(labels)
    if "segmentation" in labels:
        # The flipped pixels are the maxima of a smooth field and take a class from elsewhere.
        flipped = smooth() > 2 - 2.5 * strength
        faulty["segmentation"] = np.where(
            flipped, np.roll(labels["segmentation"], 17, 0), labels["segmentation"]
        )
    if "depth" in labels:
        faulty["depth"] = (labels["depth"] * np.exp(0.5 * strength * smooth())).astype(np.float32)
    if "normals" in labels:
        field = np.stack([smooth(), smooth(), smooth()])
        noisy_normals = labels["normals"] + 0.7 * strength * field
        faulty["normals"] = unit_vectors(noisy_normals, axis=0).astype(np.float32)
    return faulty


def rescaled(labels: Labels, donor: Labels, strength: float, rng: Generator) -> Image:
    """Add a global error: scale all depths, tilt all normals, zoom the classes."""
    sign = rng.choice([-1, 1])
    faulty = dict(labels)
    if "depth" in labels:
        faulty["depth"] = (labels["depth"] * np.exp(sign * 0.7 * strength)).astype(np.float32)
    if "normals" in labels:
        angle = rng.uniform(0, 2 * np.pi)
        tilt = 0.6 * strength
        faulty["normals"] = _turned(
            labels["normals"], tilt * np.array([np.cos(angle), np.sin(angle)])
        )
    if "segmentation" in labels:
        height, width = _size(labels)
        zoom = 1 + sign * 0.4 * strength
        rows = np.clip((np.arange(height) - height / 2) * zoom + height / 2, 0, height - 1)
        columns = np.clip((np.arange(width) - width / 2) * zoom + width / 2, 0, width - 1)
        faulty["segmentation"] = labels["segmentation"][
            rows.astype(int)[:, None], columns.astype(int)
        ]
    return faulty


FAULTS: Mapping[str, Fault] = {
    "elsewhere": elsewhere,
    "shifted": shifted,
    "coarse": coarse,
    "missing": missing,
    "mistaken": mistaken,
    "noisy": noisy,
    "rescaled": rescaled,
}
"""The faults by name."""


def _size(labels: Labels) -> tuple[int, int]:
    height, width = next(iter(labels.values())).shape[-2:]
    return height, width


def _small_regions(labels: Labels, rng: Generator) -> list[NDArray[np.bool_]]:
    height, width = _size(labels)
    if "segmentation" not in labels:
        y, x = np.mgrid[:height, :width]
        discs = []
        for _ in range(6):
            row, column = rng.uniform(0, height), rng.uniform(0, width)
            discs.append(
                (y - row) ** 2 + (x - column) ** 2 < rng.uniform(0.03, 0.15) ** 2 * height * width
            )
        return discs
    ids = labels["segmentation"]
    small = []
    for k in np.unique(ids[ids != VOID]):
        regions, n_regions = label(ids == k)
        for number in range(1, n_regions + 1):
            region = regions == number
            if region.mean() < 0.1:
                small.append(region)
    return small


def _turned(normals: NDArray[Any], slant: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return normals rotated about the y and then the x axis of the camera; slant: in radians."""
    (sa, sb), (ca, cb) = np.sin(slant), np.cos(slant)
    about_y = np.array([[ca, 0, sa], [0, 1, 0], [-sa, 0, ca]])
    about_x = np.array([[1, 0, 0], [0, cb, -sb], [0, sb, cb]])
    turned: NDArray[np.float32] = np.einsum("ij,jhw->ihw", about_x @ about_y, normals).astype("f4")
    return turned
