"""What the web page shows of sessions held here, by nobody, and by another process."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.autonomous.thumbnails import START
from agent.config.settings import Settings
from agent.session.folder import folder_of, open_session
from agent.web.page import draw, plan
from agent.web.pictures import Pictures
from agent.web.registry import SessionRegistry
from eval.report.blocks import Line, Picture, Table
from memory.errors import DataError, SessionError, SettingsError
from memory.files import write_bytes

MakeSettings = Callable[..., Settings]

SMALL = ("session.images_per_round=16", "dstm.steps=2", "session.shard_size=4")
PATIENCE_S = 300.0
MARKUP = '<b onclick="x()">&amp;</b> {{value}} ${1+1} \x1b[31m'


def wait_for(is_reached: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not is_reached():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_sessions_are_shared_released_and_opened_again(make_settings: MakeSettings) -> None:
    settings = make_settings("session.name=room", "session.rounds=1", *SMALL)
    registry = SessionRegistry(settings.home, lambda preset: settings)
    name = registry.begin("solar")
    session = registry.hosted(name)
    assert session is not None and registry.open(name) is session
    snapshot = registry.snapshot(name)
    assert (snapshot.mode, snapshot.state, snapshot.n_rounds) == ("here", "idle", 1)
    assert snapshot.status == "not started"
    assert plan(session, name) == ""

    session.submit("/continue")
    wait_for(lambda: session.live.question)
    html = plan(session, name)
    assert 'data-edit="1 count"' in html and 'data-say="/approve"' in html
    mark = session.plan_mark
    assert f'data-plan="{mark}"' in html
    session.submit("/edit 2 count 2", mark)
    with pytest.raises(SessionError, match="plan has changed"):
        session.submit("/approve", mark)
    assert session.live.question is not None
    assert 'role="alert"' not in plan(session, name)
    session.submit("/edit 1 count -3")
    assert 'role="alert"' in plan(session, name)
    session.submit(MARKUP)
    chat = draw("chat", session.entries, "here", name)
    assert "&lt;b" in chat and "<b onclick" not in chat

    session.submit("/approve")
    wait_for(lambda: session.live.progress.state == "finished")
    snapshot = registry.snapshot(name)
    assert snapshot.n_done == 1
    assert "<svg" in draw("charts", snapshot.rounds, name, True)
    assert "photographs.png" in draw("charts", (), name, Pictures(registry).has_start(name))
    assert Pictures(registry).read(name, START).startswith(b"\x89PNG")
    assert f"?session={name}" in draw("failures", snapshot.rounds, name, "here")
    assert "kept" in draw("prompts", snapshot.rounds, name, False)
    pictures, (done,) = Pictures(registry), snapshot.rounds
    assert done.plan and done.failures
    failure = next(failure for failure in done.failures if failure.picture)
    for path in (f"failures/1/{failure.id}", f"prompts/1/{done.plan.prompts[0].id}"):
        assert pictures.read(name, path).startswith(b"\x89PNG")
    for path in ("failures/1/none", "failures/9/none", "failures/x/none", "prompts/1/none"):
        with pytest.raises(DataError):
            pictures.read(name, path)

    n_entries = len(session.entries)
    registry.release(name)
    assert registry.snapshot(name).mode == "free"
    with open_session(settings, name):
        snapshot = registry.snapshot(name)
        assert (snapshot.mode, snapshot.n_done) == ("elsewhere", 1)
        assert re.fullmatch(r"running in process \d+ on \S*[^,\s]", snapshot.status)
        assert "only be looked at" in draw("head", snapshot)
        assert draw("controls", snapshot).count(" disabled") == 5
        with pytest.raises(SessionError, match="in use"):
            registry.open(name)
    again = registry.open(name)
    assert again is not session and len(again.entries) < n_entries
    assert registry.snapshot(name).status == "finished"
    registry.close()
    assert registry.hosted(name) is None


def test_pictures_are_those_of_a_session_alone(make_settings: MakeSettings) -> None:
    settings = make_settings("session.name=pictures", *SMALL)
    registry = SessionRegistry(settings.home, lambda preset: settings)
    folder = folder_of(registry.home, "pictures")
    write_bytes(folder / "shown" / "a=b.png", b"png")
    pictures = Pictures(registry)
    assert pictures.read("pictures", "shown/a=b.png") == b"png"
    for file in ("../../session.yaml", "..", "b.png", "session.yaml", "a/b.png"):
        with pytest.raises(DataError):
            pictures.read("pictures", f"shown/{file}")
    for path in ("", "shown", "legend/1", "shown/a=b.png/x"):
        with pytest.raises(DataError):
            pictures.read("pictures", path)
    with pytest.raises(SettingsError):
        pictures.read("..", "shown/a=b.png")


def test_no_text_becomes_markup(tmp_path: Path) -> None:
    blocks = [
        Line(MARKUP, "error"),
        Table([MARKUP], [[MARKUP]], MARKUP),
        Picture(tmp_path / "x.png", MARKUP),
    ]
    html = draw("blocks", blocks, MARKUP)
    assert "<b" not in html
    assert html.count("&lt;b onclick") >= 5
