"""Plans that a language model makes of the policy's draft, and plans as shares."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from agent.autonomous.status import deciders
from agent.loop.drafts import PlanChoice, PolicyDraft, compose, say_shares, share_of
from agent.planners import Observation, PlanDraft, SliceShare
from agent.planners.uniform import Uniform
from agent.replay.verify import verify
from memory.errors import ToolError
from memory.events import (
    FallbackEvent,
    IllegalCallEvent,
    ModelCallEvent,
    OpeningEvent,
    PlanEvent,
    RoundDoneEvent,
    ToolCallEvent,
)
from memory.journal import read_events
from memory.records import PromptSpec
from tests.agent.brains.random_model import RandomModel
from tests.agent.invented import PALETTE, VOCABULARY, record

SEEN = Observation(round=1, n_images=60, images_per_prompt=8, seed=0)
END = {"tool": "finish", "arguments": {"summary": "done"}}


def share(share: float, **where: str) -> SliceShare:
    return SliceShare(where=where, share=share)


def made(*shares: SliceShare, **fields: Any) -> PlanDraft:
    plan = Uniform().plan(SEEN, PALETTE, VOCABULARY)
    choice = PlanChoice(shares=shares, **fields)
    return compose(choice, PolicyDraft(planner="uniform", plan=plan), SEEN, PALETTE, VOCABULARY)


def test_shares_become_prompts_that_spend_every_image() -> None:
    plan = made(share(0.7, wafer="mono"), share(0.3, brightness="dark"), why="Dark ones fail.")
    assert sum(prompt.count for prompt in plan.prompts) == 60
    assert all(prompt.text and prompt.count <= 8 for prompt in plan.prompts)
    assert share_of({"wafer": "mono"}, plan.prompts) == pytest.approx(0.7, abs=0.02)
    assert plan.why == "Dark ones fail."


def test_shares_of_a_plan_are_relative() -> None:
    choice = PlanChoice(shares=(share(0.4, wafer="mono"), share(0.1, wafer="poly")))
    plan = made(*choice.shares)
    assert share_of({"wafer": "mono"}, plan.prompts) == pytest.approx(0.8, abs=0.02)
    prompts = [
        PromptSpec(id=str(i), text=p.text, class_name="?", attributes=p.attributes, count=p.count)
        for i, p in enumerate(plan.prompts)
    ]
    said = say_shares(choice, prompts)
    assert "0.50" in said[0] and "asked 80%" in said[1]


def test_a_slice_may_be_given_by_its_name() -> None:
    named = SliceShare.model_validate({"where": "dark_area=none severity=not so bad", "share": 1})
    assert named.where == {"dark_area": "none", "severity": "not so bad"}


@pytest.mark.parametrize("wanted", [0.1, 0.4, 0.9])
def test_an_edit_moves_one_share_and_keeps_the_rest(wanted: float) -> None:
    plan = made(share(wanted, wafer="poly"), draft="edit")
    assert share_of({"wafer": "poly"}, plan.prompts) == pytest.approx(wanted, abs=0.02)
    assert sum(prompt.count for prompt in plan.prompts) == 60


def test_an_accepted_draft_is_the_policys() -> None:
    assert made(draft="accept", why="Good.") == Uniform().plan(
        SEEN, PALETTE, VOCABULARY
    ).model_copy(update={"why": "Good."})


@pytest.mark.parametrize(
    ("shares", "draft", "named"),
    [
        ((share(1.0, wafer="gold"),), "replace", "gold"),
        ((share(1.0, wafer="mono", brightness="dark"),), "replace", "brightness=dark wafer=mono"),
        ((share(0.5, wafer="mono"),), "accept", "edit"),
        ((), "edit", "shares"),
    ],
)
def test_what_cannot_be_drawn_is_refused(
    shares: tuple[SliceShare, ...], draft: Any, named: str
) -> None:
    with pytest.raises(ToolError, match=re.escape(named)):
        made(*shares, draft=draft)


def test_the_record_keeps_the_draft_and_what_became_of_it(tmp_path: Path) -> None:
    def propose(**arguments: Any) -> dict[str, Any]:
        return {"tool": "propose_plan", "arguments": {"why": "?", **arguments}}

    edit = [{"where": {"wafer": "poly"}, "share": 0.25}]
    script = [propose(draft="accept"), END, propose(draft="edit", shares=edit), END]
    script += [propose(draft="accept"), END]
    folder = record(tmp_path, "drafts", "session.rounds=3", script=script)
    events = read_events(folder / "journal.jsonl")
    openings = [e for e in events if isinstance(e, OpeningEvent)]
    first, _, last = (PolicyDraft.model_validate(e.facts["draft"]) for e in openings)
    accepted, edited, _ = (e.plan for e in events if isinstance(e, PlanEvent))
    assert [p.text for p in accepted.prompts] == [p.text for p in first.plan.prompts]
    assert last.gains and last.planner == "audited_failure"
    # Whose plan it is; a word alone is no reason of the model's.
    assert all("audited_failure" in plan.why for plan in (accepted, edited))
    assert first.plan.why in accepted.why and "Its own reason" not in accepted.why
    assert "2 of 3 plans as the policy drafted" in deciders("scripted:script.json", events)
    assert share_of({"wafer": "poly"}, edited.prompts) == pytest.approx(0.25, abs=0.02)
    calls = [e for e in events if isinstance(e, ToolCallEvent) and e.tool == "propose_plan"]
    assert [call.arguments["draft"] for call in calls] == ["accept", "edit", "accept"]
    assert "wafer=poly: asked 25%, drawn 25%" in calls[1].result
    assert not any(isinstance(e, IllegalCallEvent) for e in events)
    assert verify(folder / "journal.jsonl").findings == ()


def test_a_small_model_plans_and_does_nothing_else(tmp_path: Path) -> None:
    accept = {"tool": "propose_plan", "arguments": {"draft": "accept", "why": "Good."}}
    lookup = {"tool": "recall_memory", "arguments": {"query": "dark cells"}}
    folder = record(tmp_path, "small", script=[accept, lookup, accept], mode="json")
    events = read_events(folder / "journal.jsonl")
    calls = [e for e in events if isinstance(e, ModelCallEvent)]
    assert [call.tools for call in calls] == [("propose_plan",)] * 3
    (refused,) = [e for e in events if isinstance(e, IllegalCallEvent)]
    assert refused.problem.endswith("Call one of: propose_plan.")
    ends = [e.summary for e in events if isinstance(e, RoundDoneEvent)]
    assert len(ends) == 2 and all("balanced_accuracy 0." in text for text in ends)
    done = [e.tool for e in events if isinstance(e, ToolCallEvent) and e.round == 1]
    assert done[-2:] == ["inspect_failures", "finish"]
    assert verify(folder / "journal.jsonl").findings == ()


def test_whatever_the_schema_lets_a_small_model_say_is_a_plan(tmp_path: Path) -> None:
    rounds = ("session.rounds=10", "session.images_per_round=60")
    folder = record(tmp_path, "random", *rounds, model=RandomModel())
    events = read_events(folder / "journal.jsonl")
    plans = [e for e in events if isinstance(e, PlanEvent)]
    assert [e.plan.n_images for e in plans] == [60] * 10
    assert {e.draft for e in plans} == {"accept", "edit", ""}
    assert not any(isinstance(e, IllegalCallEvent | FallbackEvent) for e in events)
