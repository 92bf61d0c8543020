from __future__ import annotations

import random
import re
from typing import Any

import pytest
from pydantic import ValidationError

from agent.loop.validation import MAX_PROMPTS, MAX_REFUSAL, PlanRules, slice_attributes, validate
from agent.planners import PlanDraft, PromptDraft
from memory.errors import ToolError
from memory.records import Hypothesis, Plan
from prompts.vocabulary import load_vocabulary

VOCABULARY = load_vocabulary("elpv")
SLICES = ("wafer=mono", "wafer=poly", "brightness=dark wafer=poly", "brightness=bright wafer=poly")


def check(
    *prompts: PromptDraft, slice_: str | None = None, n_images: int = 100, **changes: Any
) -> Plan:
    hypothesis = Hypothesis(slice=slice_, expected_change=0.1) if slice_ is not None else None
    draft = PlanDraft(prompts=prompts, hypothesis=hypothesis)
    rules = PlanRules(VOCABULARY, n_images, lambda text: len(text.split()), 64, **changes)
    return validate(draft, 2, "test", rules)


def prompt(text: str = "", count: int = 1, **changes: Any) -> PromptDraft:
    return PromptDraft(text=text, count=count, **changes)


BROKEN = prompt("a broken cell")


def test_the_grammar_says_a_prompt_without_text() -> None:
    attributes = {"wafer": "poly", "brightness": "dark", "severity": "probable"}
    (spec,) = check(prompt(attributes=attributes, count=5)).prompts
    assert spec.text == "a polycrystalline probably defective dark solar cell"
    assert (spec.class_name, spec.attributes) == ("defective", attributes)


def test_a_class_without_words_gets_some() -> None:
    plan = check(prompt(attributes={"wafer": "mono"}, class_name="defective"))
    assert plan.prompts[0].text == "a monocrystalline defective solar cell"
    assert plan.prompts[0].attributes["severity"] == "defective"
    assert plan.warnings == ()


def test_what_the_text_names_joins_the_attributes_given() -> None:
    (spec,) = check(prompt("a dark broken cell", attributes={"brightness": "dark"})).prompts
    assert spec.attributes == {"brightness": "dark", "severity": "defective"}


def test_a_text_that_contradicts_its_attributes_is_refused() -> None:
    with pytest.raises(ToolError, match=r"text says brightness=dark, but .* say brightness=bright"):
        check(prompt("a dark broken cell", attributes={"brightness": "bright"}))


def test_words_outside_the_vocabulary_are_a_warning() -> None:
    text = "a broken cell in heavy snow, very old, with rust, by Rembrandt and others"
    (warning,) = check(prompt(text)).warnings
    assert '"heavy", "snow", "very", "old", "rust" and others' in warning
    assert "broken" not in warning.split(":")[1]


def test_what_the_text_does_not_say_is_a_warning() -> None:
    (warning,) = check(prompt("a broken cell", attributes={"wafer": "poly"})).warnings
    assert "does not say wafer=poly" in warning
    (warning,) = check(prompt("a dark cell", class_name="defective")).warnings
    assert "does not say the class 'defective'" in warning


def test_the_grammar_gives_no_warnings() -> None:
    rng = random.Random(0)
    choices = [(key, value) for key, values in VOCABULARY.attributes.items() for value in values]
    drafts: list[PromptDraft] = []
    while len(drafts) < 100:
        attributes = {"severity": "suspect"} | dict(rng.sample(choices, 3))
        if not VOCABULARY.problems(attributes):
            drafts.append(prompt(VOCABULARY.caption(attributes, rng), attributes=attributes))
    plan = check(*drafts)
    assert plan.n_images == 100
    assert [w for w in plan.warnings if "repeated" not in w] == []


def test_equal_prompts_become_one() -> None:
    other = prompt("a broken cell", attributes={"wafer": "poly"})
    plan = check(prompt("a broken cell", 3), BROKEN, prompt("an intact cell", 2), other)
    assert [(p.id, p.count) for p in plan.prompts] == [("r002p00", 5), ("r002p02", 2)]
    assert "2 prompts repeated" in plan.warnings[0]


@pytest.mark.parametrize(
    "given",
    [
        "brightness=dark wafer=poly",
        "wafer=poly, brightness=dark",
        "Wafer = Poly; Brightness: dark",
        "wafer=poly & brightness=dark",
        "wafer=poly and brightness=dark",
    ],
)
def test_slices_get_their_canonical_name(given: str) -> None:
    plan = check(BROKEN, slice_=given, slices=SLICES)
    assert plan.hypothesis is not None
    assert plan.hypothesis.slice == "brightness=dark wafer=poly"
    assert plan.warnings == ()


@pytest.mark.parametrize(
    "given",
    ["", "dark", "wafer", "wafer=", "wafer=glass", "wafer=poly wafer=mono", "not wafer=poly", "="],
)
def test_what_is_no_slice_is_refused_with_near_ones(given: str) -> None:
    assert given == "wafer=glass" or slice_attributes(given) is None
    with pytest.raises(ToolError, match=r"names no slice.*near it are: \w+=\w+"):
        check(BROKEN, slice_=given, slices=SLICES)


def test_near_slices_are_those_of_the_report_or_of_the_vocabulary() -> None:
    with pytest.raises(ToolError, match="near it are: wafer=poly, wafer=mono"):
        check(BROKEN, slice_="wafer=polly", slices=SLICES[:2])
    with pytest.raises(ToolError, match="near it are: contrast=high"):
        check(BROKEN, slice_="contrast=higher")


def test_a_slice_that_is_not_measured_is_a_warning() -> None:
    plan = check(BROKEN, slice_="contrast=high", slices=SLICES)
    assert "'contrast=high' is not measured" in plan.warnings[0]
    assert check(BROKEN, slice_="contrast=high").warnings == ()


@pytest.mark.parametrize("count", [True, False, float("nan"), float("inf"), "many", None])
def test_a_count_is_a_number(count: Any) -> None:
    with pytest.raises(ValidationError, match="count"):
        prompt("a broken cell", count)


@pytest.mark.parametrize("count", [101, 10**9, 10**400, 10**5000, -(10**5000)], ids=range(5))
def test_any_count_beyond_the_budget_is_refused(count: int) -> None:
    with pytest.raises(ToolError, match=r"only 100 images are left|more than 10\^12"):
        check(prompt("a broken cell", count))


def test_everything_wrong_is_listed_at_once() -> None:
    bad = prompt("a dark cell", 200, attributes={"brightness": "bright", "colour": "red"})
    with pytest.raises(ToolError) as caught:
        check(bad, slice_="nonsense")
    said = str(caught.value)
    for part in ("only 100 images", "text says", "'colour'", "names no class", "names no slice"):
        assert part in said


def test_refusals_and_warnings_are_bounded() -> None:
    many = [prompt("x" * 2000, 0, attributes={"k" * 999: "v" * 999})] * (MAX_PROMPTS + 1)
    with pytest.raises(ToolError) as caught:
        check(*many)
    said = str(caught.value)
    assert len(said) <= MAX_REFUSAL
    assert re.search(r"and \d+ more problems\.$", said)
    plan = check(*(prompt(f"a broken cell number {i}") for i in range(30)))
    assert len(plan.warnings) == 11
    assert plan.warnings[-1] == "and 20 more warnings"


def test_texts_lose_what_cannot_be_written_or_seen() -> None:
    text = "a broken\ud800 cell\n\x00,\u202edark\u2028"
    (spec,) = check(prompt(text, why="so\x1b[31m\ud8ff")).prompts
    assert spec.text == "a broken cell , dark"
    assert spec.why == "so [31m"
    assert spec.model_dump_json().encode()


def test_words_that_the_generator_cannot_draw_are_named() -> None:
    plan = check(
        prompt("a dark broken cell"),
        prompt("a broken cell"),
        undrawn=lambda text: [word for word in text.split() if word == "dark"],
    )
    assert plan.warnings == ('prompt 1 has words that the generator cannot draw: "dark"',)
