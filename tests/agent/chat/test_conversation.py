"""A person talks with a session that runs: the real graph, thread and journal; a toy generator."""

from __future__ import annotations

import json
import os
import queue
import re
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from agent.autonomous.runner import run_rounds
from agent.autonomous.status import read_status
from agent.chat.commands import COMMANDS
from agent.chat.conversation import Conversation
from agent.chat.live import LiveSession, SessionEvent
from agent.config.settings import Settings
from agent.loop.approval import ApprovalRequest
from agent.loop.components import Components
from agent.loop.observer import Observer
from agent.replay.verify import verify
from agent.session.folder import folder_of, open_session, stored_settings
from agent.steering.preferences import Preference, PreferenceEffect, active_preferences
from agent.steering.steer import share
from eval.report.blocks import Block, Line, Picture, plain_text
from memory.events import (
    ApprovalEvent,
    ChatCallEvent,
    EndedEvent,
    IllegalCallEvent,
    ModelCallEvent,
    PlanEvent,
    ProposedEvent,
    WishEvent,
)
from memory.journal import read_events

MakeSettings = Callable[..., Settings]

SMALL = ("session.images_per_round=16", "dstm.steps=2", "session.shard_size=4")
PATIENCE_S = 300.0


class Room:
    """A conversation and the events of its session so far."""

    def __init__(self, live: LiveSession) -> None:
        self.live = live
        self.conversation = Conversation(live)
        self.events: list[SessionEvent] = []
        self._heard = live.listen()

    def until(self, kind: str, text: str = "") -> SessionEvent:
        """Return the next thing of a kind that the session tells."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                event = self._heard.get(timeout=max(0.1, deadline - time.monotonic()))
            except queue.Empty:
                raise AssertionError(f"no {kind}; events so far: {self.events}") from None
            self.events.append(event)
            assert "error" not in event.text, event.text
            if event.kind == kind and text in event.text:
                return event

    def question(self) -> ApprovalRequest:
        """Return the next question."""
        asked: ApprovalRequest = self.until("question").record
        return asked

    def say(self, line: str) -> str:
        """Say something and return all text of the answer."""
        return text_of(self.conversation.say(line))


def shifts_of(question: ApprovalRequest) -> tuple[PreferenceEffect, ...]:
    assert question.resolved is not None
    return question.resolved.shifts


def text_of(blocks: list[Block]) -> str:
    for block in blocks:
        if isinstance(block, Picture):
            assert block.path.read_bytes().startswith(b"\x89PNG")
    return plain_text(blocks)


@contextmanager
def room(settings: Settings, auto_s: float | None = None) -> Iterator[Room]:
    name = settings.session.name
    assert name is not None
    with open_session(settings, name) as session:
        live = LiveSession(session, auto_s)
        try:
            yield Room(live)
        finally:
            live.close()


def test_story_of_a_session(make_settings: MakeSettings) -> None:
    settings = make_settings("session.name=story", *SMALL)
    with room(settings) as here:
        assert "is there yet" not in here.say("/status")
        assert "No plan waits" in here.say("/approve")
        here.live.start()
        first = here.question()
        assert first.plan is not None and first.expectation is not None
        assert first.plan.n_images == 16

        assert "a plan waits for you" in here.say("/status")
        edited = here.say("/edit 1 count 10")
        assert "16 images" in edited
        assert here.live.question and here.live.question.plan
        assert here.live.question.plan.prompts[0].count == 10
        assert "brightness=dark" in here.say("/edit 2 brightness Dark")
        added = here.say('/add "a broken bright poly cell" x4')
        assert "a broken bright poly cell" in added
        assert "added by the user" in here.say("/why")
        reply = here.say("more poly, fewer crowds")
        assert "more of wafer=poly (x2) (w1)" in reply and reply.endswith(": /forget w1")
        reply = here.say("more dark crowds")
        assert "Understood" not in reply
        assert "Ignored: more brightness=dark." in reply

        assert "planned again" in here.say("/reject no bright ones")
        second = here.question()
        assert second.key != first.key
        assert second.plan is not None
        assert "bright" not in {p.attributes.get("brightness") for p in second.plan.prompts}
        assert {s.preference for s in shifts_of(second)} == {"w1", "w2"}
        assert ", before preferences: " in here.say("/plan")

        assert "Approved" in here.say("/approve")
        here.until("plan")
        assert "Understood" in here.say("/focus brightness=dark wafer=poly")
        here.until("round")
        third = here.question()
        assert third.plan is not None and third.plan.round == 2
        focus = next(
            w for w in active_preferences(here.live.session.journal.events()) if w.id == "w3"
        )
        assert share(focus, third.plan.prompts, here.conversation.vocabulary) >= 0.5

        failures = here.say("/failures")
        assert "Failures after round 1" in failures
        assert "real photographs" in here.say("/show")
        assert "generated" in here.say("/show r001p00")
        assert "wafer=poly" in here.say("/failures poly")
        assert "not measured yet" in here.say("/status")

        assert "(w4)" in here.say("more cells with medium contrast")
        assert "Forgotten: w4" in here.say("undo")
        assert "Round 1 is taken back" in here.say("/undo")
        again_at_once = here.say("/undo")
        assert "already" in again_at_once or "no accepted plan" in again_at_once
        here.until("state", "Round 1 is taken back")
        again = here.question()
        assert again.plan is not None and again.plan.round == 1
        assert {s.preference for s in shifts_of(again)} == {"w1", "w2", "w3"}
        folder = folder_of(settings.home, "story")
        assert (folder / "rounds" / "001.undone-1" / "data-00000.parquet").exists()
        assert not (folder / "rounds" / "001").exists()

        assert "Forgotten: w2" in here.say("/forget w2")
        here.say("/approve")
        here.until("plan")
        assert "after this round" in here.say("stop after this round")
        here.until("round")
        here.until("state", "Stopped")
        assert "shares rounds 1 to 1" in here.say("/fork other")
        assert folder_of(settings.home, "other").exists()
        assert "Understood: 1 round in all" in here.say("/budget rounds 1")
        here.say("/continue")
        here.until("state", "Finished")
        assert {"report.html", "best", "dataset"} <= {path.name for path in folder.iterdir()}
        assert "All 1 rounds are done" in here.say("/continue")
        assert "% of images" in here.say("/status")
        assert "Report: " in here.say("/report")
        page = (folder / "report.html").read_text("utf-8")
        shown = re.sub(r"<[^>]+>|\s+", " ", page[page.index('id="preferences"') :])
        assert re.search(r"more of wafer=poly \(x2\) +1 +\d+% +\d+%", shown)
        assert re.search(r"no bright ones|avoid brightness=bright", shown)
        assert shown.count("(taken back)") == 2
    journal = folder / "journal.jsonl"
    events = read_events(journal, undone=True)
    verdicts = [e.verdict for e in events if isinstance(e, ApprovalEvent)]
    assert verdicts == ["reject", "approve", "approve"]
    assert verify(journal).findings == ()


def test_a_wish_in_mid_round_is_in_the_next_plan(make_settings: MakeSettings) -> None:
    """Twenty wishes at different moments of some rounds: all of them count in the plan after."""
    settings = make_settings("session.name=wishes", *SMALL, "session.rounds=8", "dstm.steps=10")
    values = ["dark", "bright", "poly"]
    n_given = 0
    with room(settings, auto_s=0) as here:
        here.live.start()
        while n_given < 20:
            here.until("stage")
            # Rounds are faster than this test where a processor is busy: some more lie ahead.
            for _ in range(3 if 1 <= here.live.progress.round <= 5 else 0):
                n_given += 1
                kind = "more" if n_given % 2 else "fewer"
                assert "Understood" in here.say(f"{kind} {values[n_given % 3]} cells")
        here.until("state", "Finished")
    events = read_events(folder_of(settings.home, "wishes") / "journal.jsonl")
    n_obeyed = 0
    for place, event in enumerate(events):
        if isinstance(event, WishEvent):
            later = [e for e in events[place:] if isinstance(e, ProposedEvent)]
            shifts = later[0].made["shifts"]
            n_obeyed += event.wish["id"] in {shift["wish"] for shift in shifts}
    assert (n_given, n_obeyed) == (21, 21)


@pytest.mark.skipif(os.getloadavg()[0] > 4, reason="a busy machine: nothing can be timed")
def test_commands_are_answered_at_once_while_a_batch_is_drawn(make_settings: MakeSettings) -> None:
    settings = make_settings(
        "session.name=fast",
        *SMALL,
        "session.images_per_round=1600",
        "session.images_per_prompt=50",
        "session.shard_size=16",
    )
    seconds = []
    with room(settings, auto_s=0) as here:
        here.live.start()
        here.until("plan")
        while here.live.progress.stage != "generate":
            assert here.live.progress.state == "working"
            time.sleep(0.01)
        for _ in range(4):
            for line in ("/status", "/plan", "/failures", "/why", "/budget", "more dark", "/help"):
                assert here.live.progress.stage == "generate"
                started = time.monotonic()
                here.say(line)
                seconds.append(time.monotonic() - started)
    assert statistics.median(seconds) < 0.2


WRONG = [
    "/nothing",
    "/statsu",
    "/show a slice that does not exist",
    "/show r999p99",
    "/failures wafer=gold",
    "/failures colour=red",
    "/edit 99 count 3",
    "/edit 1 count -5",
    "/edit 1 count 1e9",
    "/edit 1 count 99999999999999999999",
    "/edit 1 class cracked",
    "/edit 1 brightness purple",
    "/edit one two",
    '/add "a dark cell" x-3',
    "/add x5",
    '/add "an unclosed x4',
    '/add "a poly cell" x4 class=cracked',
    '/add "a poly cell" x4000',
    "/avoid",
    "/avoid crowds",
    "/focus [bold]nothing[/bold]",
    "/forget w99",
    "/budget rounds -1",
    "/budget wishes 3",
    "/stop never",
    "/memory",
    "/why r9p9",
    "x" * 10_000,
    "\x1b[31m\x00\x07\u202e",
    "<script>alert(1)</script>",
    "[red]markup[/red] {braces} %s",
    "more of nothing at all",
    "dark",
    "\u00e9\U0001f600" * 50,
]


def test_wrong_input_is_answered_with_help(make_settings: MakeSettings) -> None:
    with room(make_settings("session.name=wrong", *SMALL)) as here:
        here.live.start()
        asked = here.question()
        for line in WRONG:
            blocks = here.conversation.say(line)
            assert blocks, line[:40]
            assert all(isinstance(block, Line) for block in blocks), line[:40]
            reply = text_of(blocks)
            assert 10 < len(reply) < 2500
            assert "\x1b" not in reply and "\x00" not in reply
        assert here.say("   ") == ""
        assert "'/status'" in here.say("/statsu")
        assert "defective, functional" in here.say("/edit 1 class cracked")
        assert here.live.question == asked
        only = here.say("/avoid mono")
        assert "Understood" in only
        assert "leaves nothing to draw" in here.say("only mono")
        for name in COMMANDS:
            if name not in ("stop", "pause", "undo", "approve", "reject", "continue"):
                here.conversation.say(f"/{name}")


def test_wishes_that_conflict_are_said_to(make_settings: MakeSettings) -> None:
    with room(make_settings("session.name=conflicts", *SMALL)) as here:
        here.live.start()
        here.question()
        here.say("/budget images 24")
        assert "From the next round on: images per round 24" in here.say("what will it cost?")
        assert "of all images 20% brightness=bright (w1)" in here.say("20% bright ones")
        assert "It takes the place of w1" in here.say("a quarter of them bright")
        assert "is 105% of the images" in here.say("80% dark")
        assert "w2 (of all images 25% brightness=bright)" in here.say("fewer bright ones")
        reply = here.say("no bright ones")
        assert "avoid brightness=bright (w4)" in reply and "constraint: w2, w3" in reply
        assert "nothing of it can be drawn" in here.say("more bright poly cells")
        assert "contradict each other" in here.say("only mono and only poly")
        assert "only wafer=mono (w5)" in here.say("only mono")
        assert "leaves nothing to draw" in here.say("only poly")
        assert "Forgotten: w5" in here.say("undo")
        assert "w3 (fewer of brightness=bright (x2)), w4 (avoid" in here.say(
            "forget the bright ones"
        )
        assert "nothing that could be taken back" in here.say("back")
        reply = here.say("more cells with contrast")
        assert "Which contrast: low, medium or high?" in reply and "Understood" not in reply
        assert "can mean several things" in here.say("not only dark cells")
        assert "where does it fail" in here.say("who wrote this program?")
        assert "first report" in here.say("make it harder")
        assert "with the target's words" in here.say("mehr dunkle Zellen bitte")


def test_a_plan_that_waited_is_shown_as_older_than_new_preferences(
    make_settings: MakeSettings,
) -> None:
    settings = make_settings("session.name=older", "audit.method=none", *SMALL)
    shown = []
    for line in ("where does it fail?", "no bright ones"):
        with room(settings) as here:
            here.say(line)
            here.live.start()
            shown.append(text_of(here.conversation.show(here.until("question"))))
    assert ["made before" in text for text in shown] == [False, True]
    assert "16 of 16 images kept" in shown[0]  # nothing audits them


def test_budgets_and_changes_in_plain_words(make_settings: MakeSettings) -> None:
    settings = make_settings("session.name=budgets", *SMALL, "session.rounds=1")
    with room(settings) as here:
        here.live.start()
        here.question()
        assert "after the second" in here.say("what has changed?")
        assert "2 rounds in all" in here.say("2 rounds in all")
        assert "12 images a round" in here.say("12 images per round")
        assert "a round scores 0.99" in here.say("run until the score is 0.99")
        assert "at most 2 hours" in here.say("do not spend more than 2 hours")
        assert "Say e.g. /budget" in here.say("/budget coffee 3")
        reply = here.say("more dark cells\n\n/budget\nno bright ones")
        assert "dark (x2) (w1)" in reply and "0 of" in reply and "bright (w2)" in reply
        assert "no number of 0 to 1" in here.say("/budget score 7")
        here.say("yes please")
        here.until("round")
        second = here.question()
        assert second.plan is not None and second.plan.n_images == 12
        here.say("/approve")
        here.until("state", "Finished")
        reply = here.say("what changed since round 1?")
        assert "| round 1 | round 2 | change" in reply and "Slices that changed most" in reply
        assert "a round before the last one: 1 to 1" in here.say("/changes 2")
        assert "The worst slices now: " in here.say("make it harder")
        assert "3 rounds in all" in here.say("one more round")
        third = here.question()
        assert third.plan is not None and third.plan.round == 3
        limits = here.live.session.settings.limits
        assert (limits.max_hours, limits.target_score) == (2, 0.99)
        here.say("at most 3 hours")
    assert stored_settings(settings.home, "budgets").limits.max_hours == 3
    events = read_events(folder_of(settings.home, "budgets") / "journal.jsonl")
    assert isinstance(events[-1], EndedEvent)


def test_a_person_spreads_the_images_of_the_rounds_to_come(make_settings: MakeSettings) -> None:
    settings = make_settings("session.name=spread", *SMALL, "session.rounds=3")
    with room(settings) as here:
        here.live.start()
        here.question()
        assert "20 + 20 = 40 images; 32 are left" in here.say("20 and 20 images")
        assert "1 rounds are scheduled; 2 are to come" in here.say("/budget schedule 12")
        assert "names no slice" in here.say("/budget schedule 12, 20 60% gold")
        assert "8, 24 (60% wafer=poly)" in here.say("/budget schedule 8, 24 60% poly")
        assert "Round 2 on makes 8, 24" in here.say("/budget images 5")
        assert "8, 24 (60% wafer=poly) images, left: 48 images" in here.say("/budget")
        rows = dict(read_status(settings.home, "spread").rows)
        assert rows["schedule"].startswith("round 2 on 8, 24")
        plans, poly = [], Preference(attributes={"wafer": ("poly",)}, min_share=0.5)
        for _ in range(2):
            here.say("/approve")
            if plan := here.question().plan:
                plans.append(plan)
        assert [plan.n_images for plan in plans] == [8, 24]
        assert share(poly, plans[-1].prompts, here.conversation.vocabulary) >= 0.55
    assert verify(folder_of(settings.home, "spread") / "journal.jsonl").findings == ()


def test_pause_holds_and_continue_goes_on(make_settings: MakeSettings) -> None:
    settings = make_settings("session.name=held", *SMALL, "session.rounds=1", "dstm.steps=40")
    with room(settings, auto_s=0) as here:
        here.live.start()
        here.until("plan")
        here.say("/pause")
        here.until("state", "Paused")
        assert "paused" in here.say("/status")
        before = here.live.progress
        time.sleep(0.3)
        assert here.live.progress == before
        here.say("/budget hours 5")
        here.say("/continue")
        here.until("state", "Finished")


class Judge(Observer):
    """Nobody is asked; warnings are kept."""

    def __init__(self) -> None:
        self.warnings: list[str] = []

    def warn(self, text: str) -> None:
        self.warnings.append(text)


def test_plan_of_a_model_is_refused_when_it_breaks_a_wish(
    make_settings: MakeSettings, tmp_path: Path
) -> None:
    def plan(wafer: str) -> dict[str, Any]:
        levels = ("functional", "probable", "defective")
        prompts = [{"attributes": {"wafer": wafer, "severity": x}, "count": 8} for x in levels]
        return {"tool": "propose_plan", "arguments": {"prompts": prompts, "why": "?"}}

    path = tmp_path / "script.json"
    path.write_text(json.dumps([plan("mono"), plan("poly")]), encoding="utf-8")
    settings = make_settings("session.name=model", "session.rounds=1", f"brain=scripted:{path}")
    with open_session(settings, "model") as session:
        wish = Preference(id="w1", attributes={"wafer": ("mono",)}, max_share=0)
        session.journal.append(WishEvent(key="wish/w1", wish=wish.to_json()))
        with pytest.raises(Exception, match="has 2 answers"):
            run_rounds(Components.of_session(session, Judge()))
        (illegal,) = session.journal.events(IllegalCallEvent)
        assert "the user said avoid wafer=mono (w1)" in illegal.problem
        (event,) = session.journal.events(PlanEvent)
        assert event.plan.prompts[0].attributes["wafer"] == "poly"
        messages = session.journal.events(ModelCallEvent)[0].messages
        assert any("every plan must: avoid wafer=mono" in m.content for m in messages)


def test_what_the_grammar_does_not_understand_goes_to_the_model(
    make_settings: MakeSettings, fake_llm: Any
) -> None:
    settings = make_settings(
        "session.name=llm", "brain=openai:small", "llm.mode=native", "llm.tries=1"
    )

    def prefer(*preferences: dict[str, Any]) -> dict[str, Any]:
        return {"tool": "prefer", "arguments": {"preferences": list(preferences)}}

    fake_llm.answers = [
        prefer(
            {"attributes": {"wafer": ["poly"]}, "factor": 2},
            {"attributes": {"brightness": ["dark"]}, "min_share": 0.2, "max_share": 0.2},
            {"text": "hide scratches"},
        ),
        prefer({"attributes": {"wafer": ["gold"]}, "factor": 2}),
        prefer({"attributes": {"wafer": ["poly"]}, "max_share": 7}),
        {"tool": "reply", "arguments": {"text": "The first report says it. <b>\x1b[1m"}},
        {"status": 500, "error": "broken"},
    ]
    with room(settings) as here:
        assert "only wafer=mono (w1)" in here.say("only mono")
        assert "Forgotten: w1" in here.say("undo")
        replies = []
        for line in (
            "I want more multicrystalline ones with scratches, and 20% dark",
            "more golden ones",
            "golden or poly ones, 7 times",
            "what would a physicist say?",
            "fewer dark cells like yesterday",
        ):
            assert "thinks" in here.say(line)
            replies.append(text_of(here.conversation.show(here.until("blocks"))))
        for text in ("more of wafer=poly (x2) (w2)", "20% brightness=dark (w3)", "scratches"):
            assert text in replies[0]
        assert "hide" not in replies[0]
        # What the target does not define, and what is no preference, goes to the grammar.
        assert "golden" in replies[1] and "Not understood" in replies[2]
        assert replies[3] == "The first report says it. <b> [1m"
        assert "Ignored: fewer brightness=dark" in replies[4]
        calls = here.live.session.journal.events(ChatCallEvent)
        assert [c.tool for c in calls] == ["prefer", "prefer", "prefer", "reply"]
        assert (calls[0].tokens.prompt, calls[0].tokens.answer) == (30, 12)


def test_pictures_are_drawn(make_settings: MakeSettings) -> None:
    from eval.report.terminal import half_blocks

    with room(make_settings("session.name=drawn", *SMALL)) as here:
        blocks = here.conversation.say("/show dark mono")
        (picture,) = [block for block in blocks if isinstance(block, Picture)]
        drawn = half_blocks(picture.png, 40).plain.splitlines()
        assert {len(line) for line in drawn} == {40}
