"""What the web page shows of sessions held here, by nobody, and by another process."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.config.settings import Settings
from agent.session.folder import open_session
from agent.web import page
from agent.web.registry import Hall
from eval.report.blocks import Line, Picture, Table
from memory.errors import SessionError
from memory.files import write_bytes

MakeSettings = Callable[..., Settings]

SMALL = ("session.images_per_round=16", "dstm.steps=2", "session.shard_size=4")
PATIENCE_S = 300.0
MARKUP = '<b onclick="x()">&amp;</b> {{value}} ${1+1} \x1b[31m'


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_rooms_are_shared_left_and_entered_again(make_settings: MakeSettings) -> None:
    settings = make_settings("session.name=room", "session.rounds=1", *SMALL)
    hall = Hall(settings.home, lambda preset: settings)
    name = hall.begin("solar")
    room = hall.room(name)
    assert room is not None and hall.enter(name) is room
    sight = hall.look(name)
    assert (sight.mode, sight.state, sight.n_rounds) == ("here", "idle", 1)
    assert page.plan(room, name) == ""

    room.say("/continue")
    wait_for(lambda: room.live.question)
    shown = page.plan(room, name)
    assert 'data-edit="1 count"' in shown and 'data-say="/approve"' in shown
    mark = room.plan_mark
    assert f'data-plan="{mark}"' in shown
    room.say("/edit 2 count 2", mark)
    with pytest.raises(SessionError, match="plan has changed"):
        room.say("/approve", mark)
    assert room.live.question is not None
    room.say("/edit 1 count -3")
    assert "no whole number" in page.plan(room, name)
    room.say(MARKUP)
    assert "&lt;b" in page.chat(room, hall.look(name))
    assert "<b onclick" not in page.chat(room, hall.look(name))

    room.say("/approve")
    wait_for(lambda: room.live.progress.state == "finished")
    sight = hall.look(name)
    assert sight.n_done == 1
    assert "<svg" in page.charts(sight.rounds)
    assert f"?session={name}" in page.failures(sight)
    assert "kept" in page.prompts(sight, has_labels=False)

    said = len(room.entries)
    hall.leave(name)
    assert hall.look(name).mode == "free"
    with open_session(settings, name):
        assert (hall.look(name).mode, hall.look(name).n_done) == ("elsewhere", 1)
        assert "only be looked at" in page.controls(hall.look(name))
        with pytest.raises(SessionError, match="in use"):
            hall.enter(name)
    again = hall.enter(name)
    assert again is not room and len(again.entries) < said
    hall.close()
    assert hall.room(name) is None


def test_pictures_are_those_of_a_session_alone(make_settings: MakeSettings) -> None:
    pytest.importorskip("torch")
    from agent.web.pictures import Pictures
    from memory.errors import DataError

    settings = make_settings("session.name=pictures", *SMALL)
    hall = Hall(settings.home, lambda preset: settings)
    folder = hall.folder("pictures")
    write_bytes(folder / "shown" / "a=b.png", b"png")
    pictures = Pictures(hall)
    assert pictures.shown("pictures", "a=b.png") == b"png"
    for file in ("../../session.yaml", "..", "b.png", "session.yaml", "a/b.png"):
        with pytest.raises(DataError):
            pictures.shown("pictures", file)


def test_no_text_becomes_markup_or_a_template(tmp_path: Path) -> None:
    html = page.blocks(
        [
            Line(MARKUP, "error"),
            Table([MARKUP], [[MARKUP]], MARKUP),
            Picture(tmp_path / "x.png", MARKUP),
        ],
        MARKUP,
    )
    assert "<b" not in html
    assert "{" not in html and "}" not in html
    assert html.count("&lt;b onclick") >= 5
