"""Items of the memory: prompts, failures and lessons from a session's events."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError

from memory.errors import SessionError, StorageError, some
from memory.events import Event, ForkedEvent, LessonEvent
from memory.journal import find_head, name_of, read_events, rounds
from memory.records import Record

Kind = Literal["prompt", "failure", "lesson"]
Data = dict[str, float | str | bool]
# Prefixes of the keys of a prompt's credit per 100 images and of its standard error, by slice.
CREDIT, ERROR = "credit ", "error of "
_SHOWN = 3


class MemoryItem(Record):
    """An entry of the memory; searches compare `text`."""

    id: str
    kind: Kind
    text: str
    target: str
    session: str
    round: int
    data: Data = Field(default_factory=dict)

    @property
    def credits(self) -> dict[str, float]:
        """The credit of a prompt by slice: change of the accuracy per 100 images."""
        return {
            name.removeprefix(CREDIT): float(value)
            for name, value in self.data.items()
            if name.startswith(CREDIT) and isinstance(value, float | int)
        }

    def describe(self) -> str:
        """Return the text with its data, for people and chat models."""
        figures = []
        for name, value in self.data.items():
            if name.startswith(ERROR):
                continue
            error = self.data.get(f"{ERROR}{name.removeprefix(CREDIT)}")
            figure = f"{name} {value:.3g}" if type(value) is float else f"{name} {value}"
            figures.append(f"{figure} +-{error:.2g}" if type(error) is float else figure)
        return f"{self.text} ({', '.join(figures)})" if self.data else self.text


class SearchHit(Record):
    """A result of a search, with the cosine similarity of its text to the query, -1..1."""

    item: MemoryItem
    similarity: float


def readable_items(
    journals: Iterable[Path], tell: Callable[[str], None]
) -> tuple[list[MemoryItem], list[str]]:
    """Return the items of journals, in order, and the names of sessions with unreadable journals.

    tell: called with a message about the latter, which are skipped.
    """
    items: list[MemoryItem] = []
    damaged, skipped = [], []
    for path in journals:
        try:
            items += items_from_events(read_events(path))
        except (SessionError, StorageError) as error:
            damaged.append(path.parent.name)
            skipped.append(f"{path.parent.name}: {error}")
    if skipped:
        tell(f"Journals of {len(skipped)} sessions were not read. {some(skipped, _SHOWN, ' ')}")
    return items, damaged


def read_item(text: object) -> MemoryItem | None:
    """Return an item from its JSON; None if it is damaged or has fields of another version."""
    try:
        return MemoryItem.model_validate_json(str(text))
    except ValidationError:
        return None


def items_from_events(events: Iterable[Event]) -> list[MemoryItem]:
    """Return the items of a session's events; [] without a `HeadEvent`.

    The items are the prompts with generated images, with `n_made`, `kept_rate` and for every
    credited slice `credit SLICE` (change per 100 images) and `error of SLICE`; the significant
    failures with their figures; and the lessons. Rounds that a fork shares with its source belong
    to the source.
    """
    events = list(events)
    head = find_head(events)
    if head is None:
        return []
    session, target = name_of(head, events), head.target
    first = max((event.at for event in events if isinstance(event, ForkedEvent)), default=0)

    def item(kind: Kind, name: str, text: str, round_number: int, data: Data) -> MemoryItem:
        return MemoryItem(
            id=f"{session}/{kind}/{name}",
            kind=kind,
            text=text,
            target=target,
            session=session,
            round=round_number,
            data=data,
        )

    items = []
    for done in rounds(events):
        if done.number < first:
            continue
        quality = {q.prompt_id: q for q in done.batch.quality if q.n_made} if done.batch else {}
        for prompt in done.plan.prompts if done.plan else ():
            if audit := quality.get(prompt.id):
                data: Data = {"n_made": audit.n_made, "kept_rate": audit.n_kept / audit.n_made}
                for credit in done.credits:
                    if credit.prompt_id == prompt.id:
                        data[f"{CREDIT}{credit.slice}"] = credit.change_per_100
                        if credit.error is not None:
                            data[f"{ERROR}{credit.slice}"] = credit.error
                items.append(item("prompt", prompt.id, prompt.text, done.number, data))
        for failure in done.failures:
            if failure.significant:
                words = ", ".join(f"{value} {name}" for name, value in failure.attributes.items())
                text = (
                    f"the model often errs on photographs with {words or 'what no attribute says'}"
                )
                data = {
                    "n": failure.n,
                    "error_rate": failure.error_rate.value,
                    "rest_error_rate": failure.rest_error_rate,
                    "q_value": failure.q_value,
                }
                name = f"{done.number}/{failure.id}"
                items.append(item("failure", name, text, done.number, data))
    for event in events:
        if isinstance(event, LessonEvent) and event.lesson.round >= first:
            lesson = event.lesson
            shown = {"slice": lesson.slice, "held": lesson.held}
            data = {name: value for name, value in shown.items() if value is not None}
            items.append(item("lesson", lesson.id, lesson.text, lesson.round, data))
    return items
