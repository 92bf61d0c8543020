"""A target over a user's own photographs, wherever they come from: read once, checked, cached."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.errors import DataError, unknown
from memory.files import write_atomic, write_bytes
from memory.records import digest
from prompts.own_words import own_vocabulary, value_of
from prompts.vocabulary import Vocabulary
from tools.data.samples import VOID, Samples
from tools.targets import SPLITS
from tools.targets.splits import check_splits, deal
from tools.targets.user import levels
from tools.targets.user.attributes import add_measured, add_presences, add_said
from tools.targets.user.checks import (
    check_numbers,
    note_copies,
    note_depth,
    note_missing,
    note_rare,
    without_contradictions,
)
from tools.targets.user.loading import LABEL_WORDS, Item, Loaded, load_all, readable, task_of
from tools.targets.user.mask_classes import pixel_classes
from tools.targets.user.options import Options
from tools.targets.user.problems import Problems

_CACHE_VERSION = 4


class Photos:
    """A target of a user's own photographs."""

    def __init__(self, name: str, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]):
        self.name = name
        self.task: str = meta["task"]
        self.class_names: Sequence[str] = meta["class_names"]
        self.pixel_classes: Sequence[str] = meta["pixel_classes"]
        self.vocabulary = Vocabulary.model_validate(meta["vocabulary"])
        self.notice: str = meta["notice"]
        self.flips: tuple[str, ...] = tuple(meta["flips"])
        channels, height, width = arrays["images"].shape[1:]
        self.image_shape = (channels, height, width)
        self._arrays = arrays
        self._meta = meta

    def split(self, name: str) -> Samples:
        """Return one of the disjoint splits; sources are named like the files."""
        if name not in SPLITS:
            raise DataError(unknown("split", name, SPLITS))
        rows = [i for i, own in enumerate(self._meta["splits"]) if own == name]
        kinds = [kind for kind in self._arrays if kind not in ("images", "classes")]
        return Samples(
            images=self._arrays["images"][rows],
            classes=self._arrays["classes"][rows],
            attributes=[self._meta["attributes"][i] for i in rows],
            ids=[self._meta["ids"][i] for i in rows],
            labels={kind: self._arrays[kind][rows] for kind in kinds},
        )

    def flip(self, attributes: dict[str, str], horizontal: bool, vertical: bool) -> dict[str, str]:
        """Return the attributes as they are: what is known of a user's words names no side."""
        return attributes

    def measure(self, image: NDArray[np.uint8], attributes: Mapping[str, str]) -> dict[str, str]:
        """Return brightness, contrast and colour, as far as the data's attributes have them."""
        return levels.measured(image, self._meta["bounds"])


def own_name(path: Path) -> str:
    """Return a name for the data at a path: the last part of it and a digest of all."""
    where = hashlib.sha256(str(path.expanduser().resolve()).encode()).hexdigest()
    stem = "".join(c if c.isascii() and c.isalnum() else "-" for c in path.stem).strip("-")
    return f"{stem[:40] or 'data'}-{where[:6]}"


def cached(
    name: str, key: Sequence[Any], cache_dir: Path, read: Callable[[], Photos], data: str
) -> Photos:
    """Return the target in the cache under `key` (plain JSON), or read it and keep it there."""
    path = cache_dir / f"{name}-{digest([_CACHE_VERSION, *key])}.npz"
    if not path.exists():
        photos = read()
        meta = np.frombuffer(json.dumps(dict(photos._meta)).encode(), np.uint8)
        whole: dict[str, Any] = {**photos._arrays, "meta": meta}
        write_atomic(path, lambda handle: np.savez_compressed(handle, **whole))
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {kind: file[kind] for kind in file.files}
        return Photos(name, arrays, json.loads(arrays.pop("meta").tobytes()))
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise DataError(
            f"The cache {path} of the data {data} is damaged ({error}). Delete this file and run "
            "the same command again."
        ) from error


def read_photos(
    name: str, data: str, items: Sequence[Item], options: Options, cache_dir: Path, found: Problems
) -> Photos:
    """Read all photographs, deal them to splits and find the words for them.

    data: how messages call the data; found: the problems so far. Raises DataError that names and
    counts every fault; what was left out is in the notice and, with all names, in a file of
    `cache_dir`.
    """
    task = options.task or task_of(items)
    kept, size = readable(items, task, options, found)
    loaded = load_all(kept, size, options, found)
    pixel_names, lookup = pixel_classes(loaded, options, found)
    loaded = without_contradictions(loaded, found)
    note_copies(loaded, found)
    check_numbers(loaded, {i.class_name for i in items if i.class_name}, task, found)
    found.stop(data)

    splits = deal(
        _strata(loaded, lookup),
        [entry.item.split for entry in loaded],
        [entry.marks for entry in loaded],
        [entry.item.name for entry in loaded],
        options.seed,
        found,
    )
    used = [i for i, split in enumerate(splits) if split]
    loaded, splits = [loaded[i] for i in used], [splits[i] for i in used]
    strata = [entry.item.class_name or "scene" for entry in loaded]
    check_splits(splits, strata, found)
    found.stop(data)
    if task == "classification":
        note_rare(strata, splits, found)

    class_names = sorted(set(strata)) if task == "classification" else ["scene"]
    arrays = _arrays(loaded, size, lookup)
    note_depth(arrays, loaded, options, found)
    note_missing(arrays, pixel_names, splits, found)
    arrays["classes"] = np.array([class_names.index(s) for s in strata], np.int64)
    in_generator = [split == "generator" for split in splits]
    attributes: list[dict[str, str]] = [{} for _ in loaded]
    values = add_said(loaded, attributes, in_generator, found)
    values |= add_presences(arrays, pixel_names, attributes, values, in_generator)
    bounds = add_measured(arrays["images"], attributes, values, in_generator)
    if task == "classification":
        for known, stratum in zip(attributes, strata, strict=True):
            known["class"] = value_of(stratum)
    try:
        vocabulary = own_vocabulary(name, class_names if task == "classification" else (), values)
    except ValueError as error:  # of words that read alike
        raise DataError(str(error)) from error
    notes = cache_dir / f"{name}-notes.txt"
    if found.notes:
        write_bytes(notes, found.listed().encode())
    meta = {
        "task": task,
        "class_names": class_names,
        "pixel_classes": list(pixel_names),
        "vocabulary": vocabulary.model_dump(mode="json"),
        "flips": options.flips,
        "splits": splits,
        "ids": [entry.item.name for entry in loaded],
        "attributes": attributes,
        "bounds": bounds,
        "notice": _notice(name, arrays, splits, class_names, pixel_names, found, notes),
    }
    return Photos(name, arrays, meta)


def _strata(loaded: Sequence[Loaded], lookup: Mapping[int, int]) -> list[str]:
    """Name what every split gets its share of: the class or, of pixels, the rarest one there is."""
    n_images = Counter(number for entry in loaded for number in entry.ids if number in lookup)

    def rarest(entry: Loaded) -> int:
        return min(entry.ids & lookup.keys(), key=lambda i: (n_images[i], i), default=VOID)

    return [entry.item.class_name or str(rarest(entry)) for entry in loaded]


def _arrays(
    loaded: Sequence[Loaded], size: tuple[int, int], lookup: Mapping[int, int]
) -> dict[str, NDArray[Any]]:
    """Stack images, in colour if one of them is, and labels, unknown where there are none."""
    width, height = size
    channels = max(len(entry.image) for entry in loaded)
    arrays: dict[str, NDArray[Any]] = {
        "images": np.stack([np.broadcast_to(e.image, (channels, height, width)) for e in loaded])
    }
    kinds = {kind for entry in loaded for kind in entry.labels}
    if "segmentation" in kinds:
        masks = np.full((len(loaded), height, width), VOID, np.uint8)
        for row, entry in enumerate(loaded):
            if "segmentation" in entry.labels:
                values = entry.labels["segmentation"]
                for number, place in lookup.items():
                    masks[row][values == number] = place
        arrays["segmentation"] = masks
    for kind, shape in (("depth", (height, width)), ("normals", (3, height, width))):
        if kind in kinds:
            blank = np.full(shape, np.nan, np.float32)
            arrays[kind] = np.stack([entry.labels.get(kind, blank) for entry in loaded])
    return arrays


def _notice(
    name: str,
    arrays: Mapping[str, NDArray[Any]],
    splits: Sequence[str],
    class_names: Sequence[str],
    pixel_names: Sequence[str],
    found: Problems,
    notes: Path,
) -> str:
    n, channels, height, width = arrays["images"].shape
    counts = Counter(splits)
    dealt = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
    kinds = [
        f"{word} of {len(pixel_names)} classes" if kind == "segmentation" else word
        for kind, word in LABEL_WORDS.items()
        if kind in arrays
    ]
    what = f"labels: {', '.join(kinds)}" if kinds else f"{len(class_names)} classes"
    text = (
        f"Your own data {name}: {n} photographs, {what}, read at {width}x{height} in "
        f"{'colour' if channels == 3 else 'gray'}; {dealt}."
    )
    if found.notes:
        text += "\n- ".join([f"\nNoted (all names are in {notes}):", *found.said()])
    return text
