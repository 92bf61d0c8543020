"""Prompts in a model's own words, for generators that say that they follow any."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agent.autonomous.results import source_of
from agent.autonomous.runner import run
from agent.loop.validation import PlanRules, validate
from agent.planners import PlanDraft, PromptDraft
from agent.replay.verify import verify
from agent.session.folder import folder_of
from memory.errors import ToolError
from memory.events import IllegalCallEvent, OpeningEvent, PlanEvent, ToolsEvent
from memory.journal import read_events
from memory.records import Plan
from prompts.vocabulary import load_vocabulary
from tests.agent.invented import record
from tests.agent.quick import toy_settings
from tools.data.export import export
from tools.generators import GeneratorWrapper, build, supports
from tools.generators.text2image import Text2ImageGenerator

CLAIMS = {"severity": "functional", "brightness": "bright"}
WORDS = "a photovoltaic\x00 module at noon, one dark finger\u202e mark"
CLEAN = "a photovoltaic module at noon, one dark finger mark"


def check(is_open: bool, text: str = WORDS, **fields: Any) -> Plan:
    prompt = PromptDraft(text=text, count=4, **fields)
    vocabulary = load_vocabulary("elpv")
    rules = PlanRules(vocabulary, 8, lambda t: len(t.split()), 64, open_vocabulary=is_open)
    return validate(PlanDraft(prompts=(prompt,)), 1, "test", rules)


def test_attributes_are_claims_where_the_text_is_free() -> None:
    plan = check(True, attributes=CLAIMS)
    assert "dark" in plan.prompts[0].text and "\x00" not in plan.prompts[0].text
    assert "\u202e" not in plan.prompts[0].text
    assert (plan.prompts[0].attributes, plan.warnings) == (CLAIMS, ())
    with pytest.raises(ToolError, match="brightness=dark"):
        check(False, attributes=CLAIMS)
    assert check(False, attributes={"severity": "functional"}).warnings


def test_a_free_text_has_bounds_and_a_class() -> None:
    for text, fields, problem in (
        ("a module " * 200, {"attributes": CLAIMS}, "1 to 1000 characters"),
        ("a module at noon", {"attributes": {"brightness": "bright"}}, "names no class"),
        ("a module at noon", {"attributes": {**CLAIMS, "brightness": "neon"}}, "neon"),
    ):
        with pytest.raises(ToolError, match=problem):
            check(True, text, **fields)


TEXTS = [f"{CLEAN}, take {n}" for n in range(4)]
SEVERITIES = ("functional", "defective") * 2


def script(count: int) -> list[dict[str, Any]]:
    prompts = [
        {"text": text, "attributes": {**CLAIMS, "severity": severity}, "count": count, "why": "?"}
        for text, severity in zip(TEXTS, SEVERITIES, strict=True)
    ]
    return [
        {"tool": "propose_plan", "arguments": {"why": "?", "prompts": prompts}},
        {"tool": "finish", "arguments": {"summary": "done"}},
    ]


def test_a_free_text_is_recorded_and_replayed(tmp_path: Path) -> None:
    options = ("generator.options.open_vocabulary=true", "session.rounds=1")
    folder = record(tmp_path, "free", *options, script=script(6))
    events = read_events(folder / "journal.jsonl")
    (plan,) = [e.plan for e in events if isinstance(e, PlanEvent)]
    assert [p.text for p in plan.prompts] == TEXTS
    assert not any("vocabulary" in warning for warning in plan.warnings)
    assert {p.attributes["brightness"] for p in plan.prompts} == {"bright"}
    (opening,) = [e for e in events if isinstance(e, OpeningEvent)]
    assert opening.facts["open_vocabulary"] is True
    offers = json.dumps([e.tools for e in events if isinstance(e, ToolsEvent)])
    assert "In your own words" in offers
    assert verify(folder / "journal.jsonl").findings == ()
    free, end = script(6)
    of_plan = [{"where": {"wafer": wafer}, "share": 0.5} for wafer in ("mono", "poly")]
    legal = {"tool": "propose_plan", "arguments": {"why": "?", "shares": of_plan}}
    folder = record(tmp_path, "closed", "session.rounds=1", script=[free, legal, end])
    events = read_events(folder / "journal.jsonl")
    assert any("text says brightness=dark" in e.problem for e in events
               if isinstance(e, IllegalCallEvent))  # fmt: skip
    assert verify(folder / "journal.jsonl").findings == ()


def test_a_generator_says_whether_it_follows_any_words() -> None:
    assert not supports(build("toy", (1, 64, 64)), "open_vocabulary")
    free = build("toy", (1, 64, 64), open_vocabulary=True)
    assert supports(free, "open_vocabulary")
    assert GeneratorWrapper(free).open_vocabulary
    assert Text2ImageGenerator.open_vocabulary


@pytest.mark.slow
def test_a_free_text_is_exported(tmp_path: Path) -> None:
    (tmp_path / "script.json").write_text(json.dumps(script(4)), encoding="utf-8")
    more = ["generator.options.open_vocabulary=true", "audit.method=none", "session.rounds=1"]
    more += ["feedback.discovery='off'", f"brain=scripted:{tmp_path / 'script.json'}"]
    run(toy_settings(tmp_path, "session.name=free", *more), Console(quiet=True))
    assert verify(folder_of(tmp_path, "free") / "journal.jsonl").findings == ()
    export(source_of(tmp_path, "free"), "imagefolder", tmp_path / "set")
    assert CLEAN in "".join(p.read_text("utf-8") for p in (tmp_path / "set").rglob("*.jsonl"))
