from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import IO

import pytest

from memory.errors import SettingsError, ShapingError, StorageError, unknown
from memory.files import storage_error, write_atomic, write_bytes, write_json


def test_files_are_created_and_replaced_with_their_folders(tmp_path: Path) -> None:
    path = tmp_path / "a" / "b" / "file.bin"
    write_bytes(path, b"one")
    write_bytes(path, b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(path.parent.iterdir()) == [path]


def test_json_is_plain_and_ends_with_a_newline(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    write_json(path, {"ü": [1, None]})
    text = path.read_text("utf-8")
    assert json.loads(text) == {"ü": [1, None]}
    assert "ü" in text and text.endswith("\n")
    with pytest.raises(ValueError):
        write_json(path, float("nan"))
    assert path.read_text("utf-8") == text


@pytest.mark.parametrize(
    ("number", "says"),
    [
        (errno.ENOSPC, "The disk is full"),
        (errno.EDQUOT, "The disk is full"),
        (errno.EROFS, "--home"),
        (errno.EIO, "Run the same command again"),
    ],
)
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, number: int, says: str) -> None:
    path = tmp_path / "x"
    write_bytes(path, b"old")

    def write(handle: IO[bytes]) -> None:
        handle.write(b"half")
        raise OSError(number, "simulated")

    with pytest.raises(StorageError, match=says):
        write_atomic(path, write)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_at_the_flush(tmp_path: Path) -> None:
    # /dev/full takes the bytes and refuses them at the flush, as a full disk does.
    path = tmp_path / "x"

    def write(handle: IO[bytes]) -> None:
        with open("/dev/full", "wb") as full:
            full.write(b"data")

    with pytest.raises(StorageError, match="The disk is full"):
        write_atomic(path, write)
    assert list(tmp_path.iterdir()) == []


def test_other_errors_pass_and_leave_nothing(tmp_path: Path) -> None:
    def write(handle: IO[bytes]) -> None:
        raise KeyError("a fault of the caller")

    with pytest.raises(KeyError):
        write_atomic(tmp_path / "x", write)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(StorageError, match="file/x"):
        write_bytes(tmp_path / "file" / "x", b"")


def test_storage_errors_are_for_the_user() -> None:
    error = storage_error(Path("x"), OSError(errno.EACCES, "no"))
    assert isinstance(error, ShapingError)
    assert "Permission denied" in str(error)


def test_unknown_names_the_near_ones() -> None:
    text = unknown("planner", "tompson", ["uniform", "thompson"])
    assert text == ("Unknown planner 'tompson'. Did you mean 'thompson'? Known: thompson, uniform.")
    assert unknown("planner", "x", []) == "Unknown planner 'x'. Known: none."
    assert issubclass(SettingsError, ShapingError)
