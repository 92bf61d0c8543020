"""A target over a user's own photographs, wherever they come from: read once, checked, cached."""

from __future__ import annotations

import hashlib
import json
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.errors import DataError, unknown
from memory.files import write_atomic, write_bytes
from memory.records import digest
from prompts.own_words import key_of, own_vocabulary, plain, value_of
from prompts.vocabulary import Vocabulary
from tools.samples import VOID, Samples
from tools.targets import SPLITS, _levels, reading
from tools.targets import _pictures as pictures
from tools.targets._deal import check_splits, deal
from tools.targets._pictures import Source, Unusable
from tools.targets._problems import Problems

TASKS = ("classification", "segmentation", "depth", "normals")
CLASS_SIZE = (64, 64)
LONGEST_SIDE = 96
LEAST_IMAGES = 20
LEAST_OF_CLASS = 8
FEW_OF_CLASS = 5

_CACHE_VERSION = 4
_MULTIPLE = 8
_MOST_IDS = 64
_SOME = 5
_DEPTH_SCALE = 256
COLOURS_FILE = "PATH/classes.csv"
_MOST_VALUES = 20
# A column of more different numbers than this is read as low, medium and high.
_FEW_NUMBERS = 8
_MOST_PRESENCES = 4
_LEAST_PRESENCE = 0.1
_PRESENCE = ("none", "some", "much")
_BLANKS = ("na", "n/a", "nan", "null", "-", "?")
_VOID_NAMES = ("void", "ignore", "ignored", "unlabelled", "unlabeled")


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
class Options:
    """How photographs are read.

    task: None for what the labels allow; size: (width, height), None for a usual one; pixel_names:
    class names by id, or by colour (`_pictures.COLOUR`), None where nobody names them; void: ids of
    pixels of unknown class; depth_scale: what 16-bit depth is divided by; flips: see `Target`.
    """

    task: str | None = None
    size: tuple[int, int] | None = None
    pixel_names: Mapping[int, str] | None = None
    void: tuple[int, ...] = (VOID,)
    depth_scale: float = _DEPTH_SCALE
    flips: tuple[str, ...] = ("horizontal",)
    seed: int = 0

    @property
    def by_colour(self) -> bool:
        """Tell whether masks are read by the colours of their pixels."""
        return bool(self.pixel_names) and all(n >= pictures.COLOUR for n in self.pixel_names or ())

    def with_names(self, names: Mapping[int, str] | None) -> Options:
        """Return the same options with the names of the ids in masks."""
        return replace(self, pixel_names=names)


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
        return _levels.measured(image, self._meta["bounds"])


def options_of(
    task: str | None,
    size: int | str | Sequence[int] | None,
    void: int | Sequence[int],
    depth_scale: float,
    flips: Sequence[str],
    seed: int,
) -> Options:
    """Check options as a user gives them; raises DataError that names the wrong one."""
    if task is not None and task not in TASKS:
        raise DataError(unknown("task", str(task), TASKS))
    flips = [flips] if isinstance(flips, str) else flips
    for name in flips:
        if name not in ("horizontal", "vertical"):
            raise DataError(unknown("flip", str(name), ("horizontal", "vertical")))
    if not isinstance(depth_scale, int | float) or not depth_scale > 0:
        raise DataError(f"depth_scale must be above 0, it is {depth_scale!r}.")
    numbers = [void] if isinstance(void, int) else void
    if isinstance(numbers, str) or not all(isinstance(number, int) for number in numbers):
        raise DataError(
            f"void must be an id of pixels in the masks, or a list as [255, 0], it is {void!r}. "
            "A class is void by its name, too: call it void in classes.txt."
        )
    if not isinstance(seed, int) or seed < 0:
        raise DataError(f"seed must be a whole number from 0 on, it is {seed!r}.")
    return Options(
        task=task,
        size=None if size is None else _size(size),
        void=tuple(numbers),
        depth_scale=depth_scale,
        flips=tuple(flips),
        seed=seed,
    )


def _size(size: int | str | Sequence[int]) -> tuple[int, int]:
    parts = size.lower().split("x") if isinstance(size, str) else size
    try:
        sides = [int(s) for s in parts] if not isinstance(parts, int) else [parts, parts]
        width, height = sides * 2 if len(sides) == 1 else sides
    except (TypeError, ValueError):
        width = height = 0
    if not all(side >= _MULTIPLE and side % _MULTIPLE == 0 for side in (width, height)):
        raise DataError(
            f"The size {size!r} cannot be used; give a number of pixels, or WIDTHxHEIGHT such as "
            f"96x64, in whole multiples of {_MULTIPLE}."
        )
    return width, height


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
    task = options.task or _task_of(items)
    kept, size = _readable(items, task, options, found)
    loaded = _load(kept, size, task, options, found)
    pixel_names, lookup = _pixel_classes(loaded, options, found)
    loaded = _without_contradictions(loaded, found)
    _note_copies(loaded, found)
    _check_numbers(loaded, task, found)
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
        _note_rare(strata, splits, found)

    class_names = sorted(set(strata)) if task == "classification" else ["scene"]
    arrays = _arrays(loaded, size, lookup)
    _note_depth(arrays, loaded, options, found)
    _note_missing(arrays, pixel_names, splits, found)
    arrays["classes"] = np.array([class_names.index(s) for s in strata], np.int64)
    in_generator = [split == "generator" for split in splits]
    attributes: list[dict[str, str]] = [{} for _ in loaded]
    values = _said_attributes(loaded, attributes, in_generator, found)
    values |= _presences(arrays, pixel_names, attributes, values, in_generator)
    bounds = _measured(arrays["images"], attributes, values, in_generator)
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


@dataclass(frozen=True)
class _Loaded:
    """A photograph at its working size; marks: of its pixels and of its owner's group."""

    item: Item
    image: NDArray[np.uint8]
    labels: Mapping[str, NDArray[Any]]
    ids: frozenset[int]
    marks: tuple[str, ...]


def _task_of(items: Sequence[Item]) -> str:
    kinds = {kind for item in items for kind in item.labels}
    return next((task for task in TASKS[1:] if task in kinds), TASKS[0])


def _readable(
    items: Sequence[Item], task: str, options: Options, found: Problems
) -> tuple[list[Item], tuple[int, int]]:
    """Leave out what has no label or is no picture, and choose the size to work at."""
    sizes = []
    kept = []
    for item in items:
        if task != "classification" and task not in item.labels:
            found.note(f"images without {_WORDS[task]}, left out", item.name)
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


_WORDS = {"segmentation": "masks", "depth": "depth", "normals": "normals"}
_FILES = {"segmentation": "masks", "depth": "depth files", "normals": "files of normals"}


def _load(
    items: Sequence[Item],
    size: tuple[int, int],
    task: str,
    options: Options,
    found: Problems,
) -> list[_Loaded]:
    kinds = sorted({kind for item in items for kind in item.labels})
    sizes = Counter[tuple[int, int]]()

    def load(item: Item) -> tuple[_Loaded | None, list[tuple[str, str]], tuple[int, int]]:
        """Return the photograph and its problems as (fault or note, text)."""
        said: list[tuple[str, str]] = []
        try:
            picture = pictures.open_picture(item.picture)
        except Unusable as problem:
            return None, [("note", f"photographs {problem}, left out")], (0, 0)
        if pictures.is_deep(picture):
            said.append(("note", "photographs of 16 bits, read as 8 (divided by 256)"))
        if pictures.is_see_through(picture):
            said.append(("note", "photographs with transparent parts, read as if they had none"))
        if pictures.n_frames(picture) > 1:
            said.append(("note", "files of several pictures, of which the first is read"))
        if not item.labels:
            picture = pictures.upright(picture)
        labels: dict[str, NDArray[Any]] = {}
        present: frozenset[int] = frozenset()
        for kind in kinds:
            if kind not in item.labels:
                said.append(("note", f"images without {_WORDS[kind]}, unknown in all their pixels"))
                continue
            try:
                values = _read_label(kind, item.labels[kind], options)
            except Unusable as problem:
                said.append(("fault", f"{_FILES[kind]} {problem}"))
                continue
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
        small = pictures.fitted(pictures.photograph(picture), size)
        return _Loaded(item, small, labels, present, marks), said, picture.size

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
    return loaded


def _read_label(kind: str, source: Source, options: Options) -> NDArray[Any]:
    if kind == "segmentation":
        return pictures.ids(source, options.by_colour)
    return (
        pictures.metres(source, options.depth_scale)
        if kind == "depth"
        else pictures.directions(source)
    )


def _pixel_classes(
    loaded: Sequence[_Loaded], options: Options, found: Problems
) -> tuple[list[str], dict[int, int]]:
    """Return the names of pixel classes, and from ids in files to places in them, or to VOID."""
    present = set().union(*(entry.ids for entry in loaded)) if loaded else set()
    void = set(options.void)
    if not present:
        return [], {}
    if present == {0, VOID} and VOID in void:
        found.note("all masks hold 0 and 255 only, so 255 is read as a class")
        lookup_255 = {VOID: 1}
        names = options.pixel_names or {0: "class 0", 1: "class 1"}
        return [plain(names.get(i, f"class {i}")) for i in (0, 1)], {0: 0} | lookup_255
    if not options.by_colour and any(number >= pictures.COLOUR for number in present):
        return _colours(loaded, present, options, found)
    if options.pixel_names is None:
        for number in sorted(present & void):
            found.note(
                f"pixels of the id {number} in masks count as of unknown class; if it is one, name "
                "it in classes.txt and say void=[]"
            )
        if len(present - void) > _MOST_IDS:
            found.fault(
                f"{len(present - void)} different values in the masks are too many for classes (at "
                f"most {_MOST_IDS}): are these photographs? save class ids, or name the classes in "
                "classes.txt"
            )
        wanted = {i: f"class {i}" for i in sorted(present - void)}
    else:
        void |= {i for i, n in options.pixel_names.items() if plain(n).lower() in _VOID_NAMES}
        wanted = {i: plain(n) for i, n in sorted(options.pixel_names.items()) if i not in void}
    foreign = present - void - set(wanted)
    if foreign and options.by_colour:
        for entry in loaded:
            if entry.ids & foreign:
                found.fault(
                    f"masks with colours that no class has, {_some_colours(foreign)}: give them a "
                    f"line in {COLOURS_FILE}, as void,RED,GREEN,BLUE where they do not count",
                    entry.item.name,
                )
    elif foreign:
        listed = ", ".join(str(i) for i in sorted(foreign)[:10])
        titles = ", ".join(f"{i} {title}" for i, title in list(wanted.items())[:10])
        for entry in loaded:
            if entry.ids & foreign:
                found.fault(
                    f"masks with ids out of range, {listed}: name them among the classes "
                    f"({titles}), or give them as void=ID",
                    entry.item.name,
                )
    lookup = {number: place for place, number in enumerate(wanted)}
    return list(wanted.values()), lookup


def _colours(
    loaded: Sequence[_Loaded], present: set[int], options: Options, found: Problems
) -> tuple[list[str], dict[int, int]]:
    """Do the same where each colour is a class and nobody says which; black and white are, too."""
    in_colour = [e for e in loaded if any(i >= pictures.COLOUR for i in e.ids)]
    if any(i < pictures.COLOUR and i not in (0, VOID) for i in present):
        for entry in in_colour:
            found.fault(
                "masks in colour beside others with ids: save all in one way, as ids in 8 bits",
                entry.item.name,
            )
        return [], {}
    usual = {i if i >= pictures.COLOUR else pictures.COLOUR + i * 0x010101 for i in present}
    if len(usual) > _MOST_IDS:
        found.fault(
            f"{len(usual)} different colours in the masks are too many for classes (at most "
            f"{_MOST_IDS}): save them as PNG, unscaled and unsmoothed, each class in one colour"
        )
        return [], {}
    share: Counter[str] = Counter()
    for entry in loaded:
        if "segmentation" in entry.labels:
            numbers, counts = np.unique(entry.labels["segmentation"], return_counts=True)
            n = entry.labels["segmentation"].size * len(loaded)
            for number, count in zip(numbers, counts, strict=True):
                share[pictures.colour_of(int(number))] += count / n
    lines = "; ".join(f"NAME,{colour} ({part:.1%})" for colour, part in share.most_common())
    how = f"write {COLOURS_FILE}, a line NAME,RED,GREEN,BLUE for each; there are: {lines}"
    if options.pixel_names:
        found.fault(
            "masks are in colour, and names are given by ids: to say which colour is which class, "
            f"{how}"
        )
    else:
        found.note(f"masks are in colour, each a class without a name; to name them, {how}")
    places = {number: place for place, number in enumerate(sorted(usual))}
    lookup = {i: places[i if i >= pictures.COLOUR else pictures.COLOUR + i * 0x010101]
              for i in present}  # fmt: skip
    names = [f"colour {pictures.colour_of(i).replace(',', ' ')}" for i in sorted(usual)]
    return names, lookup


def _some_colours(numbers: set[int]) -> str:
    more = ", ..." if len(numbers) > _SOME else ""
    return "; ".join(pictures.colour_of(i) for i in sorted(numbers)[:_SOME]) + more


def _without_contradictions(loaded: Sequence[_Loaded], found: Problems) -> list[_Loaded]:
    """Leave out photographs of which copies lie in several classes."""
    classes: dict[str, set[str | None]] = defaultdict(set)
    for entry in loaded:
        classes[entry.marks[0]].add(entry.item.class_name)
    kept = []
    for entry in loaded:
        if len(classes[entry.marks[0]]) > 1:
            found.note("photographs left out, since a copy lies in another class", entry.item.name)
        else:
            kept.append(entry)
    return kept


def _strata(loaded: Sequence[_Loaded], lookup: Mapping[int, int]) -> list[str]:
    """Name what every split gets its share of: the class or, of pixels, the rarest one there is."""
    n_images = Counter(number for entry in loaded for number in entry.ids if number in lookup)

    def rarest(entry: _Loaded) -> int:
        return min(entry.ids & lookup.keys(), key=lambda i: (n_images[i], i), default=VOID)

    return [entry.item.class_name or str(rarest(entry)) for entry in loaded]


def _note_missing(
    arrays: Mapping[str, NDArray[Any]],
    pixel_names: Sequence[str],
    splits: Sequence[str],
    found: Problems,
) -> None:
    """Note the classes of pixels that a split does not have, so that it cannot measure them."""
    for split in SPLITS if "segmentation" in arrays else ():
        rows = [i for i, own in enumerate(splits) if own == split]
        seen = np.unique(arrays["segmentation"][rows])
        for place, title in enumerate(pixel_names):
            if place not in seen:
                found.note(f"classes that no pixel of the split {split} has", title)


def _note_depth(
    arrays: Mapping[str, NDArray[Any]],
    loaded: Sequence[_Loaded],
    options: Options,
    found: Problems,
) -> None:
    """Note how far away things are, so that a wrong unit is seen."""
    if "depth" not in arrays:
        return
    near, far = np.nanpercentile(arrays["depth"], (5, 95))
    said = f"depth lies between {near:.3g} and {far:.3g} m (5% to 95% of the known pixels)"
    sources = [e.item.labels["depth"] for e in loaded if "depth" in e.item.labels]
    in_metres = all(isinstance(s, Path) and s.suffix.lower() == ".npy" for s in sources)
    if options.depth_scale == _DEPTH_SCALE and not in_metres:
        said += (
            f"; 16-bit values were divided by {_DEPTH_SCALE}. If they are millimetres: --set "
            "target.options.depth_scale=1000"
        )
    found.note(said)


def _note_rare(strata: Sequence[str], splits: Sequence[str], found: Problems) -> None:
    """Note the classes of which there are too few photographs to say how a model does on them."""
    counts = Counter(zip(splits, strata, strict=True))
    for name in sorted(set(strata)):
        feedback, test = counts["feedback", name], counts["test", name]
        if min(feedback, test) < FEW_OF_CLASS:
            found.note(
                f"classes of fewer than {FEW_OF_CLASS} photographs in feedback or test, on which "
                "figures say little: a slice has feedback.n_min at least",
                f"{name}, feedback {feedback}, test {test}",
            )


def _note_copies(loaded: Sequence[_Loaded], found: Problems) -> None:
    """Note all but the first of photographs that are equal in every pixel."""
    seen: set[str] = set()
    for entry in loaded:
        if entry.marks[0] in seen:
            found.note("exact copies of another photograph, kept in one split", entry.item.name)
        seen.add(entry.marks[0])


def _check_numbers(loaded: Sequence[_Loaded], task: str, found: Problems) -> None:
    if len(loaded) < LEAST_IMAGES:
        found.fault(
            f"{len(loaded)} usable photographs are too few; four splits need at least "
            f"{LEAST_IMAGES} in all"
        )
    if task != "classification" or not loaded:
        return
    if any(entry.item.class_name is None for entry in loaded):
        found.fault("the task classification needs a folder for each class; leave it out, or sort")
        return
    counts = Counter(entry.item.class_name or "" for entry in loaded)
    for name, n in sorted(counts.items()):
        if n < LEAST_OF_CLASS:
            found.fault(
                f"classes of fewer than {LEAST_OF_CLASS} usable photographs: add some, or take the "
                "class out",
                f"{name}, {n}",
            )
    if len(counts) < 2:
        found.fault(
            "one class is no choice: add photographs of what is not of it, in a folder of their "
            "own",
            next(iter(counts)),
        )


def _arrays(
    loaded: Sequence[_Loaded], size: tuple[int, int], lookup: Mapping[int, int]
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


def _said_attributes(
    loaded: Sequence[_Loaded],
    attributes: Sequence[dict[str, str]],
    in_generator: Sequence[bool],
    found: Problems,
) -> dict[str, list[str]]:
    """Add what owners say of their photographs; return the values by attribute."""
    values: dict[str, list[str]] = {}
    columns = dict.fromkeys(column for entry in loaded for column in entry.item.attributes)
    for column in columns:
        key = key_of(column)
        said = [_known(entry.item.attributes.get(column, "")) for entry in loaded]
        if not key or key == "class" or key in values:
            found.note("columns left out, since their name cannot be used", column)
            continue
        numbers = _numbers(said)
        if numbers is not None:
            known = [n for n, own in zip(numbers, in_generator, strict=True) if own]
            bounds = _levels.bounds_of([n for n in known if n is not None])
            if bounds is None:
                found.note(
                    "columns of numbers left out, since they do not part into thirds", column
                )
                continue
            words = [
                "" if n is None else _levels.level(n, bounds, _levels.NUMBERS) for n in numbers
            ]
            different = list(_levels.NUMBERS)
        else:
            words = [value_of(text) for text in said]
            different = sorted(set(words) - {""})
            if different and all(
                word in ("", value_of(entry.item.class_name or ""))
                for word, entry in zip(words, loaded, strict=True)
            ):
                found.note("columns left out, since they repeat the class", column)
                continue
            if not 1 < len(different) <= _MOST_VALUES:
                found.note(
                    f"columns left out, since an attribute has 2 to {_MOST_VALUES} values",
                    column,
                )
                continue
        values[key] = [value for value in different if value in words]
        for known_of, word in zip(attributes, words, strict=True):
            if word:
                known_of[key] = word
    return values


def _known(text: str) -> str:
    """Return what a cell says, "" where it says that nothing is known."""
    return "" if text.strip().lower() in _BLANKS else text.strip()


def _numbers(said: Sequence[str]) -> list[float | None] | None:
    """Return a column as numbers if it has many different ones, or negative ones."""
    try:
        numbers = [float(text) if text else None for text in said]
    except ValueError:
        return None
    known = {n for n in numbers if n is not None}
    if not all(np.isfinite(n) for n in known):
        return None
    return numbers if len(known) > _FEW_NUMBERS or any(n < 0 for n in known) else None


def _presences(
    arrays: Mapping[str, NDArray[Any]],
    pixel_names: Sequence[str],
    attributes: Sequence[dict[str, str]],
    taken: Mapping[str, object],
    in_generator: Sequence[bool],
) -> dict[str, list[str]]:
    """Add how much there is of the few classes whose presence tells photographs apart best."""
    if "segmentation" not in arrays:
        return {}
    own = np.array(in_generator)
    rated = []
    for place, title in enumerate(pixel_names):
        key = key_of(title)
        share = (arrays["segmentation"] == place).mean((1, 2))
        there = share > 0
        part = float(there[own].mean())
        if key and key not in taken and _LEAST_PRESENCE <= part <= 1 - _LEAST_PRESENCE:
            usual = float(np.median(share[own & there]))
            words = [_PRESENCE[0 if s == 0 else 1 if s < usual else 2] for s in share]
            rated.append((abs(part - 0.5), key, words))
    values = {}
    for _, key, words in sorted(rated)[:_MOST_PRESENCES]:
        values[key] = [value for value in _PRESENCE if value in words]
        for known, word in zip(attributes, words, strict=True):
            known[key] = word
    return values


def _measured(
    images: NDArray[np.uint8],
    attributes: Sequence[dict[str, str]],
    values: dict[str, list[str]],
    in_generator: Sequence[bool],
) -> dict[str, _levels.Bounds]:
    """Add brightness, contrast and colour where the owner has no such attribute; return bounds."""
    figures = [_levels.figures(image) for image in images]
    bounds = {}
    for name in figures[0]:
        own = [f[name] for f, mine in zip(figures, in_generator, strict=True) if mine]
        limits = _levels.bounds_of(own)
        if limits and name not in values:
            bounds[name] = limits
            values[name] = list(_levels.NAMES[name])
            for known, figure in zip(attributes, figures, strict=True):
                known[name] = _levels.level(figure[name], limits, _levels.NAMES[name])
    return bounds


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
        for kind, word in _WORDS.items()
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
