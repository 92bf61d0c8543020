from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pytest

from agent.loop.expectations import expect, say_expectation
from memory.items import Data, MemoryItem, SearchHit
from memory.records import Plan, PromptSpec
from prompts.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary("elpv")
ATTRIBUTES = {"wafer": "poly", "brightness": "dark", "severity": "defective"}
TEXT = VOCABULARY.caption(ATTRIBUTES)
DARK = "brightness=dark wafer=poly"


def plan(*counts: int, attributes: dict[str, str] | None = None) -> Plan:
    attributes = attributes or ATTRIBUTES
    prompts = [
        PromptSpec(
            id=f"p{i}",
            text=VOCABULARY.caption(attributes),
            class_name="defective",
            attributes=attributes,
            count=count,
        )
        for i, count in enumerate(counts)
    ]
    return Plan(round=2, author="test", prompts=tuple(prompts))


def hit(
    n_made: int,
    kept_rate: float,
    credited: Mapping[str, float] | None = None,
    similarity: float = 1.0,
    text: str = TEXT,
) -> SearchHit:
    data: Data = {"n_made": n_made, "kept_rate": kept_rate}
    data |= {f"credit {key}": value for key, value in (credited or {}).items()}
    data |= {f"error of {key}": 0.03 for key in credited or {}}
    name = f"{text} {n_made} {kept_rate} {similarity}"
    item = MemoryItem(
        id=name, kind="prompt", text=text, target="elpv", session="s", round=1, data=data
    )
    return SearchHit(item=item, similarity=similarity)


def test_without_memory_eight_of_ten_are_kept() -> None:
    expectation = expect(plan(30, 10), {}, 0.5, VOCABULARY)
    assert expectation.kept_rate == pytest.approx(0.8)
    assert [p.n_behind for p in expectation.prompts] == [0, 0]
    assert (expectation.seconds, expectation.slices, expectation.warnings) == (20, (), ())
    assert expect(plan(30), {}, None, VOCABULARY).seconds is None


def test_the_kept_rate_is_a_beta_posterior() -> None:
    (prompt,) = expect(plan(8), {"p0": [hit(90, 0.5)]}, None, VOCABULARY).prompts
    overall = (8 + 45) / (10 + 90)
    assert prompt.kept_rate == pytest.approx((10 * overall + 45) / (10 + 90))
    assert prompt.n_behind == 90


def test_similarity_weighs_and_far_or_other_classes_do_not_count() -> None:
    found = {
        "p0": [
            hit(100, 0.5, similarity=0.8),
            hit(100, 0.1, similarity=0.59),
            hit(100, 0.2, text="a polycrystalline dark functional cell"),
        ]
    }
    (prompt,) = expect(plan(8), found, None, VOCABULARY).prompts
    overall = (8 + 50 + 10 + 20) / 310
    assert prompt.n_behind == pytest.approx(50)
    assert prompt.kept_rate == pytest.approx((10 * overall + 25) / 60)


def test_an_item_found_for_two_prompts_counts_once_in_the_overall_rate() -> None:
    found = {"p0": [hit(90, 0.5)], "p1": [hit(90, 0.5)]}
    expectation = expect(plan(10, 30), found, None, VOCABULARY)
    assert expectation.n_behind == 90
    rates = [p.kept_rate for p in expectation.prompts]
    assert expectation.kept_rate == pytest.approx((10 * rates[0] + 30 * rates[1]) / 40)


def test_slices_add_up_benefit_and_harm_of_the_prompts_that_name_them() -> None:
    found = {
        "p0": [hit(50, 0.9, {DARK: 0.08, "wafer=mono": 0.9})],
        "p1": [hit(150, 0.9, {DARK: -0.04})],
    }
    (score,) = expect(plan(100, 50), found, None, VOCABULARY).slices
    assert score.slice == DARK
    assert score.benefit == pytest.approx(0.08 * 50 / 100)
    assert score.harm == pytest.approx(-0.04 * 150 / 200 / 2)
    assert score.change == pytest.approx(0.04 - 0.015)


@pytest.mark.parametrize(
    ("hits", "says"),
    [
        ([hit(16, 0.25)], "kept 4 of 16 images"),
        ([hit(4, 0.25), hit(4, 0.25, similarity=0.9)], "kept 2 of 8 images"),
        ([hit(8, 0.9, {"a": -0.1, "b": -0.1, "c": 0.5})], "2 of 3 slices lost accuracy"),
    ],
)
def test_what_was_tried_and_failed_is_a_warning(hits: list[SearchHit], says: str) -> None:
    expectation = expect(plan(8, 8), {"p0": hits, "p1": hits}, None, VOCABULARY)
    (warning,) = expectation.warnings
    assert says in warning
    assert TEXT in warning
    assert f"Warning: {warning}" in say_expectation(expectation)


@pytest.mark.parametrize(
    "hits",
    [
        [hit(7, 0.0)],
        [hit(100, 0.4)],
        [hit(100, 0.1, text="a bright polycrystalline defective cell")],
        [hit(100, 0.9, {"a": -0.05, "b": 0.1})],
        [hit(100, 0.9, {"a": -0.06, "b": -0.06})],
    ],
)
def test_what_may_still_work_is_none(hits: list[SearchHit]) -> None:
    assert expect(plan(8), {"p0": hits}, None, VOCABULARY).warnings == ()


def test_harm_is_warned_of_beyond_chance_only() -> None:
    """Eight prompts of a round are credited with its noise on three slices."""
    rng = np.random.default_rng(0)
    n_warned = 0
    for _ in range(200):
        noise = rng.normal(0, 0.03, 3)
        credited = {name: float(value) for name, value in zip("abc", noise, strict=True)}
        hits = [hit(8 + i, 0.9, credited) for i in range(8)]
        n_warned += bool(expect(plan(8), {"p0": hits}, None, VOCABULARY).warnings)
    assert n_warned <= 0.06 * 200


def test_other_kinds_of_memory_are_left_out() -> None:
    item = MemoryItem(
        id="l", kind="lesson", text=TEXT, target="elpv", session="s", round=1, data={"held": True}
    )
    expectation = expect(plan(8), {"p0": [SearchHit(item=item, similarity=1.0)]}, None, VOCABULARY)
    assert expectation == expect(plan(8), {}, None, VOCABULARY)


def test_the_text_says_the_figures_and_is_bounded() -> None:
    found = {"p0": [hit(50, 0.1, {DARK: 0.08})]}
    said = say_expectation(expect(plan(100), found, 0.25, VOCABULARY))
    assert said.startswith("Expected: about 12 of 100 images kept (0.12; from 50 similar images).")
    assert "Generating takes about 25 s." in said
    assert "- p0: only 0.12 kept" in said
    assert f'- slice "{DARK}": +0.040 (benefit +0.040, harm +0.000)' in said

    combinations = [
        {"wafer": wafer, "severity": "defective", "contrast": contrast, "brightness": brightness}
        for wafer in VOCABULARY.attributes["wafer"]
        for contrast in VOCABULARY.attributes["contrast"]
        for brightness in VOCABULARY.attributes["brightness"]
    ]
    prompts = [
        plan(8, attributes=attributes).prompts[0].model_copy(update={"id": f"r002p{i:02d}"})
        for i, attributes in enumerate(combinations)
    ]
    many = Plan(round=2, author="test", prompts=tuple(prompts))
    failed = {p.id: [hit(16, 0.1, {DARK: 0.1, "x" * 999: 0.1}, text=p.text)] for p in prompts}
    expectation = expect(many, failed, 0.25, VOCABULARY)
    assert expectation.warnings[-1] == "and 8 more that were tried and failed"
    assert len(expectation.warnings) == 11
    assert 1500 < len(say_expectation(expectation)) <= 2000
