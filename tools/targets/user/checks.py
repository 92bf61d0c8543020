"""Checks of a user's own photographs once they are read: too few, copies, odd labels."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from tools.targets import SPLITS
from tools.targets.user import pictures as pictures
from tools.targets.user.loading import Loaded
from tools.targets.user.options import DEPTH_SCALE, Options
from tools.targets.user.problems import Problems

LEAST_IMAGES = 20
LEAST_OF_CLASS = 8
FEW_OF_CLASS = 5
# Metres beyond which photographs seldom reach.
_FARTHEST_M = 1000


def without_contradictions(loaded: Sequence[Loaded], found: Problems) -> list[Loaded]:
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


def note_copies(loaded: Sequence[Loaded], found: Problems) -> None:
    """Note all but the first of photographs that are equal in every pixel."""
    seen: set[str] = set()
    for entry in loaded:
        if entry.marks[0] in seen:
            found.note("exact copies of another photograph, kept in one split", entry.item.name)
        seen.add(entry.marks[0])


def check_numbers(
    loaded: Sequence[Loaded], classes: Iterable[str], task: str, found: Problems
) -> None:
    """Add a fault where there are too few photographs, of a class or in all, or too few classes.

    classes: those of all pictures, of which perhaps none could be read.
    """
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
    counts.update(dict.fromkeys(classes, 0))
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


def note_rare(strata: Sequence[str], splits: Sequence[str], found: Problems) -> None:
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


def note_depth(
    arrays: Mapping[str, NDArray[Any]],
    loaded: Sequence[Loaded],
    options: Options,
    found: Problems,
) -> None:
    """Note how far away things are, so that a wrong unit is seen."""
    if "depth" not in arrays:
        return
    near, far = np.nanpercentile(arrays["depth"], (5, 95))
    said = f"depth lies between {near:.3g} and {far:.3g} m (5% to 95% of the known pixels)"
    sources = [e.item.labels["depth"] for e in loaded if "depth" in e.item.labels]
    # One of each format tells.
    files = {source.suffix.lower(): source for source in sources if isinstance(source, Path)}
    metres = bool(files) and all(pictures.in_metres(file) for file in files.values())
    if metres and far > _FARTHEST_M:
        said += "; .npy and float files hold metres: if these are millimetres, divide them by 1000"
    elif options.depth_scale == DEPTH_SCALE and not metres:
        said += (
            f"; 16-bit values were divided by {DEPTH_SCALE}. If they are millimetres: --set "
            "target.options.depth_scale=1000"
        )
    found.note(said)


def note_missing(
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
