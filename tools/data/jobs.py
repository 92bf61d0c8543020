"""Long work that can be killed and started again: same arguments, same result, nothing twice.

A job's folder holds `job.json` (the arguments) and, once it has finished, `result.json`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from memory.errors import SessionError
from memory.files import write_bytes, write_json
from memory.records import Round, digest

JSON = Any  # plain JSON: what json.dumps takes and json.loads returns


def job_id(session: str, number: int, tool: str, arguments: JSON) -> str:
    """Return the name of a job, 16 hex digits: the same call in a round has the same name."""
    return digest([session, number, tool, arguments])


def round_folder(session_folder: Path, number: int) -> Path:
    """Return the folder with the data, model and pictures of a round."""
    return session_folder / "rounds" / f"{number:03d}"


def shards_of(session_folder: Path, rounds: Iterable[Round]) -> list[Path]:
    """Return the shards of all images of some rounds of a session, in order."""
    return [session_folder / s.file for r in rounds if r.batch for s in r.batch.shards]


def run_once(folder: Path, arguments: JSON, work: Callable[[], JSON]) -> JSON:
    """Return the stored result of a job, or do its work and store the result.

    Args:
        folder: Of the job.
        arguments: Stored beside the result.
        work: Returns the result. It may have been interrupted before, and continues from the
            files that exist.

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
    """Create those of `paths` that do not exist, in order and atomically.

    Args:
        paths: Of the files.
        make: Returns the content of the file at an index.
        done: Called with the number of files that exist, those of an earlier run included.
    """
    for index, path in enumerate(paths):
        if not path.exists():
            write_bytes(path, make(index))
        done(index + 1)
