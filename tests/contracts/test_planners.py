"""What every planner must hold; a new file in agent/planners joins by itself."""

from __future__ import annotations

import pytest

from agent import planners
from agent.loop.validation import PlanRules, validate
from agent.planners import AttributeCombination, AttributeDistribution, Observation, Planner
from memory.records import Round
from prompts.vocabulary import load_vocabulary
from tests.factories import report, slice_score
from tools.plugins import names

VOCABULARY = load_vocabulary("elpv")
PALETTE = AttributeDistribution(
    rows=tuple(
        AttributeCombination(
            attributes={"wafer": wafer, "severity": severity, "brightness": brightness},
            class_name=VOCABULARY.class_of[severity],
            n=n,
        )
        for wafer in ("mono", "poly")
        for severity, n in (("functional", 30), ("suspect", 8), ("defective", 12))
        for brightness in ("dark", "bright")
    )
)


@pytest.fixture(params=names("agent.planners"))
def planner(request: pytest.FixtureRequest) -> Planner:
    return planners.build(request.param)


def observation(n_images: int, with_report: bool) -> Observation:
    measured = report(slice_score({"wafer": "poly", "brightness": "dark"}, 0.4, n=50))
    rounds = (Round(number=1, report=measured),) if with_report else ()
    return Observation(round=2, n_images=n_images, images_per_prompt=8, seed=1, rounds=rounds)


@pytest.mark.parametrize("n_images", [1, 7, 200])
@pytest.mark.parametrize("with_report", [False, True])
def test_spends_exactly_its_budget_on_legal_prompts(
    planner: Planner, n_images: int, with_report: bool
) -> None:
    draft = planner.plan(observation(n_images, with_report), PALETTE, VOCABULARY)
    plan = validate(draft, 2, "test", PlanRules(VOCABULARY, n_images, lambda text: 1, 64))
    assert plan.n_images == n_images
    # Of the draft: prompts of equal text become one in the plan.
    assert all(prompt.count <= 8 for prompt in draft.prompts)
    assert isinstance(planner, Planner)


def test_is_a_pure_function(planner: Planner) -> None:
    seen = observation(100, with_report=True)
    assert planner.plan(seen, PALETTE, VOCABULARY) == planner.plan(seen, PALETTE, VOCABULARY)
