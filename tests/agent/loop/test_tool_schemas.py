"""What a chat model is offered: schemas that allow legal plans and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.tools import BaseTool, StructuredTool

from agent.loop.drafts import Use
from agent.loop.tool_schemas import SHARES, tool_schemas
from agent.planners import PromptDraft, SliceShare
from memory.records import Hypothesis
from prompts.vocabulary import load_vocabulary

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


def schema(brief: bool, n_images: int = 200, slices: tuple[str, ...] = ()) -> Any:
    plan, end = tool_schemas(TOOLS, ELPV, n_images, slices, brief)
    assert [plan["function"]["name"], end["function"]["name"]] == ["propose_plan", "finish"]
    return plan["function"]["parameters"], end["function"]["parameters"]


def test_classes_values_and_counts_are_spelt_out() -> None:
    plan, _ = schema(brief=False)
    prompts = plan["properties"]["prompts"]
    assert (prompts["minItems"], prompts["maxItems"]) == (1, 200)
    prompt = prompts["items"]["properties"]
    assert prompt["class_name"] == {"enum": ["functional", "defective"]}
    assert prompt["attributes"]["properties"]["wafer"] == {"enum": ["mono", "poly"]}
    assert (prompt["count"]["minimum"], prompt["count"]["maximum"]) == (1, 200)
    assert "hypothesis" in plan["properties"]


def test_a_plan_names_how_many_prompts_it_needs() -> None:
    plan, _ = tool_schemas(TOOLS, ELPV, 60, (), False, n_prompts=4)
    assert plan["function"]["parameters"]["properties"]["prompts"]["minItems"] == 4


def test_a_brief_plan_is_a_draft_and_shares() -> None:
    plan, end = schema(brief=True)
    assert set(plan["properties"]) == {"draft", "shares", "why"}
    assert plan["required"] == ["draft", "why"]
    share = plan["properties"]["shares"]["items"]["properties"]
    assert share["share"]["enum"] == SHARES
    assert share["where"]["properties"]["wafer"] == {"enum": ["mono", "poly"]}
    assert end["properties"]["summary"]["maxLength"] == 200


def test_a_brief_hypothesis_is_about_what_is_measured() -> None:
    assert "hypothesis" not in schema(brief=True)[0]["properties"]
    plan, _ = schema(brief=True, slices=("wafer=mono", "wafer=poly"))
    wanted = plan["properties"]["hypothesis"]["properties"]
    assert wanted["slice"]["enum"] == ["wafer=mono", "wafer=poly"]
