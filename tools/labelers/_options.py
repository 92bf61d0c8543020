"""The options of a labeler, checked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TypeVar

from pydantic import ValidationError

from memory.errors import SettingsError
from memory.records import Record, first_problem

Options = TypeVar("Options", bound=Record)


def read_options(labeler: str, kind: type[Options], options: Mapping[str, object]) -> Options:
    """Return `labeler.options` of a labeler; raises SettingsError that names the key."""
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        key, problem = first_problem(error)
        given = error.errors()[0]["input"]
        raise SettingsError(
            f"labeler.options.{key} cannot be {given!r}: {problem}. The labeler {labeler!r} knows "
            f"{', '.join(kind.model_fields)}."
        ) from error
