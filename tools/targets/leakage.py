"""The leakage check: records the photographs and words that an MTDM was trained on.

None of these photographs may be used to evaluate the MTDM's images. Splits are assigned anew when
photographs are added or removed or options change, so an older MTDM may have seen photographs of
other splits. It also ignores attribute values added after its training.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

from memory.errors import WeightsError
from memory.files import write_json
from tools.data.samples import Samples
from tools.models.copies import MOST, finder_of
from tools.targets import SPLITS, Target

FILE = "photographs.json"
_SHOWN = 3


def record(folder: Path, target: Target) -> None:
    """Add the photographs of the generator split and the target's words to the MTDM's record.

    Args:
        folder: Folder of the MTDM.
        target: Target that it is trained on.
    """
    seen = _recorded(folder, "photographs") | _names_by_digest(target.split("generator")).keys()
    words = _recorded(folder, "words") | _words(target)
    write_json(folder / FILE, {"photographs": sorted(seen), "words": sorted(words)})


def unlearned_words(folder: Path, target: Target) -> list[str]:
    """Return the "attribute=value" pairs of a target added after the MTDM's training.

    [] for an MTDM without a record (bundled, or of an earlier version).
    """
    learned = _recorded(folder, "words")
    return sorted(_words(target) - learned) if learned else []


def trained_steps(folder: Path) -> int:
    """Return the step of the last training checkpoint in `folder`, 0 if there is none."""
    try:
        return int(json.loads((folder / "train.json").read_text("utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):  # the training itself reports the problem
        return 0


def check(folder: Path, target: Target) -> None:
    """Raise WeightsError if the MTDM in `folder` was trained on a photograph of another split.

    An MTDM without a record (bundled, or of an earlier version) passes.
    """
    seen = _recorded(folder, "photographs")
    leaked = {
        split: sorted(
            name for key, name in _names_by_digest(target.split(split)).items() if key in seen
        )
        for split in ("audit", "feedback", "test")
        if seen
    }
    if names := [name for in_split in leaked.values() for name in in_split]:
        counts = ", ".join(f"{split} {len(photos)}" for split, photos in leaked.items() if photos)
        raise WeightsError(
            f"The MTDM in {folder} was trained on {len(names)} photographs that now lie in other "
            f"splits ({counts}), e.g. {', '.join(names[:_SHOWN])}: photographs or options have "
            "changed since, so figures would be too good. Move this folder away and run shaping "
            "pretrain again, or restore the photographs and options of before. To add photographs "
            "and keep the splits, write them in the column split of attributes.csv."
        )


def near_copies(target: Target) -> list[tuple[str, str, str]]:
    """Return photographs of audit, feedback and test that repeat one of the generator split.

    Each entry is (name, split, name of the repeated photograph), closest first. The MTDM has seen
    the content of these photographs.
    """
    finder = finder_of(target, SPLITS[1:])
    rows = np.flatnonzero(~finder.known)
    nearest, scores = finder.search(finder.photographs[rows], rows)
    split_of = {photo: name for name in SPLITS[1:] for photo in target.split(name).ids}
    found = [i for i in np.argsort(scores, kind="stable") if scores[i] < MOST]
    names = [(finder.ids[rows[i]], finder.ids[nearest[i]]) for i in found]
    return [(name, split_of[name], other) for name, other in names]


def _recorded(folder: Path, key: str) -> set[str]:
    file = folder / FILE
    if not file.is_file():
        return set()
    try:
        return set(json.loads(file.read_text("utf-8")).get(key, ()))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"{file} is damaged ({error}). It lists the photographs that the MTDM beside it was "
            "trained on; move the folder away and run shaping pretrain again."
        ) from error


def _words(target: Target) -> set[str]:
    return {f"{k}={v}" for k, values in target.vocabulary.attributes.items() for v in values}


def _names_by_digest(samples: Samples) -> dict[str, str]:
    """Return the names of photographs by pixel digest, which does not change with file names."""
    return {
        hashlib.sha256(image.tobytes()).hexdigest()[:16]: name
        for image, name in zip(samples.images, samples.ids, strict=True)
    }
