"""Long work says how far it is where no bar can be drawn, and a card is read by people."""

from __future__ import annotations

import io
from pathlib import Path

from rich.console import Console

from agent.cli.commands import models
from agent.loop.observer import ConsoleObserver, Lines, counted
from eval.copies import Copies
from eval.metrics import wilson
from tests.tools.targets.own_data import class_folders
from tools import targets
from tools.targets import reading


def test_a_line_comes_now_and_then_with_rate_and_time_left() -> None:
    said: list[str] = []
    now = [0.0]
    lines = Lines(said.append, "pretrain", "steps", every_s=30, clock=lambda: now[0])
    for step in range(100, 1000, 10):  # 100 were done by an earlier run
        lines(step, 1000, "loss 0.25")
        now[0] += 5
    assert len(said) == 15
    assert said[0] == "pretrain: 120 of 1000 steps, loss 0.25, 2.0 steps/s, 7 min 20 s left"
    assert [line.split()[1] for line in said[1:4]] == ["160", "220", "280"]
    assert all(str(n) in said[-1] for n in (940, 1000))


def test_quick_work_and_its_end_say_nothing() -> None:
    said: list[str] = []
    now = [0.0]
    lines = Lines(said.append, "x", "images", clock=lambda: now[0])
    lines(0, 10)
    now[0] = 9
    lines(5, 10)
    now[0] = 50
    lines(10, 10)
    assert said == []


def test_what_takes_minutes_each_has_no_rate() -> None:
    said: list[str] = []
    now = [0.0]
    lines = Lines(said.append, "done", "arms", clock=lambda: now[0])
    lines(0, 24)
    now[0] = 240
    lines(2, 24)
    assert said == ["done: 2 of 24 arms, 44 min 00 s left"]


def test_a_log_gets_lines_and_a_terminal_a_bar() -> None:
    log, screen = io.StringIO(), io.StringIO()
    with counted(Console(file=log), "draw", "images") as report:
        assert isinstance(report, Lines)
    observer = ConsoleObserver(Console(file=log), 2)
    assert isinstance(observer.progress("train", "steps"), Lines)
    with counted(Console(file=screen, force_terminal=True), "draw", "images") as report:
        report(3, 7, "loss 0.5")
    assert "3/7" in screen.getvalue() and "loss 0.5" in screen.getvalue()
    assert log.getvalue() == ""


def test_photographs_are_counted_while_they_are_read_and_not_again(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "birds")
    counts: list[tuple[int, int]] = []
    token = reading.set(lambda done, total: counts.append((done, total)))
    try:
        targets.build("folder", tmp_path / "cache", path=str(root))
        assert counts == [(n, 36) for n in range(1, 37)]
        targets.build("folder", tmp_path / "cache", path=str(root))
        assert len(counts) == 36
    finally:
        reading.reset(token)


def test_a_card_names_its_figures_and_says_what_low_ones_mean() -> None:
    copies = Copies(n_photographs=900, limit=0.3, power=wilson(62, 100), found=wilson(4, 512))
    card = {
        "n_images": 512,
        "audit_agreement_generated": 0.6,
        "audit_agreement_real": 0.97,
        "audit_agreement_ratio": 0.62,
        "attributes": {"dark_area": {"agreement": 0.41, "chance": 0.31, "n": 512}},
        "copies": copies.to_json(),
    }
    columns, rows = models.card_table(card)
    assert columns[0] == "512 drawn images"
    assert rows[0][1:] == ["0.60", "0.97 on images of the data"]
    assert rows[1] == ["share whose dark area is the one asked for", "0.41", "0.31 by chance"]
    assert "more --steps" in models.card_advice(card)[0]
    assert models.card_advice({**card, "audit_agreement_ratio": 0.95}) == []
    assert models.card_table(card)[1][-1][1:] == ["0.01", "0.62 of planted copies"]
    many = copies.model_copy(update={"found": wilson(36, 512)}).to_json()
    advice = models.card_advice({**card, "audit_agreement_ratio": 0.95, "copies": many})
    assert "36 of 512" in advice[0]
    dense = {"segmentation": {"figure": "miou", "generated": 0.5, "real": 0.8, "ratio": 0.6}}
    assert "segmentation" in models.card_table({**card, "label_agreement": dense})[1][1][0]
