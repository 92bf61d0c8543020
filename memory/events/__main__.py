"""Generates docs/journal.md from the docstrings of the events.

python -m memory.events > docs/journal.md
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from types import ModuleType

from pydantic import BaseModel

from memory import events
from memory.events import KINDS, Event, brain, person, results, session

_SECTIONS = {"The session": session, "The brain": brain, "Results": results, "People": person}
_PARTS = (events.Message, events.ToolRequest, events.Tokens)


def render() -> str:
    """Return the text of docs/journal.md."""
    intro = inspect.cleandoc(events.__doc__ or "")
    lines = [f"# {intro}", "", "## Every line", "", *_fields(Event), ""]
    for title, module in _SECTIONS.items():
        lines += [f"## {title}", "", inspect.cleandoc(module.__doc__ or ""), ""]
        for event in _events_of(module):
            lines += [f"### `{events.kind_of(event)}`", "", *_class(event)]
    lines += ["## Parts of events", ""]
    for part in _PARTS:
        lines += [f"### {part.__name__}", "", *_class(part)]
    return "\n".join(lines)


def described(model: type[BaseModel]) -> dict[str, str]:
    """Return the descriptions of fields from the docstrings of a class and its bases."""
    texts: dict[str, str] = {}
    for base in reversed(model.__mro__[: -len(BaseModel.__mro__)]):
        _, _, section = inspect.cleandoc(base.__doc__ or "").partition("\nAttributes:\n")
        for entry in re.split(r"\n(?=    \w)", f"\n{section}")[1:]:
            name, _, text = entry.strip().partition(": ")
            texts[name] = " ".join(text.split())
    return texts


def _events_of(module: ModuleType) -> list[type[Event]]:
    kinds = {
        event.__name__: event for event in KINDS.values() if event.__module__ == module.__name__
    }
    return [kinds[name] for name in vars(module) if name in kinds]


def _class(model: type[BaseModel]) -> Iterator[str]:
    text, _, _ = inspect.cleandoc(model.__doc__ or "").partition("\n\nAttributes:")
    yield from (text, "")
    if rows := list(_fields(model)):
        yield from (*rows, "")


def _fields(model: type[BaseModel]) -> Iterator[str]:
    """Yield list items that describe the fields of a class, named as in the file."""
    texts = described(model)
    inherited = Event.model_fields if issubclass(model, Event) and model is not Event else {}
    for name, field in model.model_fields.items():
        if name not in inherited:
            kind = re.sub(r"\b(?:\w+\.)+(?=\w)", "", inspect.formatannotation(field.annotation))
            attribute = f", attribute `{name}`" if field.alias else ""
            yield f"- `{field.alias or name}` ({kind}{attribute}): {texts[name]}"


if __name__ == "__main__":
    sys.stdout.write(render())
