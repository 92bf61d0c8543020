"""Levers of a plan: what they may be, what they do, and that a model that knows uses them well."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from agent.autonomous.runner import run
from agent.experiments.rerun import recorded_settings
from agent.loop.components import Components
from agent.loop.levers import training_changes
from agent.replay.verify import verify
from agent.session.folder import folder_of
from memory.events import IllegalCallEvent, ModelCallEvent, OpeningEvent, ToolsEvent
from memory.journal import read_events, rounds
from memory.records import EarlierImages, Levers, Plan, PromptSpec, Round
from tests.agent.invented import record
from tests.agent.quick import toy_settings
from tools.evaluate_real import read_sealed

END = {"tool": "finish", "arguments": {"summary": "done"}}
MONO, POLY = {"wafer": "mono"}, {"wafer": "poly"}


def propose(*shares: tuple[dict[str, str], float], **levers: Any) -> dict[str, Any]:
    of_plan = [{"where": where, "share": share} for where, share in shares]
    arguments = {"why": "?", "shares": of_plan, "levers": levers}
    return {"tool": "propose_plan", "arguments": arguments}


EVEN = ((MONO, 0.5), (POLY, 0.5))


def played(home: Path, *overrides: str, script: list[dict[str, Any]] | None = None) -> Path:
    """Run a session of a generator that mislabels mono cells, and return its folder."""
    name = "policy" if script is None else "model"
    planted: tuple[str, ...] = (
        "generator.name=tests.agent.loop.mislabelled:build",
        *("audit.method=none", "dstm.train_on=real+synthetic", "dstm.synthetic_share=0.6"),
        *("feedback.slices=[[wafer],[brightness]]", "feedback.discovery='off'"),
        *("session.images_per_round=32", "session.shard_size=16", "session.seed=1"),
        *("dstm.steps=40", "dstm.batch_size=16", "limits.disk_reserve_gb=0"),
    )
    if script is not None:
        (home / "script.json").write_text(json.dumps(script), encoding="utf-8")
        planted += (f"brain=scripted:{home / 'script.json'}",)
    run(toy_settings(home, *planted, f"session.name={name}", *overrides), Console(quiet=True))
    return folder_of(home, name)


def past_of(folder: Path) -> list[Round]:
    return rounds(read_events(folder / "journal.jsonl"))


def test_a_model_that_uses_them_beats_the_policy(tmp_path: Path) -> None:
    # A small trial shows that images of mono cells harm; then they are left out.
    trial = propose(*EVEN, n_images=8, later=[{"n_images": 56, "shares": {"wafer=poly": 0.8}}])
    drop = [{"where": MONO, "weight": 0}]
    chosen = {"steps": 120, "synthetic_share": 0.5}
    enough = {"tool": "finish", "arguments": {"end_session": "More of them would add little."}}
    script = [trial, END, propose((POLY, 1.0), earlier=drop, **chosen), enough]
    model = played(tmp_path, "limits.finish=true", script=script)
    policy = played(tmp_path)
    assert [r.batch.n_made for r in past_of(model) if r.batch] == [8, 56]
    assert [r.batch.n_made for r in past_of(policy) if r.batch] == [32, 32]
    by_policy, by_model = (
        read_sealed(folder)[-1].metrics["balanced_accuracy"].value for folder in (policy, model)
    )
    assert by_model > by_policy + 0.05
    last = past_of(model)[-1]
    assert last.training is not None and last.training.n_steps == 120
    openings = [e for e in read_events(model / "journal.jsonl") if isinstance(e, OpeningEvent)]
    assert [e.facts["n_images"] for e in openings] == [32, 56]
    (own,) = openings[-1].facts["schedule"]
    assert own["shares"] == {"wafer=poly": 0.8}
    asked = [e for e in read_events(model / "journal.jsonl") if isinstance(e, ModelCallEvent)]
    briefings = [m.content for e in asked for m in e.messages if "own schedule" in m.content]
    assert len(briefings) == 1 and "56 (80% wafer=poly)" in briefings[0]
    first = past_of(model)[1].plan
    assert first is not None
    mono = {prompt.id: 0.0 for prompt in first.prompts if MONO.items() <= prompt.attributes.items()}
    assert last.training.changes["prompt_weights"] == mono
    assert verify(model / "journal.jsonl").findings == ()
    # Who trains it again does so with the same settings.
    again = Components(recorded_settings(model, tmp_path)).dstm_of(last.training, 1)
    trained = json.loads((model / last.training.model / "model.json").read_bytes())
    assert trained["settings"] == again.model_dump(mode="json")


def test_values_out_of_bounds_are_refused_with_numbers(tmp_path: Path) -> None:
    wrong = propose(*EVEN, n_images=25, steps=100_000, synthetic_share=0.5, guidance=3)
    far = propose(*EVEN, earlier=[{"where": {"wafer": "gold"}, "rounds": [7], "weight": 0.5}])
    script = [wrong, propose(*EVEN, n_images=20), END, far, propose(*EVEN), END]
    folder = record(tmp_path, "bounds", script=script)
    problems = [
        e.problem for e in read_events(folder / "journal.jsonl") if isinstance(e, IllegalCallEvent)
    ]
    assert len(problems) == 2
    for named in ("n_images is 25", "4 to 24", "steps is 100000", "synthetic_share", "guidance"):
        assert named in problems[0]
    assert "gold" in problems[1] and "[7]" in problems[1]
    assert verify(folder / "journal.jsonl").findings == ()


def test_images_that_a_round_leaves_may_be_made_later(tmp_path: Path) -> None:
    script = [propose(*EVEN, n_images=10), END, propose(*EVEN, n_images=38), END]
    script += [propose(*EVEN, n_images=25), propose(*EVEN), END]
    folder = record(tmp_path, "moved", "session.rounds=3", script=script)
    plans = [one.plan for one in past_of(folder) if one.plan]
    assert [plan.n_images for plan in plans] == [10, 38, 24]
    events = read_events(folder / "journal.jsonl")
    (refused,) = [e for e in events if isinstance(e, IllegalCallEvent)]
    assert "4 to 24" in refused.problem


def test_a_schedule_moves_images_between_rounds_within_the_total(tmp_path: Path) -> None:
    short = propose(*EVEN, n_images=10, later=[{"n_images": 20}])
    much = propose(*EVEN, n_images=30, later=[{"n_images": 40}, {"n_images": 20}])
    odd = propose(*EVEN, n_images=4, later=[{"n_images": 2, "shares": {"wafer=gold": 1}}])
    good = propose(*EVEN, n_images=8, later=[{"n_images": 40}, {"n_images": 24}])
    script = [short, much, good, END, odd, propose(*EVEN), END]
    script += [propose(*EVEN, n_images=25), propose(*EVEN), END]
    folder = record(tmp_path, "spread", "session.rounds=3", script=script)
    plans = [one.plan for one in past_of(folder) if one.plan]
    assert [plan.n_images for plan in plans] == [8, 40, 24]
    events = read_events(folder / "journal.jsonl")
    problems = [e.problem for e in events if isinstance(e, IllegalCallEvent)]
    for problem, *named in zip(
        problems,
        ("1 rounds", "30 + 40 + 20 = 90", "of 2 images", "4 to 24"),
        ("2 are to come", "72 are left", "gold", ""),
        strict=True,
    ):
        assert all(text in problem for text in named), problem
    assert verify(folder / "journal.jsonl").findings == ()


def test_they_are_offered_where_they_have_an_effect(tmp_path: Path) -> None:
    folder = record(tmp_path, "offers", script=[propose(*EVEN), END, propose(*EVEN), END])
    offers = [e for e in read_events(folder / "journal.jsonl") if isinstance(e, ToolsEvent)]
    levers = [
        tool["function"]["parameters"]["properties"]["levers"]["properties"]
        for event in offers
        for tool in event.tools
        if tool["function"]["name"] == "propose_plan"
    ]
    assert set(levers[0]) == {"n_images", "later", "steps", "learning_rate"}
    assert set(levers[1]) == {*levers[0], "earlier"} - {"later"}
    # All of two rounds of 24 images but the least of the second one, where that is scheduled.
    assert (levers[0]["n_images"]["minimum"], levers[0]["n_images"]["maximum"]) == (4, 44)
    assert (levers[1]["n_images"]["minimum"], levers[1]["n_images"]["maximum"]) == (4, 24)


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_a_weight_holds_until_a_later_plan_changes_it(weight: float) -> None:
    prompt = PromptSpec(id="r001p00", text="a dark cell", class_name="functional", count=8)
    past = [Round(number=1, plan=Plan(round=1, author="?", prompts=(prompt,)))]
    given = Levers(earlier=(EarlierImages(weight=weight),))
    changes = training_changes(given, {}, past)
    assert set(changes["prompt_weights"].values()) == {weight}
    # Other levers are those of one round.
    assert training_changes(None, changes | {"steps": 7}, past) == changes
    restored = Levers(earlier=(EarlierImages(weight=1),))
    assert set(training_changes(restored, changes, past)["prompt_weights"].values()) == {1}
