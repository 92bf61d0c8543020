"""The data manifest: records the photographs of a session to detect changes.

A session lasts for days, during which files of a folder may be edited, added or removed; then the
splits are assigned anew. Metrics before and after would not be comparable, and sealed photographs
might have been exposed.
"""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from memory.csv_text import write_csv
from memory.errors import SessionError, some
from memory.files import write_json
from memory.records import digest
from prompts.render import quote
from tools.targets import SPLITS, Target
from tools.targets.cross_fitting import undivided

FILE = "photographs.json"
SPLITS_FILE = "splits.csv"
_SHOWN = 3
_NAME = 60


class ManifestEntry(NamedTuple):
    """Entry of a photograph: its split, and digests of its pixels with labels and of its words."""

    split: str
    content: str
    words: str


Manifest = Mapping[str, ManifestEntry]
"""Entries by name of the photograph."""


@dataclass(frozen=True)
class Changes:
    """Differences between two manifests, as names of photographs.

    Attributes:
        added: New photographs.
        removed: Missing photographs.
        edited: Photographs whose pixels or labels changed.
        described: Photographs whose attributes changed.
        moved: Photographs whose split changed, by (split before, split now).
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
        """Number of photographs whose split changed."""
        return sum(map(len, self.moved.values()))

    def summary(self) -> str:
        """Return the added, removed and edited photographs, as counts and a few names."""
        parts = {
            "added": self.added,
            "removed": self.removed,
            "edited": self.edited,
            "with other attributes": self.described,
        }
        return "; ".join(
            f"{len(names)} {change}: {some([quote(name, _NAME) for name in names], _SHOWN)}"
            for change, names in parts.items()
            if names
        ) or ("none was added, removed or edited, but attributes.csv or options differ")

    def moves(self) -> str:
        """Return the number of moved photographs by split before and now."""
        return ", ".join(
            f"{before} to {now} {len(names)}" for (before, now), names in self.moved.items()
        )


def manifest_of(target: Target) -> Manifest:
    """Return the manifest of a target's photographs."""
    entries, target = {}, undivided(target)
    for split in SPLITS:
        samples = target.split(split)
        for row, name in enumerate(samples.ids):
            content = hashlib.sha256(samples.images[row].tobytes())
            content.update(str(target.class_names[samples.classes[row]]).encode())
            for kind in sorted(samples.labels):
                content.update(samples.labels[kind][row].tobytes())
            words = digest(dict(samples.attributes[row]))
            entries[name] = ManifestEntry(split, content.hexdigest()[:16], words)
    return entries


def write(folder: Path, target: Target) -> None:
    """Store the manifest of a target in the session's `folder`."""
    entries = {name: list(entry) for name, entry in manifest_of(target).items()}
    write_json(folder / FILE, {"photographs": entries})


def read(folder: Path) -> Manifest | None:
    """Return the stored manifest, None if there is none; raises SessionError if damaged."""
    file = folder / FILE
    if not file.is_file():
        return None
    try:
        entries = json.loads(file.read_text("utf-8"))["photographs"]
        return {str(name): ManifestEntry(*map(str, parts)) for name, parts in entries.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise SessionError(
            f"{file} is damaged ({error}). It lists the photographs that the session began with; "
            "delete it if you are sure that they are the same."
        ) from error


def changes_between(before: Manifest, now: Manifest) -> Changes:
    """Return the differences of two manifests; renamed files count as unchanged."""
    gone, new = before.keys() - now.keys(), now.keys() - before.keys()
    by_content = {now[name].content: name for name in new}
    renamed = {
        old: name
        for old in sorted(gone)
        if (name := by_content.pop(before[old].content, None)) is not None
    }
    moved: dict[tuple[str, str], list[str]] = defaultdict(list)
    for old in sorted(before):
        name = renamed.get(old, old)
        if name in now and before[old].split != now[name].split:
            moved[before[old].split, now[name].split].append(name)
    both = sorted(before.keys() & now.keys())
    return Changes(
        added=sorted(new - set(renamed.values())),
        removed=sorted(gone - renamed.keys()),
        edited=[name for name in both if before[name].content != now[name].content],
        described=[name for name in both if before[name].words != now[name].words],
        moved=dict(sorted(moved.items())),
    )


def write_splits(folder: Path, before: Manifest, now: Manifest) -> Path:
    """Write a table that preserves the previous splits; new photographs go to `generator`.

    It can be used as the attributes.csv of a folder, or for its column split.
    """
    split_of = {entry.content: entry.split for entry in before.values()}
    split_of |= {name: entry.split for name, entry in before.items()}
    rows = [
        (name, split_of.get(name) or split_of.get(entry.content, "generator"))
        for name, entry in sorted(now.items())
    ]
    path = folder / SPLITS_FILE
    write_csv(path, ["file", "split"], rows)
    return path
