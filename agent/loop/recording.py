"""What a journal holds beside its records, so that a session can be run again without its tools.

`head` goes into the event `session`, `pack` into the event `opening` of every round, `offer` into
the event `tools` of every set of tools that was offered. docs/journal.md describes all events.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from pydantic import TypeAdapter

from agent.brains.actions import as_plain_messages, storable
from agent.loop.context import Facts
from memory.errors import SessionError
from memory.journal import RECORD_VERSION
from memory.records import Report, Round, digest
from prompts.render import source
from prompts.vocabulary import Vocabulary

if TYPE_CHECKING:
    from tools.targets import Target

# The prompt files that a session shows to its brain.
TEMPLATES = ("system", "observation", "json_action")

Json = dict[str, Any]

# Known from the target, or a record that the journal holds already: packed as its round's number.
_ELSEWHERE = ("target", "class_names", "vocabulary", "report", "previous", "failures", "verdict")
_FACTS = TypeAdapter(Facts)


class Described(Protocol):
    """What of a target a brain is told."""

    @property
    def name(self) -> str:
        """Name of the target."""

    @property
    def class_names(self) -> Sequence[str]:
        """Classes of its images."""

    @property
    def vocabulary(self) -> Vocabulary:
        """Its words."""


def head(target: Target, interactive: bool) -> Json:
    """Return what the event `session` says beside settings and palette."""
    return {
        "record": RECORD_VERSION,
        "interactive": interactive,
        "class_names": list(target.class_names),
        "vocabulary": target.vocabulary.model_dump(mode="json"),
        "templates": {name: source(name) for name in TEMPLATES},
    }


def pack(facts: Facts, past: Sequence[Round]) -> Json:
    """Return facts as plain JSON, records by the number of their round."""
    packed: Json = _FACTS.dump_python(facts, mode="json", exclude=set(_ELSEWHERE))
    reports = [r.number for r in past if r.report]
    safe: Json = storable(packed)
    return safe | {"reports": reports[-2:], "past": past[-1].number if past else None}


def unpack(packed: Mapping[str, Any], past: Sequence[Round], target: Described) -> Facts:
    """Return the facts that were packed; `past` are the rounds that the journal holds.

    Raises SessionError when they are of another version.
    """
    by_number = {r.number: r for r in past}
    try:
        reports: list[Report | None] = [by_number[n].report for n in packed["reports"]]
        last = by_number[packed["past"]] if packed["past"] else None
        known = {
            "target": target.name,
            "class_names": target.class_names,
            "vocabulary": target.vocabulary,
            "report": reports[-1] if reports else None,
            "previous": reports[-2] if len(reports) > 1 else None,
            "failures": last.failures if last else (),
            "verdict": last.verdict if last else None,
        }
        values = {k: v for k, v in packed.items() if k not in ("reports", "past")}
        unknown = values.keys() - {field.name for field in dataclasses.fields(Facts)}
        if unknown:
            raise ValueError(f"unknown facts {sorted(unknown)}")
        return _FACTS.validate_python(values | known)
    except (KeyError, ValueError) as error:
        raise SessionError(
            f"The journal holds an opening that this version cannot read ({error}); continue the "
            "session with the version that began it."
        ) from error


def offer(tools: Sequence[Json], mode: str) -> tuple[str, Json]:
    """Return the name of a set of tools and what the event `tools` says of it.

    Models that answer by JSON are told the tools in words, which are part of it.
    """
    told: Json = {"mode": mode, "tools": list(tools)}
    if mode == "json":
        told["said"] = str(as_plain_messages([], tools)[-1].content)
    return digest(told), told
