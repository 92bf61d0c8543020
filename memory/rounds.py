"""Construction of `Round` records from the events of a journal."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import Any

from memory.events import (
    KINDS,
    Event,
    FailuresEvent,
    FallbackEvent,
    ReportEvent,
    StageEvent,
    TrainingEvent,
    kind_of,
)
from memory.records import Round

# Kinds of events that a round is folded from; fields of `Round` are named by the kind.
FOLDED = (Round.model_fields.keys() & KINDS.keys()) | {
    kind_of(StageEvent),
    kind_of(FallbackEvent),
}
# Kinds of events that round 0 is folded from.
_OF_BASELINE = frozenset(
    kind_of(event) for event in (TrainingEvent, ReportEvent, FailuresEvent, StageEvent)
)


def is_folded(kind: str, number: int | None) -> bool:
    """Return whether events of a kind are folded into a round; number: its number, None: none."""
    if number is None:
        return False
    return kind in (FOLDED if number else _OF_BASELINE)


class RoundFold:
    """Rounds folded incrementally from events; only rounds with new events are folded again."""

    def __init__(self, events: Iterable[Event] = ()) -> None:
        self._events: dict[int, list[Event]] = defaultdict(list)
        self._rounds: dict[int, Round] = {}
        for event in events:
            self.add(event)

    def add(self, event: Event) -> None:
        """Add the next event."""
        number = event.round_number
        if number is not None and is_folded(event.kind, number):
            self._events[number].append(event)
            self._rounds.pop(number, None)

    def rounds(self) -> list[Round]:
        """Return the rounds so far, see `memory.journal.rounds`."""
        for number in self._events.keys() - self._rounds.keys():
            self._rounds[number] = fold(number, self._events[number])
        return [self._rounds[number] for number in sorted(self._rounds)]


def fold(number: int, events: Iterable[Event]) -> Round:
    """Return a round from its events, all of the kinds FOLDED."""
    parts: dict[str, Any] = {}
    seconds: dict[str, float] = {}
    n_fallbacks = 0
    for event in events:
        if isinstance(event, StageEvent):
            seconds[event.stage] = seconds.get(event.stage, 0.0) + event.seconds
        elif isinstance(event, FallbackEvent):
            n_fallbacks += 1
        else:
            parts[event.kind] = getattr(event, event.kind)
    return Round(number=number, seconds=seconds, fallbacks=n_fallbacks, **parts)
