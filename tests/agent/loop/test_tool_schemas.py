"""What a chat model is offered: schemas that allow legal plans and nothing else."""

from __future__ import annotations

import itertools
import random
from collections.abc import Sequence
from typing import Any

import jsonschema  # type: ignore[import-untyped]
from langchain_core.tools import BaseTool, StructuredTool

from agent.brains.actions import action_schema, as_plain_messages
from agent.loop.drafts import Use
from agent.loop.tool_schemas import SHARES, attributes_schema, tool_schemas
from agent.loop.validation import PlanRules
from agent.planners import PromptDraft, SliceShare
from memory.records import Hypothesis
from prompts.vocabulary import Phrases, Vocabulary, load_vocabulary

ELPV = load_vocabulary("elpv")


def propose_plan(
    draft: Use = "replace",
    shares: Sequence[SliceShare] = (),
    prompts: Sequence[PromptDraft] = (),
    why: str = "",
    hypothesis: Hypothesis | None = None,
) -> str:
    """Propose."""
    return ""


def finish(summary: str) -> str:
    """End."""
    return ""


TOOLS: list[BaseTool] = [StructuredTool.from_function(f) for f in (propose_plan, finish)]


def rules(n_images: int) -> PlanRules:
    return PlanRules(ELPV, n_images, len, 64, no_guidance="none is trained")


def schema(brief: bool, n_images: int = 200, slices: tuple[str, ...] = ()) -> Any:
    plan, end = tool_schemas(TOOLS, rules(n_images), slices, brief, drawable=slices)
    assert [plan["function"]["name"], end["function"]["name"]] == ["propose_plan", "finish"]
    return plan["function"]["parameters"], end["function"]["parameters"]


def tool_of(parameters: Any) -> Any:
    return {"type": "function", "function": {"name": "pick", "parameters": parameters}}


def as_words(parameters: Any) -> str:
    (words,) = as_plain_messages([], [tool_of(parameters)])
    return str(words.content)


def test_classes_values_and_counts_are_spelt_out() -> None:
    plan, _ = schema(brief=False)
    prompts = plan["properties"]["prompts"]
    assert (prompts["minItems"], prompts["maxItems"]) == (1, 200)
    prompt = prompts["items"]["properties"]
    assert prompt["class_name"] == {"enum": ["functional", "defective"]}
    for form in prompt["attributes"]["anyOf"]:
        assert form["properties"]["wafer"] == {"enum": ["mono", "poly"]}
    assert (prompt["count"]["minimum"], prompt["count"]["maximum"]) == (1, 200)
    assert "hypothesis" in plan["properties"]


def test_a_plan_names_how_many_prompts_it_needs() -> None:
    plan, _ = tool_schemas(TOOLS, rules(60), (), False, n_prompts=4)
    assert plan["function"]["parameters"]["properties"]["prompts"]["minItems"] == 4


def test_a_brief_plan_is_a_draft_or_shares() -> None:
    plan, _ = schema(brief=True, slices=("wafer=poly", "wafer=mono"))
    accepted, own = plan["anyOf"]
    assert set(accepted["properties"]) == {"draft", "why", "hypothesis"}
    assert set(own["required"]) == {"draft", "shares", "why"}
    share = own["properties"]["shares"]["items"]["properties"]
    assert share == {"where": {"enum": ["wafer=poly", "wafer=mono"]}, "share": {"enum": SHARES}}
    assert "shares" in as_words(plan) and "accept" in as_words(plan)


def test_a_brief_hypothesis_is_about_what_is_measured() -> None:
    assert "hypothesis" not in schema(brief=True)[0]["anyOf"][0]["properties"]
    plan, _ = schema(brief=True, slices=("wafer=mono", "wafer=poly"))
    for form in plan["anyOf"]:
        wanted = form["properties"]["hypothesis"]["properties"]
        assert wanted["slice"]["enum"] == ["wafer=mono", "wafer=poly"]


def test_values_are_allowed_as_the_vocabulary_allows_them() -> None:
    plan, _ = schema(brief=False)
    values = plan["properties"]["shares"]["items"]["properties"]["where"]
    grammar = action_schema([tool_of(values)])["properties"]["arguments"]
    rng = random.Random(0)
    n_legal = 0
    for _ in range(300):
        keys = rng.sample([*ELPV.attributes, "dark_area", "where"], rng.randrange(1, 5))
        named = {key: rng.choice([*ELPV.attributes[key], "gold"]) for key in keys}
        is_legal = not ELPV.problems(named)
        n_legal += is_legal
        for one in (values, grammar):
            assert jsonschema.Draft202012Validator(one).is_valid(named) == is_legal
    assert 50 < n_legal < 250
    assert as_words(values).count('"dark_area"') == 1


def test_conditions_on_one_another_are_kept() -> None:
    values = {"a": ("x", "y"), "b": ("x", "y"), "c": ("x",)}
    phrases = {k: {v: Phrases(adjective=(f"{k}{v}",)) for v in vs} for k, vs in values.items()}
    requires: Any = {"b": {"a": ("y",)}, "c": {"b": ("x",)}}
    vocabulary = Vocabulary(name="?", subjects=("cell",), requires=requires, attributes=phrases)
    checked = jsonschema.Draft202012Validator(attributes_schema(vocabulary))
    options = [[None, *vs] for vs in values.values()]
    for combination in itertools.product(*options):
        named = {k: v for k, v in zip(values, combination, strict=True) if v is not None}
        assert checked.is_valid(named) == (not vocabulary.problems(named)), named
