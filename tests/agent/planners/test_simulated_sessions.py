"""Planners in sessions whose learning curves are known."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping

import numpy as np
import pytest

from agent import planners
from agent.planners import AttributeCombination, AttributeDistribution, Observation, PlanDraft
from agent.planners.expected_gain import gains
from agent.planners.mixing import hedge
from memory.records import Batch, Plan, PromptQuality, PromptSpec, Report, Round
from prompts.vocabulary import load_vocabulary
from tests.factories import report, slice_score

VOCABULARY = load_vocabulary("streets")
LIGHTS, WEATHERS = ("day", "dusk", "night"), ("clear", "rain", "fog", "snow")
CELLS = [(light, weather) for light in LIGHTS for weather in WEATHERS]
PALETTE = AttributeDistribution(
    rows=tuple(
        AttributeCombination(attributes={"light": a, "weather": b}, class_name="scene", n=20)
        for a, b in CELLS
    )
)
N_IMAGES = 96
Cell = tuple[str, str]
# True accuracies of the cells after so many images of each.
Curve = Callable[[Mapping[Cell, int]], Mapping[Cell, float]]


def flat(made: Mapping[Cell, int]) -> Mapping[Cell, float]:
    """All differ, and no image helps."""
    return {cell: 0.7 + 0.02 * i for i, cell in enumerate(CELLS)}


def planted(made: Mapping[Cell, int]) -> Mapping[Cell, float]:
    """One cell gains by its images; as bad a one, which is ambiguous, does not."""
    gaining = 0.9 - 0.5 * float(np.exp(-made["night", "fog"] / 60))
    return dict.fromkeys(CELLS, 0.85) | {("day", "clear"): 0.4, ("night", "fog"): gaining}


def alike(made: Mapping[Cell, int]) -> Mapping[Cell, float]:
    """All gain by their images, so an even spread is best."""
    return {cell: 0.85 - 0.3 * float(np.exp(-made[cell] / 40)) for cell in CELLS}


def session(
    spec: str, curve: Curve, seed: int, n_rounds: int = 4, n: int = 400, retraining: float = 0.01
) -> tuple[list[Round], Counter[Cell]]:
    """Run a planner; return its rounds and the images made of each cell."""
    rng = np.random.default_rng(seed)
    planner, past = planners.build(spec), list[Round]()
    made: Counter[Cell] = Counter()
    for number in range(1, n_rounds + 1):
        seen = Observation(
            round=number, n_images=N_IMAGES, images_per_prompt=4, seed=seed, rounds=tuple(past)
        )
        draft = planner.plan(seen, PALETTE, VOCABULARY)
        for prompt in draft.prompts:
            made[prompt.attributes["light"], prompt.attributes["weather"]] += prompt.count
        past.append(played(draft, number, measured(curve(made), rng, n, retraining)))
    return past, made


def measured(
    true: Mapping[Cell, float], rng: np.random.Generator, n: int, retraining: float
) -> Report:
    scores = []
    for (light, weather), accuracy in true.items():
        share = float(np.clip(accuracy + rng.normal(0, retraining), 0, 1))
        right = int(rng.binomial(n, share))
        scores.append(slice_score({"light": light, "weather": weather}, right / n, n))
    return report(*scores)


def played(draft: PlanDraft, number: int, result: Report) -> Round:
    prompts = tuple(
        PromptSpec(
            id=f"r{number:03d}p{i:03d}",
            text="a street",
            class_name="scene",
            attributes=p.attributes,
            count=p.count,
        )
        for i, p in enumerate(draft.prompts)
    )
    quality = tuple(
        PromptQuality(prompt_id=p.id, n_made=p.count, n_kept=p.count, mean_weight=1)
        for p in prompts
    )
    return Round(
        number=number,
        plan=Plan(round=number, author="test", prompts=prompts, why=draft.why),
        batch=Batch(round=number, job_id="j", shards=(), quality=quality),
        report=result.model_copy(update={"round": number}),
    )


def share(spec: str, cell: Cell, n_seeds: int = 12, n: int = 1000) -> float:
    """The mean share of a cell among the images of the last round."""
    shares = []
    for seed in range(n_seeds):
        past, _ = session(spec, planted, seed, n=n)
        plan = past[-1].plan
        assert plan is not None
        of_cell = [p for p in plan.prompts if tuple(p.attributes.values()) == cell]
        shares.append(sum(p.count for p in of_cell) / N_IMAGES)
    return float(np.mean(shares))


@pytest.mark.parametrize(("spec", "least"), [("thompson", 0.2), ("expected_gain", 0.15)])
def test_what_always_gains_is_found_in_three_rounds(spec: str, least: float) -> None:
    assert share(spec, ("night", "fog")) > least  # of twelve cells, 0.08 by chance


def test_error_is_not_gain() -> None:
    """Two cells are as bad as one another in the beginning; images help one of them."""
    ambiguous, short = ("day", "clear"), ("night", "fog")
    assert share("expected_gain", short) > 2 * share("expected_gain", ambiguous)
    assert share("failure", ambiguous) > share("failure", short)


def against_uniform(curve: Curve, n: int, n_seeds: int = 12) -> tuple[float, float]:
    """The mean accuracy that expected_gain reaches more than uniform, and its standard error."""
    differences = []
    for seed in range(n_seeds):
        (_, one), (_, other) = (session(s, curve, seed, n=n) for s in ("expected_gain", "uniform"))
        mine, even = (np.mean(list(curve(made).values())) for made in (one, other))
        differences.append(float(mine - even))
    return float(np.mean(differences)), float(np.std(differences, ddof=1) / n_seeds**0.5)


def test_expected_gain_is_better_than_uniform_where_a_slice_is_short_of_images() -> None:
    mean, error = against_uniform(planted, n=1000)
    assert mean > 2 * error > 0


@pytest.mark.parametrize("curve", [flat, alike])
def test_expected_gain_is_not_worse_than_uniform(curve: Curve) -> None:
    mean, error = against_uniform(curve, n=400)
    assert mean + 2 * error >= 0


def test_expected_gain_spreads_evenly_where_it_knows_nothing() -> None:
    n_uniform, n_rounds = 0, 0
    for seed in range(12):
        past, _ = session("expected_gain", flat, seed, n=100)
        n_uniform += sum(r.plan is not None and "known to gain more" in r.plan.why for r in past)
        n_rounds += len(past)
    assert n_uniform >= 0.7 * n_rounds
    first = planners.build("expected_gain").plan(
        Observation(round=1, n_images=24, images_per_prompt=4, seed=0), PALETTE, VOCABULARY
    )
    assert "spread evenly" in first.why


def test_expected_gains_cover_the_truth_and_saturate() -> None:
    inside = []
    for seed in range(20):
        past, made = session("uniform", planted, seed)
        slices = past[-1].report.slices if past[-1].report else ()
        for score in slices:
            gain = gains(past, slices)[score.key]
            cell = (score.attributes["light"], score.attributes["weather"])
            more = Counter(made) + Counter({cell: N_IMAGES // 12})
            true = planted(more)[cell] - planted(made)[cell]
            if cell != ("night", "fog"):
                inside.append(abs(gain.mean - true) <= 1.96 * gain.deviation)
    assert np.mean(inside) >= 0.93


def test_hedge_is_not_uniform_in_a_short_session() -> None:
    past, _ = session("uniform", planted, seed=0, n=4000, retraining=0.0)
    assert past[-1].report is not None
    shares = hedge(past, past[-1].report.slices)
    assert sum(shares.values()) == pytest.approx(1)
    assert max(shares, key=lambda k: shares[k]) == "light=night weather=fog"
    assert shares["light=night weather=fog"] > 2 / 12


def test_mixing_does_not_favour_coarse_slices() -> None:
    """Slices of one value overlap with every prompt of it; nothing gains."""
    rng = np.random.default_rng(0)
    coarse = []
    for seed in range(30):
        rounds = []
        for number in (1, 2, 3, 4):
            draft = planners.build("uniform").plan(
                Observation(round=number, n_images=N_IMAGES, images_per_prompt=4, seed=seed),
                PALETTE,
                VOCABULARY,
            )
            true = dict.fromkeys(CELLS, 0.8)
            fine = measured(true, rng, 100, 0.01).slices
            lights = [
                slice_score({"light": a}, float(rng.binomial(400, 0.8)) / 400, 400) for a in LIGHTS
            ]
            rounds.append(played(draft, number, report(*fine, *lights)))
        assert rounds[-1].report is not None
        shares = hedge(rounds, rounds[-1].report.slices)
        coarse.append(sum(v for k, v in shares.items() if " " not in k) / 3 * len(shares))
    assert 0.85 <= np.mean(coarse) <= 1.15
