"""Pulls and selection in a session: who decides, and that a session stays what it is."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from langchain_core.tools import BaseTool, StructuredTool
from rich.console import Console

from agent.autonomous.runner import run
from agent.config.settings import Settings, load_settings
from agent.experiments.rerun import rerun
from agent.loop.tool_schemas import tool_schemas
from agent.loop.validation import PlanRules, validate
from agent.planners import PlanDraft, PromptDraft, SliceShare
from agent.replay.verify import verify
from agent.session.folder import folder_of
from memory.errors import SettingsError, ToolError
from memory.journal import read_events, rounds
from memory.records import Plan
from prompts.vocabulary import load_vocabulary
from tools.diffusion.weights import new_pipeline

MakeSettings = Callable[..., Settings]

VOCABULARY = load_vocabulary("elpv")


def check(*pulls: str | None, default: str | None = None, no_guidance: str | None = None) -> Plan:
    prompts = tuple(PromptDraft(text="a broken cell", count=2, pull=pull) for pull in pulls)
    rules = PlanRules(VOCABULARY, 100, lambda text: 3, 64, pull=default, no_guidance=no_guidance)
    return validate(PlanDraft(prompts=prompts), 2, "test", rules)


def test_a_prompt_without_a_pull_gets_the_one_of_the_settings() -> None:
    plan = check("entropy 0.05", None, "entropy 0.05", default="loss 0.03")
    assert [(p.pull, p.count) for p in plan.prompts] == [("entropy 0.05", 4), ("loss 0.03", 2)]
    assert check(None).prompts[0].pull is None


def test_where_nothing_can_pull_a_wish_for_it_is_a_warning() -> None:
    plan = check("entropy 0.05", default="loss 0.03", no_guidance="no DSTM has been trained yet")
    assert plan.prompts[0].pull is None
    assert plan.warnings == ("prompt 1 is drawn without its pull: no DSTM has been trained yet",)
    assert check(None, default="loss 0.03", no_guidance="no DSTM").warnings == ()


def propose_plan(
    draft: str, shares: list[SliceShare], prompts: list[PromptDraft], why: str = ""
) -> str:
    """Propose."""
    return ""


def test_a_brain_is_offered_pulls_only_where_there_are_any() -> None:
    tools: list[BaseTool] = [StructuredTool.from_function(propose_plan)]
    for pulls in (False, True):
        rules = PlanRules(VOCABULARY, 100, len, 64, no_guidance=None if pulls else "none")
        (plan,) = tool_schemas(tools, rules, (), brief=False)
        prompt = plan["function"]["parameters"]["properties"]["prompts"]["items"]["properties"]
        assert ("pull" in prompt) == pulls
    for text in prompt["pull"]["enum"]:
        assert PromptDraft(count=1, pull=text).pull == text


def test_a_brain_is_offered_the_adapters_that_there_are() -> None:
    tools: list[BaseTool] = [StructuredTool.from_function(propose_plan)]
    for names in ((), ("night", "rain")):
        rules = PlanRules(VOCABULARY, 100, len, 64, adapters=names)
        (plan,) = tool_schemas(tools, rules, (), brief=False)
        prompt = plan["function"]["parameters"]["properties"]["prompts"]["items"]["properties"]
        assert tuple(prompt.get("adapters", {}).get("properties", ())) == names


def test_prompts_weigh_the_adapters_of_the_generator() -> None:
    def planned(*weights: dict[str, float] | None, adapters: tuple[str, ...] = ("night",)) -> Plan:
        prompts = [PromptDraft(text="a broken cell", count=2, adapters=w) for w in weights]
        draft = PlanDraft(prompts=tuple(prompts))
        rules = PlanRules(VOCABULARY, 100, lambda text: 3, 64, adapters=adapters)
        return validate(draft, 2, "test", rules)

    plan = planned({"night": 0.5}, None, {"night": 0.5}, {})
    assert [(p.adapters, p.count) for p in plan.prompts] == [({"night": 0.5}, 4), (None, 4)]
    assert "adapters" not in plan.prompts[1].to_json()
    with pytest.raises(ToolError, match=r"Unknown adapter 'nite'\. Did you mean 'night'"):
        planned({"nite": 0.5})
    plan = planned({"night": 0.5}, adapters=())
    assert plan.prompts[0].adapters is None
    assert plan.warnings == ("prompt 1 is drawn without adapters: the generator has none",)


def test_settings_that_cannot_be_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"generator\.pull cannot be 'hope 1'.*entropy, loss"):
        load_settings("solar", ["generator.pull=hope 1"])
    with pytest.raises(SettingsError, match=r"selection.*all needs keep=1.*selection\.keep=0\.5"):
        load_settings("solar", ["selection.method=ral"])


def test_a_session_with_pulls_and_selection(make_settings: MakeSettings, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    new_pipeline((1, 32, 32), 4, (16, 32), 0.6, 0.2).save_pretrained(weights)
    settings = make_settings(
        "session.name=pulled",
        "generator.name=mtdm",
        f"generator.weights={weights}",
        "generator.steps=2",
        "generator.pull=entropy 0.05",
        "selection.method=ral",
        "selection.keep=0.5",
        "feedback.discovery='off'",
    )
    run(settings, Console(quiet=True))
    folder = folder_of(settings.home, "pulled")
    one, two = rounds(read_events(folder / "journal.jsonl"))
    assert one.plan and two.plan and two.training and two.training.selection
    # The first round has no DSTM to be pulled by.
    assert {p.pull for p in one.plan.prompts} == {None}
    assert {p.pull for p in two.plan.prompts} == {"entropy 0.05"}
    assert two.training.n_images == 24
    assert two.training.selection.method == "ral"
    assert (settings.home / "selection" / "toy" / "ral.safetensors").exists()
    # What pulled is part of what the job is named by.
    assert one.training and two.batch
    job = json.loads((folder / "jobs" / two.batch.job_id / "job.json").read_bytes())
    assert job["critic"] == one.training.sha256
    # Replay takes the same decisions, and trainings come out the same.
    assert verify(folder / "journal.jsonl").findings == ()
    assert all(result.same for result in rerun(folder, settings.home, ["train"]))
