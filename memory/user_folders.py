"""Folders shared with the user, in which the program replaces and removes only its own files.

The record `.shaping-files.json` lists the files that the program wrote, with their SHA-256. A file
that the record does not list or that has other content belongs to the user.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from memory.errors import SettingsError, some
from memory.files import TEMPORARY, first_free, sha256_of, storing, write_json

RECORD = ".shaping-files.json"
_SHOWN = 5

# SHA-256 of files by path relative to the folder; None: the file is being written.
FileDigests = Mapping[str, str | None]


def refuse_foreign(
    folder: Path, marker: str, begun: Collection[str] = (), instead: str = "--output"
) -> None:
    """Raise SettingsError if a folder without `marker` contains foreign files.

    Args:
        folder: Need not exist.
        marker: Name of the file that marks a folder of the program.
        begun: Names that the program may write before the marker, as regular expressions.
        instead: Option with which the user can choose another folder.
    """
    with storing(folder):
        entries = sorted(path.name for path in folder.iterdir()) if folder.is_dir() else []
    if (folder / marker).is_file():
        return
    allowed = [re.compile(name) for name in (*begun, TEMPORARY)]
    if foreign := [name for name in entries if not any(a.fullmatch(name) for a in allowed)]:
        raise SettingsError(
            f"The folder {folder} holds what this program did not write: {some(foreign, _SHOWN)}. "
            f"Nothing was changed. Move it elsewhere, or name another one with {instead}."
        )


def refuse_taken(folder: Path, names: Collection[str]) -> None:
    """Raise SettingsError if a folder contains a file of the user with one of these names."""
    before = _read(folder)
    if foreign := [name for name in names if _is_foreign(folder, name, before)]:
        raise SettingsError(
            f"{some(foreign, _SHOWN)} in {folder} would be overwritten, and this program did not "
            "write what is there, or it was changed since. Nothing was changed. Move it elsewhere, "
            "or name another place with --output."
        )


@contextmanager
def writing(folder: Path, names: Collection[str], replaces: str = "") -> Iterator[None]:
    """Record the files of these names, which the caller writes in the context, as the program's.

    Args:
        folder: The folder; its other files are left unchanged.
        names: Names of the files.
        replaces: Regular expression of names of recorded files to remove afterwards.

    Raises:
        SettingsError: See `refuse_taken`.
    """
    refuse_taken(folder, names)
    before = _read(folder)
    with storing(folder):
        write_json(folder / RECORD, {**before, **dict.fromkeys(names)})
    try:
        yield
    finally:
        with storing(folder):
            new = {name: sha256_of(folder / name) for name in names if (folder / name).is_file()}
            kept = {name: value for name, value in before.items() if name not in names}
            for name in [name for name in kept if re.fullmatch(replaces, name)]:
                if not _is_foreign(folder, name, before):
                    (folder / name).unlink(missing_ok=True)
                del kept[name]
            write_json(folder / RECORD, {**kept, **new})


@contextmanager
def replacing(folder: Path) -> Iterator[Path]:
    """Yield a new folder, whose files afterwards replace those of the last call in `folder`.

    Files of the user are kept; one with the path of a new file is renamed to `NAME.kept-N`.
    """
    stage = folder.with_name(f".{folder.name}.shaping-new")
    with storing(folder):
        shutil.rmtree(stage, ignore_errors=True)
        stage.mkdir(parents=True)
    try:
        yield stage
        with storing(folder):
            _move(stage, folder)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _move(stage: Path, folder: Path) -> None:
    folder.mkdir(exist_ok=True)
    written = {
        path.relative_to(stage).as_posix(): sha256_of(path)
        for path in sorted(stage.rglob("*"))
        if path.is_file()
    }
    before = _read(folder)
    for name in written:
        for parent in list(Path(name).parents)[-2::-1]:
            if (folder / parent).is_symlink() or (folder / parent).is_file():
                _set_aside(folder / parent)
        same = (folder / name).is_file() and sha256_of(folder / name) == written[name]
        if not same and _is_foreign(folder, name, before):
            _set_aside(folder / name)
    # Written first, so that files that a crash leaves behind are recorded as the program's.
    write_json(folder / RECORD, {**before, **dict.fromkeys(written)})
    for name in written:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (stage / name).replace(folder / name)
    for name in before.keys() - written.keys():
        if not _is_foreign(folder, name, before):
            (folder / name).unlink(missing_ok=True)
    write_json(folder / RECORD, written)


def _set_aside(path: Path) -> None:
    path.rename(first_free(lambda n: path.with_name(f"{path.name}.kept-{n}")))


def _is_foreign(folder: Path, name: str, record: FileDigests) -> bool:
    """Return whether a path exists and differs from the record."""
    path = folder / name
    if not path.exists() and not path.is_symlink():
        return False
    if name not in record or path.is_symlink() or not path.is_file():
        return True
    return record[name] is not None and record[name] != sha256_of(path)


def _read(folder: Path) -> dict[str, str | None]:
    """Return the record of a folder; {} if it is missing or damaged."""
    try:
        record = json.loads((folder / RECORD).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}
    if not isinstance(record, dict):
        return {}
    return {
        name: value
        for name, value in record.items()
        if (value is None or isinstance(value, str)) and _is_below(name)
    }


def _is_below(name: str) -> bool:
    return not Path(name).is_absolute() and ".." not in Path(name).parts
