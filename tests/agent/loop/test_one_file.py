"""A new planner and a new brain are one file and nothing else; each runs a session."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from agent.autonomous.runner import run
from agent.config.settings import Settings
from agent.session.folder import folder_of
from memory.errors import SettingsError
from memory.events import Event, ModelCallEvent
from memory.journal import read_events, rounds
from tools.plugins import names

MakeSettings = Callable[..., Settings]
AddFile = Callable[[str, str, str], None]

MAJORITY = '''
"""Majority: the most frequent combination of attributes gets all images."""

import random

from agent.planners import PlanDraft
from agent.planners.slices import draw_prompts


class Majority:
    name = "majority"

    def __init__(self, n_rows):
        self._n_rows = n_rows

    def plan(self, observation, distribution, vocabulary):
        rows, rng = distribution.rows[: self._n_rows], random.Random(observation.seed)
        n_images, per_prompt = observation.n_images, observation.images_per_prompt
        prompts = draw_prompts(rows, n_images, per_prompt, vocabulary, rng, "frequent")
        return PlanDraft(prompts=tuple(prompts), why="The majority.")


def build(n_rows=1):
    return Majority(n_rows)
'''
# Calls the tool that ends the phase, as a brain of its own or as a chat model.
EAGER = '''
"""Eager: calls the tool that ends the phase."""

from langchain_core.messages import AIMessage, ToolCall


class Eager:
    mode = "native"

    def __init__(self, text):
        self._text = text

    def decide(self, turn):
        name = turn.legal[-1]
        texts = (self._text, "an intact mono cell", "an intact dark poly cell")
        prompts = [{"text": text, "count": 8} for text in texts]
        arguments = {"propose_plan": {"prompts": prompts}, "finish": {"summary": "done"}}
        call = ToolCall(name=name, args=arguments.get(name, {}), id=f"c{turn.number}")
        return AIMessage("", tool_calls=[call])


def build(argument, context):
    return Eager(argument)
'''
CHATTY = '''
"""Chatty: a chat model that knows its answers by heart."""

from langchain_core.language_models.fake_chat_models import FakeMessagesListChatModel
from langchain_core.messages import AIMessage, ToolCall


class ChattyModel(FakeMessagesListChatModel):
    def bind_tools(self, tools, **kwargs):
        assert [tool["function"]["name"] for tool in tools]
        return self


def build(argument, context):
    texts = (argument, "an intact mono cell", "an intact dark poly cell")
    prompts = [{"text": text, "count": 8} for text in texts]
    calls = [("propose_plan", {"prompts": prompts}), ("finish", {"summary": "done"})]
    return ChattyModel(
        responses=[
            AIMessage("", tool_calls=[ToolCall(name=name, args=arguments, id=f"c{n}")])
            for n, (name, arguments) in enumerate(calls)
        ]
    )
'''


@pytest.fixture
def add_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[AddFile]:
    """Add a file to a package, by a folder that the package consists of beside its own."""
    added: list[str] = []

    def add(package: str, name: str, text: str) -> None:
        folder = tmp_path / package
        folder.mkdir()
        (folder / f"{name}.py").write_text(text, encoding="utf-8")
        module = importlib.import_module(package)
        monkeypatch.setattr(module, "__path__", [*module.__path__, str(folder)])
        importlib.invalidate_caches()
        added.append(f"{package}.{name}")

    yield add
    for name in added:
        sys.modules.pop(name, None)


def play(settings: Settings) -> list[Event]:
    run(settings, Console(quiet=True))
    return read_events(folder_of(settings.home, settings.session.name or "") / "journal.jsonl")


@pytest.mark.parametrize("options", ["", ":n_rows=40"])
def test_a_new_planner(make_settings: MakeSettings, add_file: AddFile, options: str) -> None:
    add_file("agent.planners", "majority", MAJORITY)
    assert "majority" in names("agent.planners")
    brain = f"policy:majority{options}"
    events = play(make_settings("session.name=new", "session.rounds=2", f"brain={brain}"))
    both = rounds(events)
    assert len(both) == 2
    for current in both:
        assert current.plan is not None and current.report is not None
        assert (current.plan.author, current.plan.why) == (brain, "The majority.")
        asked = {tuple(sorted(p.attributes.items())) for p in current.plan.prompts}
        assert (len(asked) > 1) == bool(options)
    with pytest.raises(SettingsError, match="majority"):
        play(make_settings("session.name=wrong", "brain=policy:majorty"))


@pytest.mark.parametrize(("name", "text"), [("eager", EAGER), ("chatty", CHATTY)])
def test_a_new_brain(make_settings: MakeSettings, add_file: AddFile, name: str, text: str) -> None:
    add_file("agent.brains", name, text)
    prompt = "a dark poly cell with a clear defect"
    brain = f"brain={name}:{prompt}"
    events = play(make_settings("session.name=new", "session.rounds=1", brain))
    (only,) = rounds(events)
    assert only.plan is not None and only.report is not None
    assert only.plan.prompts[0].text == prompt
    calls = [e for e in events if isinstance(e, ModelCallEvent)]
    assert {e.author for e in calls} == {f"{name}:{prompt}"}
    assert [e.phase for e in calls] == ["plan", "review"]
    assert not any(e.kind in ("fallback", "illegal_call") for e in events)
