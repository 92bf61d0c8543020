"""Resumable jobs: a repeated call with the same arguments returns the stored result.

The folder of a job holds `job.json` (its arguments) and, once finished, `result.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from memory.errors import SessionError
from memory.files import write_bytes, write_json
from memory.records import Round, digest

JSON = Any  # JSON values


def job_id(session: str, number: int, tool: str, arguments: JSON) -> str:
    """Return the id of a job, 16 hex digits; equal calls in a round have equal ids."""
    return digest([session, number, tool, arguments])


def round_folder(session_folder: Path, number: int) -> Path:
    """Return the folder with the data, model and pictures of a round."""
    return session_folder / "rounds" / f"{number:03d}"


def shards_of(session_folder: Path, rounds: Iterable[Round]) -> list[Path]:
    """Return the shards of generated images of some rounds, in order."""
    return [session_folder / s.file for r in rounds if r.batch for s in r.batch.shards]


def run_once(folder: Path, arguments: JSON, work: Callable[[], JSON]) -> JSON:
    """Return the stored result of a job, or run it and store the result.

    Args:
        folder: Folder of the job.
        arguments: Arguments of the job, stored beside the result.
        work: Computes the result; after an interruption it continues from existing files.

    Raises:
        SessionError: The stored result cannot be read.
    """
    result_path = folder / "result.json"
    if result_path.exists():
        try:
            return json.loads(result_path.read_bytes())
        except ValueError as error:
            raise SessionError(
                f"The result of a job is damaged: {result_path} ({error}). Delete this file and "
                "run the same command again; only this job is repeated."
            ) from error
    write_json(folder / "job.json", arguments)
    result = work()
    write_json(result_path, result)
    return result


def write_missing(
    paths: Sequence[Path], make: Callable[[int], bytes], done: Callable[[int], None]
) -> None:
    """Create the missing files of `paths`, in order and atomically.

    Args:
        paths: Paths of the files.
        make: Called with an index; returns the content of that file.
        done: Called with the number of existing files, including those of earlier runs.
    """
    for index, path in enumerate(paths):
        if not path.exists():
            write_bytes(path, make(index))
        done(index + 1)
