"""Which classes the pixels of masks have: by ids or by colours, named or not."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from memory.errors import some
from prompts.own_words import plain
from tools.data.samples import VOID
from tools.targets.user import pictures as pictures
from tools.targets.user.class_files import is_void
from tools.targets.user.loading import Loaded
from tools.targets.user.options import Options
from tools.targets.user.problems import Problems

_HOW_TO_NAME = "write PATH/classes.yaml (of hf: target.options.classes), a line ID: NAME"
_COLOURS_FILE = "PATH/classes.csv"
_MOST_IDS = 64
_SOME = 5


def pixel_classes(
    loaded: Sequence[Loaded], options: Options, found: Problems
) -> tuple[list[str], dict[int, int]]:
    """Return the names of pixel classes, and from ids in files to places in them.

    Ids that are not there are of unknown class; those that nobody knows are a fault.
    """
    stored = set().union(*(entry.ids for entry in loaded)) if loaded else set()
    value = {i: gray for i in stored if (gray := pictures.gray_of(i)) is not None}
    if not options.by_colour and len(value) == len(stored):  # gray ones of three channels hold ids
        names, places = _classes(loaded, value, options, found)
        return names, {i: places[value[i]] for i in stored if value[i] in places}
    return _classes(loaded, {i: i for i in stored}, options, found)


def _classes(
    loaded: Sequence[Loaded], value: Mapping[int, int], options: Options, found: Problems
) -> tuple[list[str], dict[int, int]]:
    """Do the same with ids as they are meant; value: those by what the masks hold."""
    present = set(value.values())
    void = set(options.void)
    if not present:
        return [], {}
    if len(present) == 1:
        found.fault(
            f"all masks show one class alone ({min(present)}), so there is nothing to tell apart: "
            "are these the right masks?"
        )
        return [], {}
    if present == {0, VOID} and VOID in void:
        how = "" if options.pixel_names else f"; to name both, {_HOW_TO_NAME}"
        found.note(f"all masks hold 0 and 255 only, so 255 is read as a class{how}")
        names = options.pixel_names or {}
        return [plain(names.get(i, f"class {i}")) for i in (0, 1)], {0: 0, VOID: 1}
    if not options.by_colour and any(number >= pictures.COLOUR for number in present):
        return _colours(loaded, present, options, found)
    named = options.pixel_names
    public = options.public
    if named is None and public and present - void <= public.names.keys():
        named = {i: public.names[i] for i in present - void}
        dropped = [str(i) for i, title in sorted(named.items()) if is_void(title)]
        left = f", ids {', '.join(dropped)} count as of unknown class" if dropped else ""
        found.note(
            f"classes are called as {public.source} calls them{left}; to call them otherwise, "
            f"{_HOW_TO_NAME}"
        )
    if named is None:
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
        found.note(
            "masks hold ids without names, so classes are called class ID; to name them, "
            f"{_HOW_TO_NAME} for each of {', '.join(map(str, wanted))}; one that does not count is "
            "void"
        )
    else:
        void |= {i for i, n in named.items() if is_void(n)}
        wanted = {i: plain(n) for i, n in sorted(named.items()) if i not in void}
    foreign = present - void - set(wanted)
    fault = _foreign_colours(foreign) if options.by_colour else _foreign_ids(foreign, wanted)
    for entry in loaded:
        if any(value[i] in foreign for i in entry.ids):
            found.fault(fault, entry.item.name)
    titles = list(dict.fromkeys(wanted.values()))
    return titles, {number: titles.index(title) for number, title in wanted.items()}


def _colours(
    loaded: Sequence[Loaded], present: set[int], options: Options, found: Problems
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
    colour = {i: i if i >= pictures.COLOUR else pictures.COLOUR + i * 0x010101 for i in present}
    usual = sorted(set(colour.values()))
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
    how = f"write {_COLOURS_FILE}, a line NAME,RED,GREEN,BLUE for each; there are: {lines}"
    if options.pixel_names:
        found.fault(
            "masks are in colour, and names are given by ids: to say which colour is which class, "
            f"{how}"
        )
    else:
        found.note(f"masks are in colour, each a class without a name; to name them, {how}")
    places = {number: place for place, number in enumerate(usual)}
    names = [f"colour {pictures.colour_of(i).replace(',', ' ')}" for i in usual]
    return names, {i: places[colour[i]] for i in present}


def _foreign_colours(numbers: set[int]) -> str:
    listed = some([pictures.colour_of(i) for i in sorted(numbers)], _SOME, "; ")
    return (
        f"masks with colours that no class has, {listed}: give them a line in {_COLOURS_FILE}, as "
        "void,RED,GREEN,BLUE where they do not count"
    )


def _foreign_ids(numbers: set[int], wanted: Mapping[int, str]) -> str:
    listed = ", ".join(str(i) for i in sorted(numbers)[:10])
    titles = ", ".join(f"{i} {title}" for i, title in list(wanted.items())[:10])
    return (
        f"masks with ids out of range, {listed}: name them among the classes ({titles}), or give "
        "them as void=ID"
    )
