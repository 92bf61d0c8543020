"""Files that are whole or absent: temp file, fsync, rename."""

from __future__ import annotations

import errno
import hashlib
import itertools
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache, wraps
from pathlib import Path
from typing import IO, Any, TypeVar

from pydantic import BaseModel

from memory.errors import StorageError

Stored = TypeVar("Stored", bound=BaseModel)

_SUFFIX = ".shaping-tmp"
TEMPORARY = r"\..+\.[a-z0-9_]{8}\.shaping-tmp"
"""Names of files that are being written, as a regular expression."""


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Create or replace `path` by what `write` puts into a binary handle.

    A reader sees the old file or the new one, never a part, also after a power loss: the data
    reach the disk before the rename, the rename before the return. Raises StorageError when the
    disk is full or read-only; the old file is untouched then.
    """
    with storing(path):
        make_folder(path.parent)
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.", suffix=_SUFFIX)
        temporary = Path(name)
        try:
            with os.fdopen(handle, "wb") as stream:
                write(stream)
                stream.flush()
                os.fsync(stream.fileno())
            temporary.chmod(0o644)
            temporary.replace(path)
            sync_folder(path.parent)
        finally:
            temporary.unlink(missing_ok=True)


def write_bytes(path: Path, data: bytes) -> None:
    """Write bytes atomically."""
    write_atomic(path, lambda handle: handle.write(data))


def write_json(path: Path, value: Any) -> None:
    """Write plain JSON atomically, indented, with a newline at the end."""
    text = json.dumps(value, indent=1, ensure_ascii=False, allow_nan=False)
    write_bytes(path, (text + "\n").encode())


def read_record(path: Path, kind: type[Stored]) -> Stored | None:
    """Return the record in a JSON file; None where the file is missing or damaged."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


Content = TypeVar("Content")


def cached_until_changed(read: Callable[[Path], Content]) -> Callable[[Path], Content]:
    """Cache what a function reads from a file, until its size or time of change differs."""

    @cache
    def read_version(path: Path, mtime_ns: int, n_bytes: int) -> Content:
        return read(path)

    @wraps(read)
    def read_cached(path: Path) -> Content:
        status = path.stat()
        return read_version(path, status.st_mtime_ns, status.st_size)

    return read_cached


def remove_temporaries(folder: Path) -> None:
    """Remove what writes that a crash broke off have left, in `folder` and below."""
    for path in folder.rglob(f".*{_SUFFIX}"):
        if re.fullmatch(TEMPORARY, path.name) and path.is_file():
            path.unlink()


def make_folder(folder: Path) -> None:
    """Create a folder, and those above it, so that they survive a power loss."""
    made = []
    above = folder
    while not above.exists():
        made.append(above)
        above = above.parent
    folder.mkdir(parents=True, exist_ok=True)
    for new in made:
        sync_folder(new.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def first_free(path_of: Callable[[int], Path]) -> Path:
    """Return the first path, numbered from 1, at which nothing is."""
    return next(path for n in itertools.count(1) if not (path := path_of(n)).exists())


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Raise StorageError when a file or folder at or below `path` cannot be made or changed."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> StorageError:
    """Explain why a file could not be written and what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return StorageError(
            f"The disk is full: {path} could not be written. Free some space and run the same "
            "command again; finished work is kept."
        )
    if error.errno in (errno.EROFS, errno.EACCES, errno.EPERM):
        return StorageError(
            f"{path} cannot be written ({os.strerror(error.errno)}). Choose another folder with "
            "--home or change its permissions."
        )
    if error.errno in (errno.ENOTDIR, errno.EEXIST):
        return StorageError(
            f"{path} cannot be written: a file is where a folder has to be. Choose another folder "
            "with --home or move that file away."
        )
    return StorageError(f"{path} could not be written: {error}. Run the same command again.")
