from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import BaseModel, ValidationError

from memory import events
from memory.events import KINDS, Event, OtherEvent, PlanEvent, parse_event
from memory.events.__main__ import described, render

ROOT = Path(__file__).parents[2]
JOURNALS = sorted((ROOT / "tests" / "data" / "sessions").glob("*/journal.jsonl"))


def test_the_page_is_made_from_the_classes() -> None:
    page = (ROOT / "docs" / "journal.md").read_text("utf-8")
    assert page == render(), "python -m memory.events > docs/journal.md"


@pytest.mark.parametrize(
    "model", [Event, *KINDS.values(), events.Message, events.ToolRequest, events.Tokens]
)
def test_every_field_is_described(model: type[BaseModel]) -> None:
    assert model.__doc__
    assert set(described(model)) == set(model.model_fields)


def test_every_kind_has_one_class() -> None:
    assert len(KINDS) == 36
    assert all(kind == events.kind_of(event) for kind, event in KINDS.items())


@pytest.mark.parametrize("path", JOURNALS, ids=lambda path: path.parent.name)
def test_lines_are_written_as_they_were_read(path: Path) -> None:
    for line in path.read_text("utf-8").splitlines():
        event = parse_event(line)
        assert type(event) is KINDS[event.kind]
        data = event.to_json()
        chain = data.pop("chain")
        text = json.dumps(data | {"chain": chain}, ensure_ascii=False)
        assert text == line


def test_what_a_version_does_not_know_is_left_out() -> None:
    prompt = {"id": "p", "text": "a cell", "class_name": "functional", "count": 5, "mood": "blue"}
    plan = {"round": 2, "author": "uniform", "prompts": [prompt], "weather": [1]}
    event = parse_event(json.dumps({"schema": 1, "kind": "plan", "plan": plan, "more": {}}))
    assert isinstance(event, PlanEvent)
    assert event.plan.prompts[0].count == 5
    assert (event.round_number, event.max_tokens, event.time) == (2, 0, "")


def test_a_kind_that_a_version_does_not_know_is_kept() -> None:
    line = {"schema": 1, "time": "", "kind": "party", "key": "k", "round": 3, "guests": ["a"]}
    event = parse_event(json.dumps(line))
    assert isinstance(event, OtherEvent)
    assert event.to_json() == line
    assert event.round_number == 3


@pytest.mark.parametrize(
    "line",
    [
        "[]",
        "{}",
        '{"schema": 2, "kind": "party"}',
        '{"schema": 2, "kind": "cleared"}',
        '{"schema": 1, "kind": 3}',
        '{"schema": 1, "kind": "undone"}',
        "garbage",
    ],
)
def test_what_is_no_event_is_refused(line: str) -> None:
    with pytest.raises(ValidationError):
        parse_event(line)


def test_events_cannot_be_changed_or_made_of_unknown_keys() -> None:
    event = events.GeneratorEvent(identity="one")
    with pytest.raises(ValidationError):
        event.identity = "two"  # type: ignore[misc]
    with pytest.raises(ValidationError):
        events.GeneratorEvent(identity="one", colour="red")  # type: ignore[call-arg]
