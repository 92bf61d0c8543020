"""The timeline of the web page: every round with its reasons, its outcome and its pictures."""

from __future__ import annotations

from pathlib import Path

from agent.web.page import draw
from agent.web.timeline import N_PROMPTS, steps
from memory.journal import read_events, rounds
from tests.agent.invented import record


def test_rounds_come_with_reasons_scores_and_pictures(tmp_path: Path) -> None:
    folder = record(tmp_path, "policy", "session.rounds=3")
    past = rounds(read_events(folder / "journal.jsonl"))
    found = steps(past)
    assert [step.round.number for step in found] == [1, 2, 3]
    first, second, third = found
    assert first.change is None and first.verdict == ""
    assert first.score and second.score and second.change is not None
    assert abs(second.change - (second.score.value - first.score.value)) < 1e-12
    assert third.verdict in ("held", "did not hold", "is undecided")
    for step in found:
        assert 0 <= step.left <= step.place <= step.left + step.width <= 100.1
        assert len(step.prompts) <= N_PROMPTS

    html = draw("timeline", past, "policy")
    assert html.count("<summary") == 3 and html.count("<details") == 3
    assert html.count(" open>") == 1
    assert "Slices get equally many images." in html
    assert f"the hypothesis {third.verdict}" in html
    assert "/pictures/prompts/2/r002p00?session=policy" in html


def test_a_round_that_only_has_a_plan_is_shown_and_its_words_are_harmless(tmp_path: Path) -> None:
    folder = record(tmp_path, "policy", "session.rounds=1")
    (whole,) = rounds(read_events(folder / "journal.jsonl"))
    assert whole.plan
    plan = whole.plan.model_copy(update={"why": "<b>{{x}}</b>\x1b[31m"})
    begun = whole.model_copy(update={"plan": plan, "batch": None, "report": None})
    (step,) = steps([begun])
    assert step.score is None
    html = draw("timeline", [begun], "policy")
    assert "&lt;b&gt;{{x}}&lt;/b&gt;" in html and "\x1b" not in html and "<img" not in html
    assert steps([whole.model_copy(update={"plan": None})]) == []
    assert "is shown here" in draw("timeline", [], "policy")
