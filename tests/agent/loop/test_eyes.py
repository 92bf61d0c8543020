"""Models that see are shown pictures with the user's consent; their hashes are in the journal."""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from langchain_core.messages import AIMessage, AnyMessage, BaseMessage, HumanMessage, ToolMessage
from langchain_core.outputs import ChatResult
from PIL import Image
from pydantic import PrivateAttr
from rich.console import Console

from agent.autonomous.runner import run
from agent.brains import BrainContext, ChatBrain, build
from agent.brains.scripted import ScriptedModel
from agent.brains.sight import SIGHT
from agent.brains.spending import PICTURE_TOKENS, estimate_tokens
from agent.config.settings import load_settings
from agent.loop.eyes import references, subject_of, with_pictures
from agent.loop.graph import fit
from agent.replay.bundle import bundle, opened
from agent.replay.verify import verify
from agent.session.fork import fork
from eval.montage import SHEET_PX
from memory.errors import SettingsError, ToolError
from memory.events import ModelCallEvent, OpeningEvent, ProbeEvent, ToolCallEvent
from memory.journal import read_events, rounds
from tests.agent.chat.recorded import recorded
from tests.agent.fake_llm import FakeLLM, pictures_in
from tests.agent.invented import PALETTE, VOCABULARY, Crash, record
from tests.agent.quick import toy_settings

ACCEPT: dict[str, Any] = {"tool": "propose_plan", "arguments": {"draft": "accept", "why": "?"}}
END: dict[str, Any] = {"tool": "finish", "arguments": {"summary": "done"}}
COLOURS: list[dict[str, Any]] = [{"text": "yellow"}, {"text": "green"}]
POLY = "brightness=dark severity=defective wafer=poly"
LOOK: dict[str, Any] = {"tool": "look_at", "arguments": {"slice": POLY}}


def looks_once(body: dict[str, Any]) -> dict[str, Any]:
    """Look at a slice where that is possible, then take the draft; talk in chat."""
    offered = {tool["function"]["name"]: tool["function"] for tool in body.get("tools", [])}
    if "reply" in offered:
        return {"tool": "reply", "arguments": {"text": "I cannot say."}}
    has_looked = any(m["role"] == "tool" for m in body["messages"])
    if "look_at" in offered and not has_looked:
        slices = offered["look_at"]["parameters"]["properties"]["slice"]["enum"]
        return {"tool": "look_at", "arguments": {"slice": slices[-1]}}
    return ACCEPT if "propose_plan" in offered else END


def play(home: Path, fake: FakeLLM, *overrides: str) -> Path:
    """Run a session of toys in which the server decides; return its folder."""
    fake.respond = looks_once
    given = ("session.name=seen", "brain=openai:tiny", "llm.mode=native", "llm.tries=1")
    settings = toy_settings(home, *given, *overrides)
    run(settings, Console(file=io.StringIO()))
    return home / "sessions" / "seen"


def test_a_model_is_told_what_share_of_a_slices_photographs_the_images_cover(
    tmp_path: Path, fake_llm: FakeLLM
) -> None:
    folder = play(tmp_path, fake_llm, "session.images_per_round=48", "audit.method=none")
    events = read_events(folder / "journal.jsonl")
    first, second = [e for e in events if isinstance(e, OpeningEvent)]
    assert "coverage" not in first.facts
    coverage = second.facts["coverage"]
    (call,) = [e for e in events if isinstance(e, ModelCallEvent) and e.key == "model_call/2/0"]
    lines = [x for m in call.messages for x in m.content.splitlines() if "; cover " in x]
    assert lines
    for line in lines:
        covered, expected = coverage[line.removeprefix("- ").partition(":")[0]]
        assert 0 <= covered <= 1 and 0 < expected < 1
        assert f"; cover {covered:.0%} ({expected:.0%})" in line
    assert not verify(folder / "journal.jsonl").findings


def names(pictures: Sequence[bytes]) -> list[str]:
    return [hashlib.sha256(data).hexdigest() for data in pictures]


def test_a_session_with_pictures_verifies(tmp_path: Path, fake_llm: FakeLLM) -> None:
    fake_llm.sees = True
    folder = play(tmp_path, fake_llm, "llm.images=true")
    events = read_events(folder / "journal.jsonl")
    opening = [e for e in events if isinstance(e, OpeningEvent)][1]
    (looked,) = [e for e in events if isinstance(e, ToolCallEvent) and e.tool == "look_at"]
    assert looked.round == 2 and len(opening.images) == len(looked.images) == 1
    sent = [pictures_in(request["body"]) for request in fake_llm.requests]
    drawn = sent[:2]
    assert {name for pictures in sent for name in names(pictures)} - {
        name for pictures in drawn for name in names(pictures)
    } == {*opening.images, *looked.images}
    # In the order in which they were shown.
    assert names(sent[-2]) == [*opening.images, *looked.images]
    for data in sent[-2]:
        with Image.open(io.BytesIO(data)) as picture:
            assert max(picture.size) <= SHEET_PX
    call = [e for e in events if isinstance(e, ModelCallEvent) and e.round == 2][1]
    assert [message.images for message in call.messages] == [looked.images]
    assert b"base64" not in (folder / "journal.jsonl").read_bytes()
    check = verify(folder / "journal.jsonl")
    assert check.findings == () and len(check.pictures) == 2
    assert looked.images[0][:12] in check.pictures[1].place
    assert looked.arguments["slice"] in check.pictures[1].what

    bundle(tmp_path, "seen", tmp_path / "seen.zip")
    with opened(tmp_path, str(tmp_path / "seen.zip")) as unpacked:
        assert len(list(unpacked.rglob("seen/*.png"))) == len({*opening.images, *looked.images})
    path = folder / "rounds/002/seen" / f"{looked.images[0]}.png"
    path.write_bytes(b"another one")
    (finding,) = [f for f in verify(folder / "journal.jsonl").findings if "picture" in f.place]
    assert finding.recorded == looked.images[0]


def test_without_consent_no_byte_of_an_image_leaves(tmp_path: Path, fake_llm: FakeLLM) -> None:
    fake_llm.sees, fake_llm.respond = True, looks_once
    given = ("brain=openai:tiny", "llm.mode=native", "llm.tries=1")
    settings = load_settings("solar", given, {})
    brain = build("openai:tiny", BrainContext(PALETTE, VOCABULARY, settings.llm))
    assert isinstance(brain, ChatBrain)
    folder = record(tmp_path, "seen", *given, model=brain.model)
    bodies = [request["body"] for request in fake_llm.requests]
    assert len(bodies) == 4
    for body in bodies:
        assert_has_no_picture(body)
        assert "look_at" not in [tool["function"]["name"] for tool in body["tools"]]
    assert not [*folder.rglob("seen/*")]
    assert verify(folder / "journal.jsonl").pictures == ()


def assert_has_no_picture(body: dict[str, Any]) -> None:
    assert pictures_in(body) == []
    assert all(isinstance(message["content"], str | None) for message in body["messages"])
    text = json.dumps(body)
    assert "image_url" not in text and "base64" not in text and "iVBORw0KGgo" not in text


@pytest.mark.parametrize("images", ["false", "true"])
def test_a_chat_sends_no_picture(tmp_path: Path, fake_llm: FakeLLM, images: str) -> None:
    fake_llm.respond = looks_once
    options = ("brain=openai:small", "llm.mode=native", f"llm.images={images}")
    with recorded(tmp_path, *options) as chat:
        heard = chat.live.listen()
        chat.say("what would a physicist think of these pictures")
        while heard.get(timeout=60).kind != "blocks":
            pass
    (body,) = (request["body"] for request in fake_llm.requests)
    assert "reply" in [tool["function"]["name"] for tool in body["tools"]]
    assert_has_no_picture(body)


def test_a_model_that_sees_nothing_is_told_apart_at_the_start(
    tmp_path: Path, fake_llm: FakeLLM
) -> None:
    fake_llm.answers = [{"text": "I am a text model."}]
    with pytest.raises(SettingsError, match=r"llm\.images=false"):
        play(tmp_path, fake_llm, "llm.images=true")
    assert len(fake_llm.requests) == 1


class Seer(ScriptedModel):
    """A scripted model that keeps what it was shown; {"crash": true} ends the process."""

    _shown: list[list[BaseMessage]] = PrivateAttr(default_factory=list)

    def _generate(self, messages: list[BaseMessage], *args: Any, **kwargs: Any) -> ChatResult:
        self._shown.append(messages)
        if self.script[self._next].get("crash"):
            self._next += 1
            raise Crash
        return super()._generate(messages, *args, **kwargs)

    def pictures(self, number: int) -> list[str]:
        """Return the SHA-256 of the pictures of a question."""
        blocks = [b for m in self._shown[number] if isinstance(m.content, list) for b in m.content]
        images = [b for b in blocks if isinstance(b, dict) and b["type"] == "image"]
        return names([base64.b64decode(image["base64"]) for image in images])


def test_a_kill_between_look_and_answer_changes_nothing(tmp_path: Path) -> None:
    begin = [*COLOURS, ACCEPT, END, LOOK]
    model = Seer(script=[*begin, {"crash": True}, ACCEPT, END])
    folder = record(tmp_path, "killed", "llm.images=true", model=model)
    # Before the kill and after it: that of the opening, and that of the look.
    assert model.pictures(5) == model.pictures(6) != []
    assert len(model.pictures(6)) == 2
    check = verify(folder / "journal.jsonl")
    assert check.findings == () and check.ended and len(check.pictures) == 2
    events = read_events(folder / "journal.jsonl")
    assert sum(isinstance(e, ToolCallEvent) and e.tool == "look_at" for e in events) == 1


def test_a_fork_keeps_what_was_seen_before_it(tmp_path: Path) -> None:
    script = [*COLOURS, ACCEPT, END, LOOK, ACCEPT, END, ACCEPT, END]
    seer = Seer(script=script)
    source = record(tmp_path, "first", "session.rounds=3", "llm.images=true", model=seer)
    (source / "rounds/001").mkdir()
    name = fork(tmp_path, "first", 3)
    model = Seer(script=[LOOK, ACCEPT, END])
    folder = record(tmp_path, name, "session.rounds=3", "llm.images=true", model=model)
    check = verify(folder / "journal.jsonl")
    assert check.findings == () and len(check.pictures) == 4
    assert not [picture for picture in check.pictures if "not stored" in picture.what]
    probes = [e for e in read_events(folder / "journal.jsonl") if isinstance(e, ProbeEvent)]
    assert [e.key for e in probes] == [SIGHT]


def test_consent_that_is_withdrawn_counts_at_once(tmp_path: Path) -> None:
    model = Seer(script=[*COLOURS, ACCEPT, END, LOOK, {"crash": True}])
    with pytest.raises(IndexError):
        record(tmp_path, "shy", "llm.images=true", model=model)
    again = Seer(script=[ACCEPT, END])
    folder = record(tmp_path, "shy", "llm.images=false", model=again)
    assert again.pictures(0) == again.pictures(1) == []
    assert verify(folder / "journal.jsonl").findings == ()


def test_what_can_be_looked_at(tmp_path: Path) -> None:
    folder = record(tmp_path, "past", "session.rounds=1")
    past = rounds(read_events(folder / "journal.jsonl"))
    prompt = past[-1].plan.prompts[0]  # type: ignore[union-attr]
    assert subject_of("", prompt.text, past).prompts == (prompt.id,)
    assert subject_of("", prompt.id, past).where == prompt.attributes
    assert subject_of(POLY, "", past).where["wafer"] == "poly"
    for wrong in (("wafer=round", ""), ("", "r009p99"), ("", ""), (POLY, prompt.id)):
        with pytest.raises(ToolError):
            subject_of(*wrong, past)


def test_pictures_count_against_the_context_and_the_oldest_go_first() -> None:
    kept = references(["a" * 64], PICTURE_TOKENS)
    calls = [AIMessage("", tool_calls=[{"name": "look_at", "args": {}, "id": i}]) for i in "12"]
    results = [
        ToolMessage("a look", tool_call_id=i, name="look_at", additional_kwargs=kept) for i in "12"
    ]
    opening = HumanMessage("go", additional_kwargs=kept)
    messages: list[AnyMessage] = [opening, calls[0], results[0], calls[1], results[1]]
    n_tokens = estimate_tokens(messages)
    assert n_tokens > 3 * PICTURE_TOKENS
    shown = with_pictures(fit(messages, n_tokens - 1), lambda name: b"png")
    pictures = [
        b
        for m in shown
        if isinstance(m.content, list)
        for b in m.content
        if b["type"] == "image"  # type: ignore[index]
    ]
    assert len(pictures) == 2
    assert [m.type for m in shown] == ["human", "ai", "tool", "ai", "tool", "human"]
    assert with_pictures(messages, lambda name: None) == messages


def test_a_model_asks_about_the_predictions(tmp_path: Path) -> None:
    ask = {"tool": "analyse", "arguments": {"by": ["class", "predicted"], "where": {}}}
    folder = record(tmp_path, "asks", script=[ask, ACCEPT, END, ask, ACCEPT, END])
    events = read_events(folder / "journal.jsonl")
    (asked,) = [e for e in events if isinstance(e, ToolCallEvent) and e.tool == "analyse"]
    # There is no report in round 1.
    assert asked.round == 2 and asked.arguments == ask["arguments"]
    assert verify(folder / "journal.jsonl").findings == ()
    small = record(tmp_path, "small", "llm.context_tokens=3000", script=[ACCEPT, END] * 2)
    calls = [e for e in read_events(small / "journal.jsonl") if isinstance(e, ModelCallEvent)]
    assert not [call for call in calls if "analyse" in call.tools]
