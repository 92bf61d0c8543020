"""Atomic file writes: temporary file, fsync, rename."""

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
"""Regular expression of the names of temporary files."""


def write_atomic(path: Path, write: Callable[[IO[bytes]], object]) -> None:
    """Create or replace `path` atomically with the content that `write` writes to a binary handle.

    A reader sees the old file or the new one, never a part of it, also after a power loss: the data
    are on the disk before the rename, the rename before the return. Raises StorageError if the disk
    is full or read-only; the old file is then unchanged.
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
    """Return the record in a JSON file; None if the file is missing or damaged."""
    try:
        return kind.model_validate_json(path.read_bytes())
    except (OSError, ValueError):
        return None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file as hex digits."""
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


Content = TypeVar("Content")


def cached_until_changed(read: Callable[[Path], Content]) -> Callable[[Path], Content]:
    """Cache the result of reading a file until its size or modification time changes."""

    @cache
    def read_version(path: Path, mtime_ns: int, n_bytes: int) -> Content:
        return read(path)

    @wraps(read)
    def read_cached(path: Path) -> Content:
        status = path.stat()
        return read_version(path, status.st_mtime_ns, status.st_size)

    return read_cached


def remove_temporaries(folder: Path) -> None:
    """Remove the temporary files of interrupted writes in `folder` and below."""
    for path in folder.rglob(f".*{_SUFFIX}"):
        if re.fullmatch(TEMPORARY, path.name) and path.is_file():
            path.unlink()


def make_folder(folder: Path) -> None:
    """Create a folder and its missing parents so that they survive a power loss."""
    created = []
    above = folder
    while not above.exists():
        created.append(above)
        above = above.parent
    folder.mkdir(parents=True, exist_ok=True)
    for new in created:
        sync_folder(new.parent)


def sync_folder(folder: Path) -> None:
    """Make renames inside a folder survive a power loss."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def first_free(path_of: Callable[[int], Path]) -> Path:
    """Return the first path that does not exist, trying numbers from 1 on."""
    return next(path for n in itertools.count(1) if not (path := path_of(n)).exists())


@contextmanager
def storing(path: Path) -> Iterator[None]:
    """Convert an OSError of the context to a StorageError that names `path`."""
    try:
        yield
    except OSError as error:
        raise storage_error(path, error) from error


def storage_error(path: Path, error: OSError) -> StorageError:
    """Return a StorageError that explains why a path cannot be written and what to do."""
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
