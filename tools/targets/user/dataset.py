"""A target of a user's own photographs from any source: read once, checked, cached."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.files import write_atomic, write_bytes
from memory.records import digest
from prompts.user_vocabulary import user_vocabulary, value_of
from prompts.vocabulary import Vocabulary
from tools.data.samples import VOID, Samples
from tools.targets import SPLITS, Target, check_split
from tools.targets.levels import Bounds, measure_levels
from tools.targets.splits import assign_splits, check_splits
from tools.targets.user import loading, pictures
from tools.targets.user.attributes import add_columns, add_measured, add_presences
from tools.targets.user.label_files import LABEL_NAMES, stores_metres
from tools.targets.user.loading import DEPTH_SCALE, Item, Loaded, ReadOptions
from tools.targets.user.masks import ClassNames, pixel_classes
from tools.targets.validation import ValidationReport, refusal, text

_CACHE_VERSION = 7
_MIN_IMAGES = 20
_MIN_OF_CLASS = 3
_FEW_OF_CLASS = 5
# Split that may lack the smallest classes, whose images the audit does not verify anyway.
_SPARE = "audit"
# Depth in metres that photographs rarely exceed.
_FARTHEST_M = 1000


class UserDataset(Target):
    """A target of a user's own photographs; see `tools.targets.Target`."""

    licence = "The photographs are the user's own; their owner decides on the licence."

    def __init__(self, name: str, arrays: Mapping[str, NDArray[Any]], meta: Mapping[str, Any]):
        self.name = name
        self.task: str = meta["task"]
        self.class_names: Sequence[str] = meta["class_names"]
        self.pixel_classes: Sequence[str] = meta["pixel_classes"]
        self.vocabulary = Vocabulary.model_validate(meta["vocabulary"])
        self.notice: str = meta["notice"]
        self.flips: tuple[str, ...] = tuple(meta["flips"])
        self.scale_of_16_bits: int | None = meta["scale_of_16_bits"]
        channels, height, width = arrays["images"].shape[1:]
        self.image_shape = (channels, height, width)
        self._arrays = arrays
        self._meta = meta

    def split(self, name: str) -> Samples:
        """Return one of the disjoint splits; ids are file names."""
        check_split(name)
        rows = [i for i, split in enumerate(self._meta["splits"]) if split == name]
        kinds = [kind for kind in self._arrays if kind not in ("images", "classes")]
        return Samples(
            images=self._arrays["images"][rows],
            classes=self._arrays["classes"][rows],
            attributes=[self._meta["attributes"][i] for i in rows],
            ids=[self._meta["ids"][i] for i in rows],
            groups=[self._meta["groups"][i] for i in rows] if self._meta["groups"] else (),
            labels={kind: self._arrays[kind][rows] for kind in kinds},
        )

    def measure(self, image: NDArray[np.uint8], attributes: Mapping[str, str]) -> dict[str, str]:
        """Return brightness, contrast and colour, if they are attributes of the data."""
        return measure_levels(image, self._meta["bounds"])


def default_name(path: Path) -> str:
    """Return a name for the data at a path: its last part and a digest of the whole path."""
    where = hashlib.sha256(str(path.expanduser().resolve()).encode()).hexdigest()
    stem = "".join(c if c.isascii() and c.isalnum() else "-" for c in path.stem).strip("-")
    return f"{stem[:40] or 'data'}-{where[:6]}"


def cached(
    name: str, key: Sequence[Any], cache_dir: Path, read: Callable[[], UserDataset], data: str
) -> UserDataset:
    """Return the target cached under `key` (JSON values), or read and cache it."""
    path = cache_dir / f"{name}-{digest([_CACHE_VERSION, *key])}.npz"
    if not path.exists():
        dataset = read()
        meta = np.frombuffer(json.dumps(dict(dataset._meta)).encode(), np.uint8)
        content: dict[str, Any] = {**dataset._arrays, "meta": meta}
        write_atomic(path, lambda handle: np.savez_compressed(handle, **content))
    try:
        with np.load(path, allow_pickle=False) as file:
            arrays = {kind: file[kind] for kind in file.files}
        return UserDataset(name, arrays, json.loads(arrays.pop("meta").tobytes()))
    except (OSError, ValueError, KeyError, EOFError) as error:
        raise refusal("cache-damaged", path=path, data=data, error=error) from error


def read_dataset(
    name: str,
    data: str,
    items: Sequence[Item],
    options: ReadOptions,
    names: ClassNames,
    cache_dir: Path,
    report: ValidationReport,
) -> UserDataset:
    """Read all photographs, assign them to splits and build their vocabulary.

    Args:
        name: Name of the target.
        data: Name of the data in messages.
        items: Photographs with their metadata.
        options: Options of reading.
        names: Names of the classes in masks.
        cache_dir: Folder for the full list of warnings.
        report: Problems so far; warnings are added to the target's notice.

    Raises:
        DataError: The data have errors; the message lists and counts all of them.
    """
    task = options.task or loading.task_of(items)
    classified = task == "classification"
    readable, size = loading.select_readable(items, task, options, report)
    loaded = loading.load_items(readable, size, options, names.by_colour, report)
    peak = max((entry.peak for entry in loaded), default=0)
    pixel_names, index_of = pixel_classes(loaded, options.void, names, report)
    loaded = _with_known_pixels(loaded, task, index_of, report)
    loaded = _without_contradictions(loaded, report)
    _check_counts(loaded, {i.class_name for i in items if i.class_name}, classified, report)
    report.raise_errors(data)

    loaded, splits = _assigned(loaded, index_of, options.seed, classified, report)
    classes = [entry.item.class_name or "scene" for entry in loaded]
    check_splits(splits, classes, report, _SPARE)
    report.raise_errors(data)
    if classified:
        _warn_rare(classes, splits, report)

    class_names = sorted(set(classes)) if classified else ["scene"]
    arrays = _arrays(loaded, size, index_of)
    _warn_depth(arrays, loaded, options, report)
    _warn_missing(arrays, pixel_names, splits, report)
    arrays["classes"] = np.array([class_names.index(c) for c in classes], np.int64)
    attributes, values, bounds = _attributes(loaded, arrays, pixel_names, splits, report)
    if classified:
        for photo_attributes, class_name in zip(attributes, classes, strict=True):
            photo_attributes["class"] = value_of(class_name)
    try:
        vocabulary = user_vocabulary(name, class_names if classified else (), values)
    except ValueError as error:  # two words are indistinguishable
        raise refusal("words-alike", error=error) from error
    notes = cache_dir / f"{name}-notes.txt"
    if report.warnings:
        write_bytes(notes, report.listing().encode())
    meta = {
        "task": task,
        "class_names": class_names,
        "pixel_classes": list(pixel_names),
        "vocabulary": vocabulary.model_dump(mode="json"),
        "flips": options.flips,
        "scale_of_16_bits": pictures.scale_of(peak) if peak else None,
        "splits": splits,
        "ids": [entry.item.name for entry in loaded],
        "groups": _groups(loaded),
        "attributes": attributes,
        "bounds": bounds,
        "notice": _notice(name, arrays, splits, class_names, pixel_names, report, notes),
    }
    return UserDataset(name, arrays, meta)


def _assigned(
    loaded: Sequence[Loaded],
    index_of: Mapping[int, int],
    seed: int,
    classified: bool,
    report: ValidationReport,
) -> tuple[list[Loaded], list[str]]:
    """Return the photographs that are assigned to a split, and their splits."""
    splits = assign_splits(
        _strata(loaded, index_of),
        [entry.item.split for entry in loaded],
        [entry.marks for entry in loaded],
        [entry.item.name for entry in loaded],
        seed,
        report,
        _SPARE if classified else None,
    )
    kept = [entry for entry, split in zip(loaded, splits, strict=True) if split]
    return kept, [split for split in splits if split]


def _attributes(
    loaded: Sequence[Loaded],
    arrays: Mapping[str, NDArray[Any]],
    pixel_names: Sequence[str],
    splits: Sequence[str],
    report: ValidationReport,
) -> tuple[list[dict[str, str]], dict[str, list[str]], dict[str, Bounds]]:
    """Return the attributes of each photograph, all their values, and bounds of measured ones."""
    in_generator = [split == "generator" for split in splits]
    attributes: list[dict[str, str]] = [{} for _ in loaded]
    values = add_columns(loaded, attributes, in_generator, report)
    values |= add_presences(arrays, pixel_names, attributes, values, in_generator)
    bounds = add_measured(arrays["images"], attributes, values, in_generator)
    return attributes, values, bounds


def _groups(loaded: Sequence[Loaded]) -> list[str]:
    """Return the group of each photograph, by default its name; [] if there are no groups."""
    if not any(entry.item.group for entry in loaded):
        return []
    return [
        f"group {entry.item.group}" if entry.item.group else f"photograph {entry.item.name}"
        for entry in loaded
    ]


def _with_known_pixels(
    loaded: Sequence[Loaded], task: str, index_of: Mapping[int, int], report: ValidationReport
) -> list[Loaded]:
    """Leave out photographs whose labels, at the working size, have no known pixel of the task.

    A split of only such photographs, such as the test split of Cityscapes, cannot be evaluated.
    """
    kept = []
    for entry in loaded:
        labels = entry.labels.get(task)
        if labels is None or report.errors or _known(task, labels, [*index_of]).any():
            kept.append(entry)
        else:
            report.warn("label-void", entry.item.name, labels=LABEL_NAMES[task])
    return kept


def _known(kind: str, labels: NDArray[Any], ids: Sequence[int]) -> NDArray[np.bool_]:
    return np.isin(labels, ids) if kind == "segmentation" else ~np.isnan(labels)


def _without_contradictions(loaded: Sequence[Loaded], report: ValidationReport) -> list[Loaded]:
    """Leave out photographs with copies in several classes; warn about other exact copies."""
    copies: dict[str, list[Loaded]] = defaultdict(list)
    for entry in loaded:
        copies[entry.marks[0]].append(entry)
    dropped = set()
    for mark, entries in copies.items():
        if len({entry.item.class_name for entry in entries}) > 1:
            dropped.add(mark)
            report.warn("copies-in-two-classes", *(entry.item.name for entry in entries))
        elif len(entries) > 1:
            report.warn("copies", *(entry.item.name for entry in entries[1:]))
    return [entry for entry in loaded if entry.marks[0] not in dropped]


def _check_counts(
    loaded: Sequence[Loaded], classes: Collection[str], classified: bool, report: ValidationReport
) -> None:
    """Add errors for too few photographs, in total or of a class, and for too few classes.

    Args:
        loaded: Usable photographs.
        classes: Classes of all pictures, including unreadable ones.
        classified: Whether the task is classification.
        report: Collects the errors.
    """
    if len(loaded) < _MIN_IMAGES:
        report.error("few-images", n=len(loaded), minimum=_MIN_IMAGES)
    if not classified or not loaded:
        return
    if any(entry.item.class_name is None for entry in loaded):
        report.error("class-needed")
        return
    counts = Counter(entry.item.class_name or "" for entry in loaded)
    counts.update(dict.fromkeys(classes, 0))
    if rare := [f"{name}, {n}" for name, n in sorted(counts.items()) if n < _MIN_OF_CLASS]:
        report.error("few-of-class", *rare, minimum=_MIN_OF_CLASS)
        numbers = [name.removeprefix("-").replace(".", "", 1).isdecimal() for name in counts]
        if len(rare) > len(counts) / 2 and all(numbers):
            report.error("number-classes", n=len(counts))
    if len(counts) < 2:
        report.error("one-class", *counts)


def _warn_rare(classes: Sequence[str], splits: Sequence[str], report: ValidationReport) -> None:
    """Warn about classes with too few photographs to evaluate a model on."""
    counts = Counter(zip(splits, classes, strict=True))
    for name in sorted(set(classes)):
        feedback, test = counts["feedback", name], counts["test", name]
        if min(feedback, test) < _FEW_OF_CLASS:
            audit = counts["audit", name]
            affected = f"{name}, audit {audit}, feedback {feedback}, test {test}"
            report.warn("rare-class", affected, minimum=_FEW_OF_CLASS)


def _warn_depth(
    arrays: Mapping[str, NDArray[Any]],
    loaded: Sequence[Loaded],
    options: ReadOptions,
    report: ValidationReport,
) -> None:
    """Report the range of depth, which reveals a wrong unit."""
    if "depth" not in arrays:
        return
    near, far = np.nanpercentile(arrays["depth"], (5, 95))
    unit = ""
    sources = [entry.item.labels.get("depth") for entry in loaded]
    # One file per format suffices.
    files = {source.suffix.lower(): source for source in sources if isinstance(source, Path)}
    in_metres = bool(files) and all(stores_metres(file) for file in files.values())
    if in_metres and far > _FARTHEST_M:
        unit = text("depth-in-metres")
    elif options.depth_scale == DEPTH_SCALE and not in_metres:
        unit = text("depth-in-bits", scale=DEPTH_SCALE)
    report.warn("depth-range", near=near, far=far, unit=unit)


def _warn_missing(
    arrays: Mapping[str, NDArray[Any]],
    pixel_names: Sequence[str],
    splits: Sequence[str],
    report: ValidationReport,
) -> None:
    """Warn about constant labels, and about labels that a split lacks and cannot evaluate."""
    for kind in arrays.keys() & {"depth", "normals"}:
        ends = (f(arrays[kind], axis=(0, -2, -1)) for f in (np.nanmin, np.nanmax))
        if np.array_equal(*ends):
            report.warn("label-constant", labels=LABEL_NAMES[kind])
    for split in SPLITS:
        rows = [i for i, assigned in enumerate(splits) if assigned == split]
        for kind, labels in arrays.items():
            if kind in LABEL_NAMES and not _known(kind, labels[rows], range(VOID)).any():
                report.warn("label-not-in-split", labels=LABEL_NAMES[kind], split=split)
        if "segmentation" not in arrays:
            continue
        present = set(np.unique(arrays["segmentation"][rows]).tolist())
        if missing := [name for i, name in enumerate(pixel_names) if i not in present]:
            report.warn("pixel-class-not-in-split", *missing, split=split)


def _strata(loaded: Sequence[Loaded], index_of: Mapping[int, int]) -> list[str]:
    """Return the stratum of each photograph: its class, or its rarest pixel class."""
    n_images = Counter(number for entry in loaded for number in entry.ids if number in index_of)

    def rarest(entry: Loaded) -> int:
        return min(entry.ids & index_of.keys(), key=lambda i: (n_images[i], i), default=VOID)

    return [entry.item.class_name or str(rarest(entry)) for entry in loaded]


def _arrays(
    loaded: Sequence[Loaded], size: tuple[int, int], index_of: Mapping[int, int]
) -> dict[str, NDArray[Any]]:
    """Stack images, in colour if any image is, and labels, filled with unknown where missing."""
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
                for number, index in index_of.items():
                    masks[row][values == number] = index
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
    report: ValidationReport,
    notes: Path,
) -> str:
    n, channels, height, width = arrays["images"].shape
    counts = Counter(splits)
    assigned = ", ".join(f"{split} {counts[split]}" for split in SPLITS)
    kinds = [
        f"{word} of {len(pixel_names)} classes" if kind == "segmentation" else word
        for kind, word in LABEL_NAMES.items()
        if kind in arrays
    ]
    labels = f"labels: {', '.join(kinds)}" if kinds else f"{len(class_names)} classes"
    text = (
        f"Your own data {name}: {n} photographs, {labels}, read at {width}x{height} in "
        f"{'colour' if channels == 3 else 'gray'}; {assigned}."
    )
    if report.warnings:
        text += "\n- ".join([f"\nNoted (all names are in {notes}):", *report.summary()])
    return text
