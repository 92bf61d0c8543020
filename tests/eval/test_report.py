from __future__ import annotations

import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest

from eval.report.blocks import Table, report_lines
from eval.report.charts import (
    BeforeAfter,
    Layer,
    Series,
    line_chart,
    row_chart,
    spread,
    stacked_bars,
    ticks,
)
from eval.report.page import ReportData, build_report_html, failure_cards
from eval.report.session_charts import composition, main_metric, worst_slices
from eval.report.text import duration, number, p_value, signed
from memory.records import Round
from tests.eval.fake_session import session, share
from tests.factories import report, slice_score

VOID = {"meta", "link", "img", "br"}


class Page(HTMLParser):
    """Reads a page, and fails where a tag is closed that is not open."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]


def crashed() -> ReportData:
    whole = session()
    last = whole.rounds[-1]
    torn = Round(number=4, plan=last.plan, batch=last.batch, seconds={"generate": 31.0})
    return replace(whole, rounds=[*whole.rounds[:-1], torn], sealed=whole.sealed[:-1])


def only_planned() -> ReportData:
    whole = session()
    return replace(whole, rounds=[Round(number=1, plan=whole.rounds[0].plan)], sealed=[])


def no_failures() -> ReportData:
    whole = session()
    return replace(whole, rounds=[r.model_copy(update={"failures": ()}) for r in whole.rounds])


def nothing() -> ReportData:
    return ReportData(session="new", settings={}, notice="", rounds=())


def bare_report() -> ReportData:
    bare = report()
    return replace(nothing(), rounds=[Round(number=1, report=bare)], sealed=[bare])


SESSIONS = {
    "whole": session,
    "one round": lambda: session(1),
    "many rounds": lambda: session(30, 40, 5, prompt_montages={}),
    "crashed": crashed,
    "only planned": only_planned,
    "no failures": no_failures,
    "nothing": nothing,
    "bare report": bare_report,
}


@pytest.mark.parametrize("name", SESSIONS)
def test_every_session_gives_a_whole_page_that_asks_for_nothing(name: str) -> None:
    html = build_report_html(SESSIONS[name]())
    assert html.startswith("<!DOCTYPE html>")
    page = Page(html)
    for _, attributes in page.tags:
        for key in ("src", "href"):
            value = attributes.get(key) or ""
            assert value.startswith(("data:", "#")) or key not in attributes
    assert not page.all("script")
    assert "url(" not in html
    assert "@import" not in html
    assert "default-src 'none'" in html
    assert all(image["alt"] for image in page.all("img"))
    targets = {attributes.get("id") for _, attributes in page.tags}
    assert all((a["href"] or "")[1:] in targets for a in page.all("a"))


@pytest.mark.parametrize("name", SESSIONS)
def test_charts_are_named_and_all_coordinates_are_inside(name: str) -> None:
    html = build_report_html(SESSIONS[name]())
    for svg in re.findall(r'<svg class="chart".*?</svg>', html, re.DOTALL):
        assert 'role="img"' in svg
        assert re.search(r"><title>[^<]+</title><desc>[^<]+</desc>", svg)
        assert "nan" not in svg
        width = float(re.findall(r'viewBox="0 0 (\d+) \d+"', svg)[0])
        height = float(re.findall(r'viewBox="0 0 \d+ (\d+)"', svg)[0])
        for x in re.findall(r' c?x[12]?="([^"]+)"', svg):
            assert 0 <= float(x) <= width
        for y in re.findall(r' c?y[12]?="([^"]+)"', svg):
            assert 0 <= float(y) <= height


def test_the_same_data_give_the_same_bytes() -> None:
    assert build_report_html(session()) == build_report_html(session())
    settings = {"b": {"d": 1, "c": [1, 2]}, "a": None}
    turned = {"a": None, "b": {"c": [1, 2], "d": 1}}
    assert build_report_html(session(settings=settings)) == build_report_html(
        session(settings=turned)
    )


def test_text_of_every_origin_is_escaped() -> None:
    evil = "<script>alert('x')</script>\"&"
    whole = session(1)
    first = whole.rounds[0]
    assert first.plan
    assert first.report
    prompt = first.plan.prompts[0].model_copy(
        update={"text": evil, "why": evil, "class_name": evil, "attributes": {evil: evil}}
    )
    plan = first.plan.model_copy(
        update={"prompts": (prompt,), "why": evil, "warnings": (evil,), "author": evil}
    )
    scores = tuple(s.model_copy(update={"key": evil + s.key}) for s in first.report.slices)
    failures = tuple(f.model_copy(update={"slice": evil}) for f in first.failures)
    changed = first.model_copy(
        update={
            "plan": plan,
            "report": first.report.model_copy(update={"slices": scores}),
            "failures": failures,
            "seconds": {evil: 1.0},
        }
    )
    html = build_report_html(
        replace(
            whole,
            session=evil,
            rounds=[changed],
            settings={evil: {evil: evil}},
            notice=evil,
            events=[{"kind": evil, evil: evil}],
            preferences=Table([evil], [[evil]], evil),
            reproduce=[evil],
        )
    )
    assert "<script" not in html
    page = Page(html)
    assert f"a {evil} b" not in page.text
    assert page.text.count("<script>alert('x')</script>\"&") > 20


def test_headline_figures_appear_with_their_intervals() -> None:
    data = session()
    reports = [r.report for r in data.rounds if r.report]
    text = Page(build_report_html(data)).text
    for measured in (reports[0], reports[-1], data.sealed[0], data.sealed[-1]):
        score = measured.metrics["balanced_accuracy"]
        assert f"{score.value:.3f}" in text
        assert f"95% interval {score.low:.2f} to {score.high:.2f}" in text
    assert "Balanced accuracy on feedback" in text
    assert "Balanced accuracy on the sealed test" in text
    assert "Sealed: opened only by this report." in text
    assert "4 rounds, 32 prompts, 800 generated images" in text
    assert "it may be chance" not in text, "the intervals of this session do not overlap"


def test_a_change_within_the_intervals_is_called_possible_chance() -> None:
    data = session()
    text = Page(build_report_html(replace(data, rounds=data.rounds[1:3], sealed=[]))).text
    assert "the intervals overlap: it may be chance" in text


def test_prompts_show_what_came_of_them() -> None:
    data = session()
    html = build_report_html(data)
    page = Page(html)
    for r in data.rounds:
        assert r.plan
        for prompt in r.plan.prompts:
            assert prompt.id in page.text
            assert any(
                (image["alt"] or "").startswith(f"Images generated for prompt {prompt.id}: ")
                for image in page.all("img")
            )
    changes = sorted(c.change for r in data.rounds for c in r.credits)
    assert signed(changes[0]) in page.text
    assert signed(changes[-1]) in page.text
    assert "r001p03 is over the token limit" in page.text
    assert [("open" in d) for d in page.all("details")[:4]] == [False, False, False, True]


def test_a_change_that_may_be_chance_is_told_so() -> None:
    data = session()
    assert "(intervals overlap)" not in Page(build_report_html(data)).text
    last = data.rounds[-1]
    assert last.verdict and last.verdict.before and last.verdict.after
    wide = last.verdict.before.model_copy(update={"high": last.verdict.after.value})
    unsure = last.model_copy(update={"verdict": last.verdict.model_copy(update={"before": wide})})
    text = Page(build_report_html(replace(data, rounds=[*data.rounds[:-1], unsure]))).text
    assert text.count("(intervals overlap)") == 1


def test_failures_hypotheses_events_settings_and_licence_appear() -> None:
    data = session()
    text = Page(build_report_html(data)).text
    last = data.rounds[-1]
    for failure in last.failures:
        assert failure.slice in text
        assert f"{failure.n_wrong} of {failure.n}" in text
    verdicts = [r.verdict for r in data.rounds if r.verdict]
    assert text.count("held") == len(verdicts)
    assert last.verdict
    assert last.verdict.change is not None
    assert signed(last.verdict.change) in text
    assert "2025-05-06 07:08:09" in text
    assert "propose plan: the chat model gave no valid call" in text
    assert "killed: The process was killed in round 3, stage generate." in text
    assert "target.size_px 64" in text
    assert data.notice in text
    assert data.reproduce[0] in text


def test_missing_parts_are_named() -> None:
    text = Page(build_report_html(crashed())).text
    assert "Round 4 is unfinished: planned, generated, not yet trained." in text
    assert "shaping resume solar-0007" in text
    text = Page(build_report_html(only_planned())).text
    assert "planned, not yet generated" in text
    assert "No model has been evaluated yet." in text
    text = Page(build_report_html(no_failures())).text
    assert "No slice is significantly worse than the rest" in text
    text = Page(build_report_html(nothing())).text
    assert "No round has been planned yet." in text


def test_long_rounds_start_collapsed() -> None:
    page = Page(build_report_html(session(2, 40, 5)))
    assert not any("open" in d for d in page.all("details"))


def test_composition_adds_up_and_counts_what_is_not_named() -> None:
    data = session()
    table = composition(data.rounds)
    assert list(table)[:4] == ["class", "wafer", "severity", "brightness"]
    for values in table.values():
        assert [sum(column) for column in zip(*values.values(), strict=True)] == [200] * 4
    assert list(table["where"])[-1] == "not named"
    assert "not named" not in table["wafer"]


def test_of_equally_bad_slices_all_pages_name_that_of_the_report_first() -> None:
    slices = [slice_score({"k": value}, 0.5) for value in ("a", "b")]
    text = str(report_lines(report(*slices, worst_slice="k=b")))
    assert text.index("k=b") < text.index("k=a")


def test_worst_slices_are_those_of_either_end() -> None:
    reports = [r.report for r in session().rounds if r.report]
    rows = worst_slices(reports)
    keys = {row.label for row in rows}
    assert {reports[0].worst_slice, reports[-1].worst_slice} <= keys
    assert reports[-1].worst_slice == rows[0].label
    assert 8 <= len(rows) <= 16
    alone = worst_slices(reports[:1])
    assert len(alone) == 8
    assert all(row.before is None and row.change is None for row in alone)


def test_failures_that_are_gone_are_told_apart_from_those_that_stay() -> None:
    rounds = session(6).rounds
    now, earlier = failure_cards(rounds, {})
    assert [c.failure for c in now] == list(rounds[-1].failures)
    still = {c.failure.id for c in now if c.failure.significant}
    ever = {f.id for r in rounds for f in r.failures if f.significant}
    assert {c.failure.id for c in earlier} == ever - still
    assert all(6 not in c.rounds and c.round == c.rounds[-1] for c in earlier)
    assert all(6 in c.rounds for c in now if c.failure.significant)


def test_the_leading_metric() -> None:
    assert main_metric([report(metrics={"miou": share(0.5, 10)})]) == "miou"
    assert main_metric([]) == "balanced_accuracy"


def test_many_values_share_one_colour() -> None:
    whole = session(1)
    plan = whole.rounds[0].plan
    assert plan
    prompts = tuple(
        p.model_copy(update={"attributes": {"tint": f"tint-{i}"}})
        for i, p in enumerate(plan.prompts)
    )
    changed = Round(number=1, plan=plan.model_copy(update={"prompts": prompts}))
    assert "3 others" in build_report_html(replace(whole, rounds=[changed], sealed=[]))


@pytest.mark.parametrize(
    ("low", "high"), [(0.55, 0.76), (0, 200), (0.5, 0.5), (0, 1e-9), (3, 8000), (-2.5, 1)]
)
def test_ticks_enclose_the_data_in_even_steps(low: float, high: float) -> None:
    marks = ticks(low, high, 5)
    assert marks[0] <= low + 1e-6
    assert marks[-1] >= high - 1e-6
    assert 2 <= len(marks) <= 8
    steps = {round(b - a, 8) for a, b in pairwise(marks)}
    assert len(steps) == 1


def test_labels_are_spread_in_order_and_within_bounds() -> None:
    placed = spread([50, 51, 49, 99], 16, 0, 100)
    assert sorted(range(4), key=lambda i: placed[i]) == [2, 0, 1, 3]
    ordered = sorted(placed)
    assert min(b - a for a, b in pairwise(ordered)) >= 16
    assert ordered[0] >= 0
    assert ordered[-1] <= 100
    assert spread([10, 90], 16, 0, 100) == [10, 90]


def test_charts_place_their_marks_where_the_figures_are() -> None:
    chart = line_chart(
        "t",
        "d",
        [Series("a", {1: share(0.5, 9), 3: share(0.5, 9)}, "s0", True)],
        [1, 2, 3],
        "y",
        (700,),
    ).wide
    left, right = (
        float(x) for x in re.findall(r'<circle class="dot s0" cx="([^"]+)"[^>]*><title>', chart)
    )
    assert right > left
    assert chart.count("<title>a, round") == 2
    bars = stacked_bars("t", "d", [1], [Layer("a", [30], "s0"), Layer("b", [10], "s1")], "y").wide
    heights = [float(h) + 1 for h in re.findall(r'class="bar[^>]*height="([^"]+)"><title>', bars)]
    assert heights[0] / heights[1] == pytest.approx(3, abs=0.05)
    rows = [BeforeAfter("slice", share(0.2, 50), share(0.4, 50)), BeforeAfter("new", None, None)]
    pair = row_chart("t", "d", rows, "x", widths=(700,)).wide
    ring = float(re.findall(r'class="ring" cx="([^"]+)"', pair)[0])
    dot = float(re.findall(r'class="dot s0" cx="([^"]+)"', pair)[0])
    zero, *_, one = map(float, re.findall(r'class="grid" x1="([^"]+)"', pair))
    assert dot - ring == pytest.approx(0.2 * (one - zero), abs=0.2)
    assert "+0.20" in pair


def test_numbers_are_rounded_sensibly() -> None:
    assert [number(v) for v in (0.71249, -0.0001, -0.5)] == ["0.712", "0.000", "\u22120.500"]
    assert [signed(v, 2) for v in (0.123, -0.123, 0.001)] == ["+0.12", "\u22120.12", "0.00"]
    assert [p_value(v) for v in (0.00002, 0.0123, 0.456)] == ["< 0.001", "0.012", "0.46"]
    assert [duration(s) for s in (0.42, 9.99, 42, 59.7, 185, 4350)] == [
        "0.4 s",
        "10.0 s",
        "42 s",
        "1 min 00 s",
        "3 min 05 s",
        "1 h 12 min",
    ]
