"""Pixel classes in masks, by ids or by colours, with or without names."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import NamedTuple

import numpy as np
import yaml

from memory.errors import some
from prompts.user_vocabulary import plain
from tools.data.samples import VOID
from tools.targets.user.class_files import is_void
from tools.targets.user.label_files import COLOUR, colour_text, gray_level
from tools.targets.user.loading import Loaded
from tools.targets.user.pictures import Source
from tools.targets.validation import ValidationReport, text

_MAX_CLASSES = 64
_SHOWN = 5
# Criteria of instance masks: least number of distinct object counts, least maximum of these counts,
# and share of the masks whose ids must be consecutive.
_MIN_COUNTS, _MIN_OBJECTS, _MOST = 4, 8, 0.8


class PublicClasses(NamedTuple):
    """Class names of the ids in masks of a public data set; ignored classes are called void."""

    source: str
    names: Mapping[int, str]


@cache
def _public() -> Mapping[str, PublicClasses]:
    """Return the classes of public data sets by the pattern of their mask paths."""
    file = resources.files("tools.targets.user").joinpath("public_classes.yaml")
    entries = yaml.safe_load(file.read_text("utf-8"))
    return {pattern: PublicClasses(**entry) for pattern, entry in entries.items()}


@dataclass(frozen=True)
class ClassNames:
    """Known names of the classes in masks.

    Attributes:
        given: Names given by the user, by id or colour (`label_files.COLOUR`); None: not given.
        public: Names of the public data set that matches the mask files; used if `given` is None.
    """

    given: Mapping[int, str] | None = None
    public: PublicClasses | None = None

    @property
    def by_colour(self) -> bool:
        """Whether the classes are given by colours."""
        return bool(self.given) and all(number >= COLOUR for number in self.given or ())


def public_classes(masks: Sequence[Source]) -> PublicClasses | None:
    """Return the class names of the public data set that the masks belong to, or None."""
    paths = [mask.as_posix() for mask in masks if isinstance(mask, Path)]
    if not paths or len(paths) < len(masks):
        return None
    fitting = (c for p, c in _public().items() if all(re.fullmatch(p, path) for path in paths))
    return next(fitting, None)


def pixel_classes(
    loaded: Sequence[Loaded], void: Sequence[int], names: ClassNames, report: ValidationReport
) -> tuple[list[str], dict[int, int]]:
    """Determine the pixel classes.

    Args:
        loaded: Photographs with their masks.
        void: Ids of pixels of unknown class.
        names: Names of the classes, if known.
        report: Collects problems, such as ids of no class.

    Returns:
        Class names, and the class index by id in the masks; ids without an index are of unknown
        class.
    """
    stored = set().union(*(entry.ids for entry in loaded)) if loaded else set()
    levels = {i: gray for i in stored if (gray := gray_level(i)) is not None}
    # Three-channel masks in which all pixels are gray contain ids.
    id_of = levels if not names.by_colour and len(levels) == len(stored) else {i: i for i in stored}
    titles, index_of = _classes(loaded, id_of, void, names, report)
    return titles, {i: index_of[id_of[i]] for i in stored if id_of[i] in index_of}


def _classes(
    loaded: Sequence[Loaded],
    id_of: Mapping[int, int],
    void: Sequence[int],
    names: ClassNames,
    report: ValidationReport,
) -> tuple[list[str], dict[int, int]]:
    """Determine the classes; `id_of` maps ids in the masks to class ids."""
    if not names.by_colour:
        _check_palettes(loaded, report)
    present = set(id_of.values())
    unknown = {*void, *(i for i in present if i < 0)}
    if not present:
        return [], {}
    if len(present) == 1:
        report.error("mask-one-class", number=min(present))
        return [], {}
    if present == {0, VOID} and VOID in unknown:
        report.warn("mask-binary")
        return [plain((names.given or {}).get(i, f"class {i}")) for i in (0, 1)], {0: 0, VOID: 1}
    if present == {0, 1, VOID} and VOID in unknown and VOID not in (names.given or {}):
        of_files = [{id_of[i] for i in entry.ids} for entry in loaded]
        if not any({1, VOID} <= ids for ids in of_files):
            report.error("mask-scales", *(e.item.name for e in loaded if VOID in e.ids))
    if not names.by_colour and any(number >= COLOUR for number in present):
        return _colour_classes(loaded, present, names, report)
    given = names.given
    if given is None and names.public and present - unknown <= names.public.names.keys():
        given = {i: names.public.names[i] for i in present - unknown}
        dropped = [str(i) for i, title in sorted(given.items()) if is_void(title)]
        void_ids = f", ids {', '.join(dropped)} count as of unknown class" if dropped else ""
        report.warn(
            "mask-public", source=names.public.source, dropped=void_ids, how=text("name-ids")
        )
    if given is None and _number_objects([{id_of[i] for i in e.ids} for e in loaded], unknown):
        report.error("mask-instances", highest=max(present - unknown))
        return [], {}
    if given is None:
        solid = {id_of[i] for entry in loaded for i in entry.solid}
        titles = _unnamed(present, unknown, solid, report)
    else:
        unknown |= {i for i, title in given.items() if is_void(title)}
        titles = {i: plain(title) for i, title in sorted(given.items()) if i not in unknown}
    if foreign := present - unknown - set(titles):
        affected = [e.item.name for e in loaded if any(id_of[i] in foreign for i in e.ids)]
        if names.by_colour:
            listed = some([colour_text(i) for i in sorted(foreign)], _SHOWN, "; ")
            report.error("mask-foreign-colours", *affected, numbers=listed)
        else:
            listed = some([str(i) for i in sorted(foreign)], 2 * _SHOWN)
            classes = some([f"{i} {title}" for i, title in titles.items()], 2 * _SHOWN)
            report.error("mask-foreign-ids", *affected, numbers=listed, classes=classes)
    different = list(dict.fromkeys(titles.values()))
    return different, {number: different.index(title) for number, title in titles.items()}


def _number_objects(of_masks: Sequence[set[int]], unknown: set[int]) -> bool:
    """Return whether the ids number the objects of each image from 1, as in instance masks."""
    known = [ids - unknown - {0} for ids in of_masks]
    highest = {max(ids) for ids in known if ids}
    n_counted = sum(len(ids) == max(ids, default=0) for ids in known)
    return (
        len(highest) >= _MIN_COUNTS
        and max(highest) >= _MIN_OBJECTS
        and n_counted > _MOST * len(known)
    )


def _check_palettes(loaded: Sequence[Loaded], report: ValidationReport) -> None:
    """Add an error if the palettes of two masks assign different colours to an id."""
    colours: dict[int, int] = {}
    for entry in loaded:
        for number, colour in entry.palette.items():
            if colours.setdefault(number, colour) != colour:
                both = [colour_text(COLOUR + c) for c in (colours[number], colour)]
                values = {"number": number, "colours": " and ".join(both)}
                report.error("mask-palettes", entry.item.name, **values)
                return


def _unnamed(
    present: set[int], unknown: set[int], solid: set[int], report: ValidationReport
) -> dict[int, str]:
    """Return "class ID" by id, for classes without names.

    With large ids, it is ambiguous whether 255 means void, and whether a class that is thin
    everywhere consists of soft edges: both are errors.

    Args:
        present: All ids.
        unknown: Ids of unknown class.
        solid: Ids that are not thin everywhere.
        report: Collects the problems.
    """
    highest = max(present - unknown, default=0)
    numbers = some([str(i) for i in sorted(present)], 2 * _SHOWN)
    if highest >= _MAX_CLASSES and VOID in present & unknown:
        report.error("mask-255", numbers=numbers)
    elif highest >= _MAX_CLASSES and (thin := sorted(present - unknown - solid)):
        report.error("mask-soft", numbers=some([str(i) for i in thin], 2 * _SHOWN))
    for number in sorted(present & unknown):
        report.warn("mask-void", number=number)
    titles = {i: f"class {i}" for i in sorted(present - unknown)}
    if len(titles) > _MAX_CLASSES:
        report.error("mask-values", n=len(titles), maximum=_MAX_CLASSES)
    else:
        report.warn("mask-unnamed", numbers=", ".join(map(str, titles)))
    return titles


def _colour_classes(
    loaded: Sequence[Loaded], present: set[int], names: ClassNames, report: ValidationReport
) -> tuple[list[str], dict[int, int]]:
    """Determine unnamed classes, one per colour, including black and white."""
    if any(i < COLOUR and i not in (0, VOID) for i in present):
        in_colour = [e.item.name for e in loaded if any(i >= COLOUR for i in e.ids)]
        report.error("mask-mixed", *in_colour)
        return [], {}
    colour_of = {i: i if i >= COLOUR else COLOUR + i * 0x010101 for i in present}
    colours = sorted(set(colour_of.values()))
    if len(colours) > _MAX_CLASSES:
        report.error("mask-colours", n=len(colours), maximum=_MAX_CLASSES)
        return [], {}
    shares: Counter[str] = Counter()
    for entry in loaded:
        if "segmentation" in entry.labels:
            numbers, counts = np.unique(entry.labels["segmentation"], return_counts=True)
            n_pixels = entry.labels["segmentation"].size * len(loaded)
            for number, count in zip(numbers, counts, strict=True):
                shares[colour_text(int(number))] += count / n_pixels
    lines = "; ".join(f"NAME,{colour} ({share:.1%})" for colour, share in shares.most_common())
    how = text("name-colours", lines=lines)
    if names.given:
        report.error("mask-colours-by-id", how=how)
    else:
        report.warn("mask-colours-unnamed", how=how)
    titles = [f"colour {colour_text(i).replace(',', ' ')}" for i in colours]
    return titles, {i: colours.index(colour_of[i]) for i in present}
