"""Which photographs a session works with, so that it notices when they change under it.

A session is left for days, and a folder of photographs lives on: files are edited, come and go,
and then the splits are dealt anew. Figures of before and after are of other photographs then, and
what was sealed has perhaps been shown.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from memory.errors import SessionError, some
from memory.files import write_bytes, write_json
from memory.records import digest
from prompts.render import quote
from tools.targets import SPLITS, Target

FILE = "photographs.json"
SPLITS_FILE = "splits.csv"
_SHOWN = 3
_NAME = 60


class Note(NamedTuple):
    """What is noted of a photograph: digests of what it shows with its labels, and of its words."""

    split: str
    mark: str
    words: str


Noted = Mapping[str, Note]
"""Of every photograph by its name."""


@dataclass(frozen=True)
class Changes:
    """What has become of photographs; names, and of those that changed their split how they did.

    moved: by (split before, split now); described: those with other attributes.
    """

    added: Sequence[str]
    removed: Sequence[str]
    edited: Sequence[str]
    described: Sequence[str]
    moved: Mapping[tuple[str, str], Sequence[str]]

    def __bool__(self) -> bool:
        return any((self.added, self.removed, self.edited, self.described, self.moved))

    @property
    def n_moved(self) -> int:
        """How many photographs lie in another split."""
        return sum(map(len, self.moved.values()))

    def say(self) -> str:
        """Return what came, went and was edited, with counts and a few names."""
        parts = (
            ("added", self.added),
            ("removed", self.removed),
            ("edited", self.edited),
            ("with other attributes", self.described),
        )
        return "; ".join(
            f"{len(names)} {what}: {_some(names)}" for what, names in parts if names
        ) or ("none came, went or was edited, but attributes.csv or options say something else")

    def say_moved(self) -> str:
        """Return how many photographs went from which split to which."""
        return ", ".join(
            f"{before} to {now} {len(names)}" for (before, now), names in self.moved.items()
        )


def noted(target: Target) -> Noted:
    """Return what a target's photographs are now."""
    found = {}
    for split in SPLITS:
        samples = target.split(split)
        for row, name in enumerate(samples.ids):
            mark = hashlib.sha256(samples.images[row].tobytes())
            mark.update(str(target.class_names[samples.classes[row]]).encode())
            for kind in sorted(samples.labels):
                mark.update(samples.labels[kind][row].tobytes())
            words = digest(dict(samples.attributes[row]))
            found[name] = Note(split, mark.hexdigest()[:16], words)
    return found


def note(folder: Path, target: Target) -> None:
    """Write down in the session's `folder` what the target's photographs are now."""
    write_json(folder / FILE, {"photographs": {k: list(v) for k, v in noted(target).items()}})


def read(folder: Path) -> Noted | None:
    """Return what was noted, None where nothing was; raises SessionError for a damaged file."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        known = json.loads(file.read_text("utf-8"))["photographs"]
        return {str(name): Note(*map(str, parts)) for name, parts in known.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SessionError(
            f"{file} is damaged ({error}). It says which photographs the session began with; "
            "delete it where you are sure that they are the same."
        ) from error


def changes(before: Noted, now: Noted) -> Changes:
    """Return what has changed; a file that is only called otherwise is no other photograph."""
    gone, came = before.keys() - now.keys(), now.keys() - before.keys()
    by_mark = {now[name].mark: name for name in came}
    renamed = {
        old: new for old in sorted(gone) if (new := by_mark.pop(before[old].mark, None)) is not None
    }
    moved: dict[tuple[str, str], list[str]] = {}
    for old in sorted(before):
        new = renamed.get(old, old)
        if new in now and before[old].split != now[new].split:
            moved.setdefault((before[old].split, now[new].split), []).append(new)
    both = sorted(before.keys() & now.keys())
    return Changes(
        added=sorted(came - set(renamed.values())),
        removed=sorted(gone - renamed.keys()),
        edited=[name for name in both if before[name].mark != now[name].mark],
        described=[name for name in both if before[name].words != now[name].words],
        moved=dict(sorted(moved.items())),
    )


def write_splits(folder: Path, before: Noted, now: Noted) -> Path:
    """Write a table that keeps the splits of before; what came since is where nothing is measured.

    It serves as the attributes.csv of a folder, or for its column split.
    """
    split_of = {entry.mark: entry.split for entry in before.values()}
    known = {name: entry.split for name, entry in before.items()}
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["file", "split"])
    for name, entry in sorted(now.items()):
        table.writerow([name, known.get(name) or split_of.get(entry.mark, "generator")])
    path = folder / SPLITS_FILE
    write_bytes(path, text.getvalue().encode())
    return path


def _some(names: Sequence[str]) -> str:
    return some([quote(name, _NAME) for name in names], _SHOWN)
