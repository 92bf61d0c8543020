"""Which photographs and words an MTDM has learnt to draw.

None of these photographs may ever judge what it draws: a split is dealt anew when photographs come,
go, or are read otherwise, and an MTDM that was trained before has then seen photographs that now
measure the model which learns from its images. To words that came later, as those of a new table of
attributes, it is deaf.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from memory.errors import WeightsError
from memory.files import write_json
from tools.data.samples import Samples
from tools.targets import Target

FILE = "photographs.json"
_SHOWN = 3


def note(folder: Path, target: Target) -> None:
    """Add the generator split's photographs, and the target's words, to those that the MTDM knows.

    It is the one in `folder`.
    """
    seen = _noted(folder, "photographs") | _digests(target.split("generator")).keys()
    words = _noted(folder, "words") | _words(target)
    write_json(folder / FILE, {"photographs": sorted(seen), "words": sorted(words)})


def unlearnt(folder: Path, target: Target) -> list[str]:
    """Return the "attribute=value" of a target that were unknown when the MTDM was trained.

    Nothing for one whose words are not noted (bundled, or of an earlier version).
    """
    learnt = _noted(folder, "words")
    return sorted(_words(target) - learnt) if learnt else []


def steps_done(folder: Path) -> int:
    """Return the steps of the last checkpoint of the training in `folder`, 0 without one."""
    try:
        return int(json.loads((folder / "train.json").read_text("utf-8"))["step"])
    except (OSError, ValueError, KeyError, TypeError):  # the training itself says what is wrong
        return 0


def check(folder: Path, target: Target) -> None:
    """Raise WeightsError if the MTDM in `folder` has seen a photograph of another split.

    One that nothing is noted of (bundled, or of an earlier version) passes.
    """
    seen = _noted(folder, "photographs")
    if not seen:
        return
    leaked = {
        split: sorted(name for digest, name in _digests(target.split(split)).items()
                      if digest in seen)
        for split in ("audit", "feedback", "test")
    }  # fmt: skip
    n = sum(len(names) for names in leaked.values())
    if n:
        counts = ", ".join(f"{split} {len(names)}" for split, names in leaked.items() if names)
        some = ", ".join([name for names in leaked.values() for name in names][:_SHOWN])
        raise WeightsError(
            f"The MTDM in {folder} was trained on {n} photographs that now lie in other splits "
            f"({counts}), e.g. {some}: photographs or options have changed since, so the splits "
            "were dealt anew and figures on them would be too good. Move this folder away and run "
            "shaping pretrain again, or go back to the photographs and options of before. To add "
            "photographs and keep the splits, write them in the column split of attributes.csv."
        )


def _noted(folder: Path, what: str) -> set[str]:
    file = folder / FILE
    if not file.is_file():
        return set()
    try:
        return set(json.loads(file.read_text("utf-8")).get(what, ()))
    except (OSError, ValueError, AttributeError, TypeError) as error:
        raise WeightsError(
            f"{file} is damaged ({error}). It says which photographs the MTDM beside it has seen; "
            "move the folder away and run shaping pretrain again."
        ) from error


def _words(target: Target) -> set[str]:
    return {f"{k}={v}" for k, values in target.vocabulary.attributes.items() for v in values}


def _digests(samples: Samples) -> dict[str, str]:
    """Return the names of photographs by what they show, whatever their files are called."""
    return {
        hashlib.sha256(image.tobytes()).hexdigest()[:16]: name
        for image, name in zip(samples.images, samples.ids, strict=True)
    }
