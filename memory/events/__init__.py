"""The journal: the record of a session, one event per line.

`sessions/NAME/journal.jsonl` is append-only, and an event is recorded once it is on the disk. Every
line is a JSON object in UTF-8, so that it can be read with common tools:

    pandas.read_json("journal.jsonl", lines=True)

`shaping trace NAME --to csv` writes tidy tables of it, `shaping replay NAME --verify` checks it,
see [Replay and traces](guides/replay.md). Programs read it as objects of these classes, see
`memory.journal`. Keys that a version does not know are ignored, missing keys have defaults.

This page is made from the docstrings in `memory/events`: python -m memory.events > docs/journal.md
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, Union

from pydantic import Field, TypeAdapter, ValidationError
from pydantic_core import PydanticUndefined

from memory.events.base import HEAD_KEYS
from memory.events.base import SCHEMA as SCHEMA
from memory.events.base import Event as Event
from memory.events.base import OtherEvent as OtherEvent
from memory.events.base import OutsideEvent as OutsideEvent
from memory.events.base import RoundEvent as RoundEvent
from memory.events.brain import *
from memory.events.person import *
from memory.events.results import *
from memory.events.session import *


def kind_of(event: type[Event]) -> str:
    """Return the value of `kind` in lines of an event class."""
    return str(event.model_fields["kind"].default)


def parse_event(line: bytes | str) -> Event:
    """Parse a line into an event.

    Unknown keys are dropped; an event of an unknown kind keeps all keys in `OtherEvent`. Raises
    ValueError for a line that is not an event of this schema.
    """
    try:
        return _ANY.validate_json(line, extra="ignore")
    except ValidationError as error:
        if error.errors(include_url=False)[0]["type"] != "union_tag_invalid":
            raise
    data = json.loads(line)
    head = {name: data.pop(name) for name in HEAD_KEYS & data.keys()}
    return OtherEvent.model_validate({**head, "data": data})


def _classes(base: type[Event]) -> Iterator[type[Event]]:
    for event in base.__subclasses__():
        if event.model_fields["kind"].default is not PydanticUndefined:
            yield event
        yield from _classes(event)


KINDS = {kind_of(event): event for event in _classes(Event)}
_Any: Any = Annotated[Union[tuple(KINDS.values())], Field(discriminator="kind")]  # noqa: UP007
_ANY: TypeAdapter[Event] = TypeAdapter(_Any)
