from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from agent import planners
from agent.loop.validation import PlanRules, validate
from agent.planners import (
    AttributeCombination,
    AttributeDistribution,
    Observation,
    PlanDraft,
    PromptDraft,
    count_attributes,
)
from agent.planners.slices import shares_to_counts
from agent.planners.thompson import build as build_thompson
from memory.errors import SettingsError, ToolError
from memory.records import (
    Batch,
    Hypothesis,
    Plan,
    PromptQuality,
    PromptSpec,
    Round,
)
from prompts.vocabulary import load_vocabulary
from tests.factories import report, slice_score

VOCABULARY = load_vocabulary("elpv")


def palette() -> AttributeDistribution:
    rows = []
    for wafer in ("mono", "poly"):
        for severity, class_name in (("functional", "functional"), ("defective", "defective")):
            for brightness, n in (("dark", 10), ("medium", 30), ("bright", 20)):
                attributes = {"wafer": wafer, "severity": severity, "brightness": brightness}
                rows.append(AttributeCombination(attributes=attributes, class_name=class_name, n=n))
    return AttributeDistribution(rows=tuple(rows))


def past_round(number: int, accuracies: dict[str, float], kept: dict[str, float]) -> Round:
    """A round with one prompt per brightness and a slice score for each."""
    values = ("dark", "medium", "bright")
    prompts = tuple(
        PromptSpec(
            id=f"r{number:03d}p{i:02d}",
            text=f"a {v} defective cell",
            class_name="defective",
            attributes={"wafer": "mono", "severity": "defective", "brightness": v},
            count=100,
        )
        for i, v in enumerate(values)
    )
    quality = tuple(
        PromptQuality(prompt_id=p.id, n_made=100, n_kept=round(100 * kept[v]), mean_weight=kept[v])
        for p, v in zip(prompts, values, strict=True)
    )
    slices = [slice_score({"brightness": v}, accuracies[v]) for v in values]
    return Round(
        number=number,
        plan=Plan(round=number, author="test", prompts=prompts),
        batch=Batch(round=number, job_id="j", shards=(), quality=quality),
        report=report(*slices, number=number),
    )


def observe(*rounds: Round, n_images: int = 200, seed: int = 0) -> Observation:
    number = len(rounds) + 1
    return Observation(
        round=number, n_images=n_images, images_per_prompt=8, seed=seed, rounds=rounds
    )


def spent_on(draft: PlanDraft, **attributes: str) -> int:
    return sum(p.count for p in draft.prompts if attributes.items() <= p.attributes.items())


def test_thompson_without_feedback_is_uniform_over_wafer_and_class() -> None:
    draft = build_thompson().plan(observe(), palette(), VOCABULARY)
    cells = Counter[tuple[str, str | None]]()
    for prompt in draft.prompts:
        cells[prompt.attributes["wafer"], prompt.class_name] += prompt.count
    assert set(cells.values()) == {50}


def test_thompson_spends_on_the_slice_that_is_bad_and_drawable() -> None:
    kept = {"dark": 0.9, "medium": 0.9, "bright": 0.9}
    rounds = past_round(1, {"dark": 0.5, "medium": 0.95, "bright": 0.95}, kept)
    drafts = [
        build_thompson().plan(observe(rounds, seed=s), palette(), VOCABULARY) for s in range(5)
    ]
    dark = sum(spent_on(d, brightness="dark") for d in drafts)
    bright = sum(spent_on(d, brightness="bright") for d in drafts)
    assert dark > 2 * bright


def test_thompson_turns_away_from_a_slice_that_the_generator_cannot_draw() -> None:
    accuracies = {"dark": 0.6, "medium": 0.6, "bright": 0.95}
    broken = past_round(1, accuracies, {"dark": 0.02, "medium": 0.9, "bright": 0.9})
    drafts = [
        build_thompson().plan(observe(broken, seed=s), palette(), VOCABULARY) for s in range(5)
    ]
    assert sum(spent_on(d, brightness="medium") for d in drafts) > 2 * sum(
        spent_on(d, brightness="dark") for d in drafts
    )


def test_thompson_learns_from_reward() -> None:
    """Two slices equally bad; images raised one of them, twice, and not the other."""
    kept = {"dark": 0.9, "medium": 0.9, "bright": 0.9}
    history = [
        past_round(1, {"dark": 0.3, "medium": 0.6, "bright": 0.9}, kept),
        past_round(2, {"dark": 0.45, "medium": 0.6, "bright": 0.9}, kept),
        past_round(3, {"dark": 0.6, "medium": 0.6, "bright": 0.9}, kept),
    ]
    drafts = [
        build_thompson(discount=1.0).plan(observe(*history, seed=s), palette(), VOCABULARY)
        for s in range(10)
    ]
    why = "accuracy 0.60 on brightness="
    dark, medium = (
        sum(p.count for d in drafts for p in d.prompts if p.why == why + value)
        for value in ("dark", "medium")
    )
    assert dark > 1.2 * medium


def test_thompson_keeps_its_floor_and_its_budget() -> None:
    kept = {"dark": 0.9, "medium": 0.9, "bright": 0.9}
    rounds = past_round(1, {"dark": 0.0, "medium": 1.0, "bright": 1.0}, kept)
    draft = build_thompson(floor=0.5).plan(observe(rounds), palette(), VOCABULARY)
    assert sum(p.count for p in draft.prompts) == 200
    assert sum(p.count for p in draft.prompts if p.why == "equal share") == 100
    assert draft.hypothesis is not None
    assert draft.hypothesis.slice == "brightness=dark"


def test_plan_is_a_function_of_seed_and_round() -> None:
    planner = build_thompson()
    one, two = (planner.plan(observe(seed=3), palette(), VOCABULARY) for _ in range(2))
    other = planner.plan(observe(seed=4), palette(), VOCABULARY)
    assert one == two
    assert one != other


@pytest.mark.parametrize(("shares", "total"), [([1, 1, 1], 10), ([0.5, 0.3, 0.2], 7), ([1], 3)])
def test_shares_to_counts_adds_up(shares: list[float], total: int) -> None:
    counts = shares_to_counts(shares, total)
    assert sum(counts) == total
    assert all(abs(c - s * total / sum(shares)) < 1 for c, s in zip(counts, shares, strict=True))


def check(*prompts: PromptDraft, n_images: int = 100, change: float = 0.1) -> Plan:
    draft = PlanDraft(
        prompts=prompts, hypothesis=Hypothesis(slice="wafer=mono", expected_change=change)
    )
    rules = PlanRules(VOCABULARY, n_images, lambda text: len(text.split()), 8)
    return validate(draft, 2, "test", rules)


def test_validate_reads_class_and_attributes_from_the_words() -> None:
    plan = check(PromptDraft(text="a dark poly cell, with a clear defect", count=5))
    (prompt,) = plan.prompts
    assert prompt.id == "r002p00"
    assert prompt.class_name == "defective"
    assert prompt.attributes == {"wafer": "poly", "severity": "defective", "brightness": "dark"}


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        (PromptDraft(text="a dark cell", count=5), "names no class"),
        (PromptDraft(text="a broken cell", count=0), "count must be 1 or more"),
        (PromptDraft(text="a broken cell", count=-3), "count must be 1 or more"),
        (PromptDraft(text="a broken cell", count=101), "only 100 images are left"),
        (PromptDraft(text=" ", class_name="defective", count=1), "1 to 1000 characters"),
        (PromptDraft(text="x", class_name="defectiv", count=1), "Did you mean 'defective'"),
        (PromptDraft(text="a broken cell", class_name="functional", count=1), "its words mean"),
        (
            PromptDraft(text="x", attributes={"wafer": "glass", "severity": "defective"}, count=1),
            "unknown value 'glass'",
        ),
    ],
)
def test_validate_says_what_is_wrong(prompt: PromptDraft, message: str) -> None:
    with pytest.raises(ToolError, match=message):
        check(prompt)


def test_validate_warns_of_a_prompt_over_the_token_limit() -> None:
    text = "a broken cell " + "very " * 10
    plan = check(PromptDraft(text=text, count=1))
    assert plan.prompts[0].text == text.strip()
    assert "13 tokens" in plan.warnings[0]


def test_palette_counts_combinations() -> None:
    import numpy as np

    from tools.data.samples import Samples

    samples = Samples(
        images=np.zeros((3, 1, 4, 4), np.uint8),
        classes=np.array([0, 0, 1]),
        attributes=[{"wafer": "mono"}, {"wafer": "mono"}, {"wafer": "poly"}],
        ids=["a", "b", "c"],
    )
    rows = count_attributes(samples, ["good", "bad"]).rows
    assert [(r.class_name, r.n) for r in rows] == [("good", 2), ("bad", 1)]


OWN = """
from types import SimpleNamespace


def plan_badly(observation, distribution, vocabulary):
    return {}["missing"]


def fails():
    return SimpleNamespace(name="fails", plan=plan_badly)


def gives_nothing():
    return SimpleNamespace(name="nothing", plan=lambda *given: None)


def no_planner():
    return 3
"""


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("own_plans:fails", ["own_plans:fails", "own_plans.py, line 6", "KeyError: 'missing'"]),
        ("own_plans:gives_nothing", ["NoneType", "PlanDraft"]),
        ("own_plans:no_planner", ["no method plan", "int"]),
        ("own_broken:build", ["Cannot import", "SyntaxError", "line 1"]),
        ("not_there:build", ["not_there", "PYTHONPATH"]),
    ],
)
def test_mistakes_of_an_own_planner_are_errors_that_name_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spec: str, words: list[str]
) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "own_plans.py").write_text(OWN)
    (tmp_path / "own_broken.py").write_text("def build(:")
    seen = Observation(round=1, n_images=16, images_per_prompt=8, seed=1)
    with pytest.raises(SettingsError) as caught:
        planners.build(spec).plan(seen, palette(), VOCABULARY)
    assert [word for word in words if word not in str(caught.value)] == []
