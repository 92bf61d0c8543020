"""Photographs with what their owners say of them, and as they are read, at one size."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tools.targets import reading
from tools.targets.user import pictures as pictures
from tools.targets.user.options import TASKS, Options
from tools.targets.user.pictures import Source, Unusable
from tools.targets.user.problems import Problems

CLASS_SIZE = (64, 64)
LONGEST_SIDE = 96
LABEL_WORDS = {"segmentation": "masks", "depth": "depth", "normals": "normals"}
# Bits per pixel of cameras and scanners that save 16.
_DEPTHS = (8, 10, 12, 14, 16)
_DEEPEST = (1 << _DEPTHS[-1]) - 1
_LEAST_SEEN = 0.5
_FEW_PIXELS = 8
_FILES = {"segmentation": "masks", "depth": "depth files", "normals": "files of normals"}


@dataclass(frozen=True)
class Item:
    """One photograph with what its owner says of it.

    name: unique; class_name: as `plain` gives it; split: a word of `_deal.WORDS`; group: equal
    for near-copies; attributes: their words as they stand; labels: of pixels, by kind.
    """

    name: str
    picture: Source
    class_name: str | None = None
    split: str | None = None
    group: str | None = None
    attributes: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, Source] = field(default_factory=dict)


@dataclass(frozen=True)
class Loaded:
    """A photograph at its working size, (width, height).

    image: (1 or 3, height, width); labels: (height, width), of normals (3, height, width), masks
    as ids or colours of their files; ids: those of the whole mask; marks: of its pixels and of its
    owner's group.
    """

    item: Item
    image: NDArray[np.uint8]
    labels: Mapping[str, NDArray[Any]]
    ids: frozenset[int]
    marks: tuple[str, ...]


def task_of(items: Sequence[Item]) -> str:
    """Return the task that the labels allow: of pixels where there are such."""
    kinds = {kind for item in items for kind in item.labels}
    return next((task for task in TASKS[1:] if task in kinds), TASKS[0])


def readable(
    items: Sequence[Item], task: str, options: Options, found: Problems
) -> tuple[list[Item], tuple[int, int]]:
    """Leave out what has no label or is no picture, and choose the size to work at."""
    sizes = []
    kept = []
    for item in items:
        if task != "classification" and task not in item.labels:
            found.note(f"images without {LABEL_WORDS[task]}, left out", item.name)
            continue
        try:
            sizes.append(pictures.header_size(item.picture))
            kept.append(item)
        except Unusable as problem:
            found.note(f"photographs {problem}, left out", item.name)
    if options.size:
        return kept, options.size
    if task == "classification" or not sizes:
        return kept, CLASS_SIZE
    return kept, pictures.working_size(sizes, LONGEST_SIDE)


def load_all(
    items: Sequence[Item],
    size: tuple[int, int],
    options: Options,
    found: Problems,
) -> list[Loaded]:
    """Read all pictures and labels at `size`, (width, height); add what is wrong with them."""
    kinds = sorted({kind for item in items for kind in item.labels})
    sizes = Counter[tuple[int, int]]()
    tops: list[int] = []

    def load(item: Item) -> tuple[Loaded | None, list[tuple[str, str]], tuple[int, int]]:
        """Return the photograph and its problems as (fault or note, text)."""
        said: list[tuple[str, str]] = []
        try:
            picture = pictures.open_picture(item.picture)
        except Unusable as problem:
            return None, [("note", f"photographs {problem}, left out")], (0, 0)
        if pictures.is_see_through(picture):
            said.append(("note", "photographs with transparent parts, read as if they had none"))
        if pictures.n_frames(picture) > 1:
            said.append(("note", "files of several pictures, of which the first is read"))
        given: dict[str, NDArray[Any]] = {}
        for kind in kinds:
            if kind not in item.labels:
                said.append(
                    ("note", f"images without {LABEL_WORDS[kind]}, unknown in all their pixels")
                )
                continue
            try:
                given[kind] = _read_label(kind, item.labels[kind], options)
            except Unusable as problem:
                said.append(("fault", f"{_FILES[kind]} {problem}"))
        if pictures.is_turned(picture):
            picture, note = _turned(picture, given)
            said += [("note", note)] if item.labels else []
        labels: dict[str, NDArray[Any]] = {}
        present: frozenset[int] = frozenset()
        for kind, values in given.items():
            if values.shape[-2:] != picture.size[::-1]:
                said.append(
                    (
                        "fault",
                        f"{_FILES[kind]} of another size than their image: save both in one size",
                    )
                )
                continue
            if kind == "segmentation":
                present = frozenset(int(i) for i in np.unique(values))
            elif np.isnan(values).all():
                said.append(("fault", f"{_FILES[kind]} without a known pixel: take them out"))
            elif kind == "depth" and np.isnan(values).any():
                said.append(("note", "depth files with zeros or NaN, unknown in those pixels"))
            labels[kind] = pictures.fitted_labels(values, size)
        mark = hashlib.sha256(f"{picture.mode} {picture.size}".encode() + picture.tobytes())
        marks = (f"pixels {mark.hexdigest()}", *([f"group {item.group}"] if item.group else []))
        try:
            small = pictures.fitted(pictures.photograph(picture), size)
        except Unusable as problem:
            return None, [("note", f"photographs {problem}, left out")], (0, 0)
        if pictures.is_deep(picture):
            tops.append(min(int(np.asarray(picture).max()), _DEEPEST))
        if pictures.seen_share(picture.size, size) < _LEAST_SEEN:
            said.append(
                (
                    "note",
                    f"photographs of which less than half is seen, since all are cut to the form "
                    f"of {size[0]}x{size[1]}; another: --set target.options.size=WIDTHxHEIGHT",
                )
            )
        if min(picture.size) < _FEW_PIXELS:
            said.append(("note", f"photographs of fewer than {_FEW_PIXELS} pixels on a side"))
        return Loaded(item, small, labels, present, marks), said, picture.size

    loaded = []
    tell = reading.get()
    with ThreadPoolExecutor(2) as pool:
        read = zip(items, pool.map(load, items), strict=True)
        for n, (item, (entry, said, picture_size)) in enumerate(read, 1):
            tell(n, len(items))
            for how, what in said:
                (found.fault if how == "fault" else found.note)(what, item.name)
            if entry is not None:
                loaded.append(entry)
                sizes[picture_size] += 1
    if len(sizes) > 1:
        (width, height), n = sizes.most_common(1)[0]
        found.note(
            f"{len(loaded) - n} photographs have another size than the usual {width}x{height}; all "
            f"are scaled and cropped to {size[0]}x{size[1]}"
        )
    return _in_8_bits(loaded, max(tops), found) if tops else loaded


def _turned(picture: Image.Image, labels: Mapping[str, NDArray[Any]]) -> tuple[Image.Image, str]:
    """Return a photograph that its camera noted to turn as its labels lie, and what to note."""
    upright = pictures.upright(picture)
    sizes = {values.shape[:-3:-1] for values in labels.values()}
    if not labels or (picture.size not in sizes and upright.size in sizes):
        return upright, "photographs turned as their camera noted, since their labels are"
    return picture, (
        "photographs that their camera noted to turn, read as they are stored: if their labels "
        "were made for the turned ones, save these turned"
    )


def _in_8_bits(loaded: Sequence[Loaded], top: int, found: Problems) -> list[Loaded]:
    """Scale photographs of 16 bits to 0..255, all by the bits that `top`, their highest, needs."""
    scale = next(1 << (bits - 8) for bits in _DEPTHS if top < 1 << bits)
    scaled = []
    for entry in loaded:
        if entry.image.dtype != np.uint8:
            found.note(f"photographs of 16 bits, read as 8 (divided by {scale})", entry.item.name)
            entry = replace(entry, image=(entry.image / scale).clip(0, 255).astype(np.uint8))
        scaled.append(entry)
    return scaled


def _read_label(kind: str, source: Source, options: Options) -> NDArray[Any]:
    if kind == "segmentation":
        return pictures.ids_or_colours(source, options.by_colour)
    return (
        pictures.metres(source, options.depth_scale)
        if kind == "depth"
        else pictures.directions(source)
    )
