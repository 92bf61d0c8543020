"""Base classes of the events of a journal."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, SerializerFunctionWrapHandler, model_serializer

from memory.addresses import without_addresses

FAILURE = "tells of a failure, possibly with the address of a server"
FailureText = Annotated[str, FAILURE]
"""Text about an error or a wait; server addresses in it are hidden before it is journaled."""


Value = TypeVar("Value")
Occasional = Annotated[Value, Field(exclude_if=lambda value: not value)]
"""A field that is omitted from the line while it is empty, 0 or false."""


class AsGiven(BaseModel):
    """Base of models that are serialised with exactly the keys that they were created with.

    So a line that is read and written again is unchanged, even if fields were added since.
    """

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        allow_inf_nan=False,
        ser_json_inf_nan="constants",
        validate_by_name=True,
        serialize_by_alias=True,
    )

    @model_serializer(mode="wrap")
    def _given(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields, given = type(self).model_fields, self.model_fields_set | {"version", "kind"}
        keys = {fields[name].alias or name for name in given if name in fields}
        return {key: value for key, value in handler(self).items() if key in keys}

    def to_json(self) -> dict[str, Any]:
        """Return the given keys as plain JSON values."""
        return self.model_dump(mode="json")


class Event(AsGiven):
    """One line of a journal.

    Attributes:
        version: Version of the line format; other numbers are refused.
        time: UTC, ISO 8601, milliseconds; "" before the event is in a journal.
        kind: Kind of the event, see below.
        key: Key of an event that is written at most once, so that work that is repeated after a
            crash is recorded once. None for events that may recur.
        chain: Always last: 16 hex digits of SHA-256 over the `chain` of the line before ("" for
            the first) and this line without its `chain`. It locates a changed character and a
            removed or exchanged line. It is not a signature: a new chain can be computed for a
            rewritten journal, which `--verify` then detects by running the session again. "" in
            lines of early versions.
    """

    version: Literal[1] = Field(1, alias="schema")
    time: str = ""
    kind: str
    key: str | None = None
    chain: str = ""

    def hidden(self) -> Self:
        """Return the event without server addresses in the fields that are marked FAILURE."""
        marked = [n for n, f in type(self).model_fields.items() if FAILURE in f.metadata]
        given = {name: getattr(self, name) for name in marked if name in self.model_fields_set}
        changed = {name: _without_addresses(value) for name, value in given.items()}
        return self.model_copy(update=changed) if changed != given else self

    @property
    def round_number(self) -> int | None:
        """The round that the event belongs to, or None."""
        record = getattr(self, self.kind, None)
        number: int | None = getattr(self, "round", getattr(record, "round", None))
        return number

    def content(self) -> dict[str, Any]:
        """Return the fields other than `version`, `time`, `kind`, `key` and `chain`."""
        return {name: value for name, value in self.to_json().items() if name not in HEAD_KEYS}


def _without_addresses(value: Any) -> Any:
    if isinstance(value, str):
        return without_addresses(value)
    if isinstance(value, dict):
        return {key: _without_addresses(inner) for key, inner in value.items()}
    return value


class RoundEvent(Event):
    """An event of a round.

    Attributes:
        round: Number of the round, 0 before the first.
    """

    round: int = 0


class OutsideEvent(Event):
    """An event that is written outside the graph of a round, by a person or by the session itself.

    A replay copies it from the journal.
    """


class OtherEvent(OutsideEvent):
    """An event of a kind that this version does not know.

    Attributes:
        data: All other keys of the line.
    """

    data: dict[str, Any] = Field({})

    @property
    def round_number(self) -> int | None:
        """The round that the line names, or None."""
        number = self.data.get("round")
        return number if isinstance(number, int) else None

    def to_json(self) -> dict[str, Any]:
        """Return the line as plain JSON values."""
        line = super().to_json()
        content: dict[str, Any] = line.pop("data", {})
        return line | content


# The supported `version`.
SCHEMA = 1
HEAD_KEYS = frozenset(["schema", *Event.model_fields]) - {"version"}
