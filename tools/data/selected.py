"""The selection of a round's images, stored as rounds/NNN/selection.json beside the shards."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from memory.errors import DataError
from memory.files import cached_until_changed, sha256_of, write_json

FILE = "selection.json"


def write_choice(folder: Path, method: str, ids: Sequence[str], chosen: Sequence[int]) -> str:
    """Store the selected rows of a round's images; return the SHA-256 of the file."""
    rows = set(chosen)
    parts = {
        "chosen": [name for row, name in enumerate(ids) if row in rows],
        "left_out": [name for row, name in enumerate(ids) if row not in rows],
    }
    write_json(folder / FILE, {"method": method, **parts})
    return sha256_of(folder / FILE)


def choices(shards: Sequence[Path]) -> list[Path]:
    """Return the existing selection files of the rounds that shards belong to."""
    folders = dict.fromkeys(path.parent for path in shards)
    return [folder / FILE for folder in folders if (folder / FILE).exists()]


def left_out(shards: Sequence[Path]) -> set[str]:
    """Return the names of the images of shards that a selection left out."""
    return {name for path in choices(shards) for name in read_choice(path).left_out}


class StoredChoice(NamedTuple):
    """A stored selection: the SHA-256 of its file, and the images that it leaves out."""

    sha256: str
    left_out: tuple[str, ...]


@cached_until_changed
def read_choice(path: Path) -> StoredChoice:
    """Return the selection in a file; raises DataError if it is damaged."""
    try:
        data = path.read_bytes()
        names = tuple(json.loads(data)["left_out"])
    except (ValueError, KeyError, OSError) as error:
        raise DataError(
            f"The choice of images {path} is damaged ({error}). Delete this file and run the "
            "same command again; the choice is made again."
        ) from error
    return StoredChoice(hashlib.sha256(data).hexdigest(), names)
