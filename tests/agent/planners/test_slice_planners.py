"""Known answers of the planners that spend images on slices."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest

from agent import planners
from agent.experiments.arm_sessions import oracle, without_cells
from agent.planners import AttributeCombination, AttributeDistribution, Observation, PlanDraft
from agent.planners.audited_failure import audited_shares
from agent.planners.count import Count
from agent.planners.learning_curve import water_fill
from agent.planners.mixing import group_dro, hedge
from agent.planners.slices import SlicePlanner, reward, slice_changes
from memory.errors import SettingsError
from memory.records import (
    Batch,
    Fixable,
    Plan,
    PromptQuality,
    PromptSpec,
    Round,
    SliceScore,
)
from prompts.vocabulary import load_vocabulary
from tests.factories import estimate, failure, report, slice_score, training

VOCABULARY = load_vocabulary("streets")
LIGHTS, WEATHERS = ("day", "dusk", "night"), ("clear", "rain", "fog", "snow")
PALETTE = AttributeDistribution(
    rows=tuple(
        AttributeCombination(
            attributes={"light": light, "weather": weather}, class_name="scene", n=n
        )
        for light, n in zip(LIGHTS, (60, 20, 20), strict=True)
        for weather in WEATHERS
    )
)


def score(accuracy: float, n: int = 100, half: float = 0.05, **attributes: str) -> SliceScore:
    return slice_score(attributes, accuracy, n, half)


def lights(day: float, dusk: float, night: float, n: int = 100) -> tuple[SliceScore, ...]:
    values = zip(LIGHTS, (day, dusk, night), strict=True)
    return tuple(score(value, n, light=light) for light, value in values)


def past(number: int, slices: tuple[SliceScore, ...], asked: tuple[str, ...] = LIGHTS) -> Round:
    """A round that asked for 10 images of each light in `asked`, all kept."""
    prompts = tuple(
        PromptSpec(
            id=f"r{number:03d}p{i:02d}",
            text=f"a street by {light}",
            class_name="scene",
            attributes={"light": light},
            count=10,
        )
        for i, light in enumerate(asked)
    )
    quality = tuple(
        PromptQuality(prompt_id=p.id, n_made=10, n_kept=10, mean_weight=1) for p in prompts
    )
    return Round(
        number=number,
        plan=Plan(round=number, author="test", prompts=prompts),
        batch=Batch(round=number, job_id="j", shards=(), quality=quality),
        report=report(*slices, number=number),
    )


def observe(*rounds: Round, n_images: int = 100, seed: int = 0) -> Observation:
    return Observation(
        round=len(rounds) + 1, n_images=n_images, images_per_prompt=4, seed=seed, rounds=rounds
    )


def plan(spec: str, *rounds: Round, n_images: int = 100, seed: int = 0) -> PlanDraft:
    observation = observe(*rounds, n_images=n_images, seed=seed)
    return planners.build(spec).plan(observation, PALETTE, VOCABULARY)


def spent(draft: PlanDraft) -> Counter[str]:
    """Images by light."""
    found: Counter[str] = Counter()
    for prompt in draft.prompts:
        found[prompt.attributes["light"]] += prompt.count
    return found


def test_static_repeats_its_first_prompts() -> None:
    first = plan("static")
    assert plan("static", past(1, lights(0.9, 0.1, 0.1))).prompts == first.prompts


def test_random_is_uniform_only_on_average() -> None:
    drafts = [spent(plan("random", seed=seed, n_images=99)) for seed in range(300)]
    shares = np.array([[d[light] / 99 for light in LIGHTS] for d in drafts])
    assert shares.mean(0) == pytest.approx([1 / 3] * 3, abs=0.05)
    # Of a Dirichlet distribution with three parameters of 1.
    assert shares.std(0) == pytest.approx([math.sqrt(1 / 18)] * 3, abs=0.03)


def test_count_fills_up_the_slice_with_the_fewest_images() -> None:
    history = past(1, lights(0.5, 0.5, 0.5), asked=("day", "day", "dusk"))
    found = spent(plan("count", history, n_images=60))
    # 30 of each in the end, up to a prompt of 4 images.
    assert [found[light] for light in LIGHTS] == pytest.approx([10, 20, 30], abs=4)


def test_count_without_feedback_goes_by_attribute_values() -> None:
    draft = plan("count", n_images=84)
    found = Counter(p.attributes["weather"] for p in draft.prompts for _ in range(p.count))
    assert [found[weather] for weather in WEATHERS] == pytest.approx([21] * 4, abs=4)


def test_failure_is_proportional_to_errors() -> None:
    draft = plan("failure", past(1, lights(0.9, 0.7, 0.4)))
    assert spent(draft) == {"day": 10, "dusk": 30, "night": 60}
    assert draft.hypothesis is not None
    assert draft.hypothesis.slice == "light=night"


def test_failure_follows_the_last_report_and_one_shot_the_first() -> None:
    history = (past(1, lights(0.9, 0.7, 0.4)), past(2, lights(0.5, 1.0, 1.0)))
    assert spent(plan("failure", *history)) == {"day": 100}
    assert spent(plan("one_shot", *history)) == {"day": 10, "dusk": 30, "night": 60}


def test_floor_of_failure_is_uniform() -> None:
    draft = plan("failure:floor=0.6", past(1, lights(1.0, 1.0, 0.0)))
    assert spent(draft) == {"day": 20, "dusk": 20, "night": 60}


def test_a_perfect_model_gets_equal_shares() -> None:
    draft = plan("failure", past(1, lights(1.0, 1.0, 1.0)), n_images=99)
    assert spent(draft) == {"day": 33, "dusk": 33, "night": 33}


def test_audited_shares_are_exponential_in_standard_errors_and_fall_with_the_kept_rate() -> None:
    error = {"a": 0.2, "b": 0.4}  # one standard deviation below and above their mean
    shares = audited_shares(error, {"a": 1.0, "b": 1.0}, sharpness=1.0)
    assert shares["b"] / shares["a"] == pytest.approx(math.exp(2))
    scaled = audited_shares({"a": 0.02, "b": 0.04}, {"a": 1.0, "b": 1.0}, sharpness=1.0)
    assert scaled == pytest.approx(shares)
    broken = audited_shares(error, {"a": 1.0, "b": 0.1}, sharpness=1.0)
    assert broken["b"] / broken["a"] == pytest.approx(math.exp(2) / 10)


def test_audited_failure_turns_away_from_what_is_rejected_but_tests_it_again() -> None:
    slices = lights(0.9, 0.5, 0.5)

    def with_rejected_nights(number: int) -> Round:
        done = past(number, slices)
        assert done.batch is not None
        quality = tuple(
            q.model_copy(update={"n_kept": 0 if q.prompt_id.endswith("02") else 10})
            for q in done.batch.quality
        )
        return done.model_copy(update={"batch": done.batch.model_copy(update={"quality": quality})})

    history = [with_rejected_nights(number) for number in range(1, 6)]
    spec = "audited_failure:floor=0"
    assert spent(plan(spec, *history[:4]))["night"] < spent(plan(spec, *history[:4]))["dusk"] / 5
    retest = spent(plan(spec, *history))  # round 6
    assert retest["night"] >= 3


def test_audited_failure_leaves_what_inspection_finds_hard() -> None:
    history = past(1, lights(0.9, 0.5, 0.5))
    known = estimate(0.05, n=40, half=0.05)
    fixable = Fixable(chance=known, drawable=known, useful=known)
    hard = failure({"light": "night"}, 0.5, fixable=fixable)
    judged = history.model_copy(update={"failures": (hard,)})
    found = spent(plan("audited_failure:floor=0", judged, n_images=1000))
    assert found["dusk"] / found["night"] == pytest.approx(9, rel=0.05)


def test_audited_failure_counts_the_kept_rate_once() -> None:
    """Half of the nights are kept, and all that are kept help: half the images of dusk."""
    done = past(1, lights(0.9, 0.5, 0.5))
    assert done.batch is not None
    kept = (1000, 1000, 500)
    quality = tuple(
        q.model_copy(update={"n_made": 1000, "n_kept": n})
        for q, n in zip(done.batch.quality, kept, strict=True)
    )
    half, helps = estimate(0.5, n=1000, half=0.0), estimate(1.0, n=40, half=0.0)
    judged = failure(
        {"light": "night"}, 0.5, fixable=Fixable(chance=half, drawable=half, useful=helps)
    )
    batch = done.batch.model_copy(update={"quality": quality})
    history = done.model_copy(update={"batch": batch, "failures": (judged,)})
    found = spent(plan("audited_failure:floor=0", history, n_images=1000))
    assert found["night"] / found["dusk"] == pytest.approx(0.5, rel=0.05)


def test_hedge_after_one_reward() -> None:
    """Half a success is no change; one slice of three gained 0.1 and is credited with a part."""
    before, after = lights(0.5, 0.5, 0.5, n=10**6), lights(0.5, 0.5, 0.6, n=10**6)
    history = [past(1, before), past(2, after)]
    rewards = [reward(change.effect) for change in slice_changes(history)]
    assert rewards[2] > rewards[0] == pytest.approx(rewards[1])
    shares = hedge(history, list(after), horizon=4)
    weights = np.exp(math.sqrt(8 * math.log(3) / 4) * np.array(rewards))
    assert list(shares.values()) == pytest.approx(0.9 * weights / weights.sum() + 0.1 / 3)
    assert sum(shares.values()) == pytest.approx(1)


def test_group_dro_multiplies_by_the_errors_of_every_report() -> None:
    history = [past(1, lights(0.5, 0.5, 0.0)), past(2, lights(0.5, 0.0, 0.5))]
    slices = lights(0.5, 0.0, 0.5)
    shares = group_dro(history, slices, eta=2.0)
    weights = [math.exp(2.0), math.exp(3.0), math.exp(3.0)]
    assert list(shares.values()) == pytest.approx([w / sum(weights) for w in weights])


def test_mixing_refuses_an_unknown_method() -> None:
    with pytest.raises(SettingsError, match="hedge"):
        planners.build("mixing:method=hedges")


def test_oracle_goes_by_the_sealed_report_and_asks_for_nothing_broken() -> None:
    sealed = report(*lights(0.9, 0.9, 0.2), split="test")
    broken = [{"light": "night", "weather": "fog"}]
    history = past(1, lights(0.1, 0.9, 0.9))
    sound = without_cells(PALETTE, broken)
    draft = oracle(sealed, floor=0.0).plan(observe(history), sound, VOCABULARY)
    assert spent(draft)["night"] > 80
    assert not any(broken[0].items() <= p.attributes.items() for p in draft.prompts)


@pytest.mark.parametrize("name", ["oracle", "agent.experiments.arm_sessions:build"])
def test_the_oracle_cannot_be_chosen(name: str) -> None:
    with pytest.raises(SettingsError):
        planners.build(name)


def test_unknown_options_are_refused() -> None:
    with pytest.raises(SettingsError, match="Did you mean 'floor'"):
        planners.build("failure:flor=0.5")


def test_classes_of_a_slice_get_equal_shares() -> None:
    palette = AttributeDistribution(
        rows=tuple(
            AttributeCombination(attributes={"wafer": "mono", "severity": s}, class_name=s, n=n)
            for s, n in (("functional", 90), ("defective", 10))
        )
    )
    slices = [score(0.5, wafer="mono")]
    planner = SlicePlanner("x", lambda seen, slices: {"wafer=mono": 1.0}, Count())
    draft = planner.allocate(
        {"wafer=mono": 1.0}, slices, observe(), palette, load_vocabulary("elpv")
    )
    found = Counter(p.class_name for p in draft.prompts for _ in range(p.count))
    assert found == {"functional": 50, "defective": 50}


def test_water_filling_makes_what_is_there_proportional_to_its_worth() -> None:
    worth, filled = np.array([0.2, 0.4, 0.4, 0.1]), np.array([10.0, 10.0, 100.0, 60.0])
    amounts = water_fill(worth, filled, 50)
    assert amounts.sum() == pytest.approx(50) and amounts[2] == amounts[3] == 0
    assert not water_fill(worth, filled, 0).any()
    level = (filled + amounts)[:2] / worth[:2]
    assert level[0] == pytest.approx(level[1]) and level[0] < (filled / worth)[2:].min()


def test_a_learning_curve_spends_where_errors_are_many_and_photographs_few() -> None:
    def images(day: float, dusk: float, night: float, keep: int = 10) -> Counter[str]:
        first = past(1, lights(day, dusk, night))
        assert first.batch
        quality = tuple(
            q.model_copy(update={"n_kept": keep if q.prompt_id.endswith("p02") else 10})
            for q in first.batch.quality
        )
        batch = first.batch.model_copy(update={"quality": quality})
        seen = first.model_copy(update={"training": training(n_real=300), "batch": batch})
        return spent(plan("learning_curve:floor=0", seen))

    # Day has 180 photographs, dusk and night 60 each.
    assert images(0.5, 0.5, 0.5)["day"] < images(0.5, 0.5, 0.5)["night"]
    ambiguous = images(0.5, 0.7, 0.7)
    assert ambiguous["day"] < ambiguous["night"]
    assert images(0.9, 0.9, 0.4)["night"] > 90
    assert images(0.5, 0.5, 0.5, keep=0)["night"] < images(0.5, 0.5, 0.5)["night"]

    # A failure that images were found not to mend counts for less.
    sure, useless = estimate(1.0, n=40, half=0.0), estimate(0.05, n=40, half=0.05)
    fixable = Fixable(chance=useless, drawable=sure, useful=useless)
    hopeless = failure({"light": "night"}, 0.5, fixable=fixable)
    seen = past(1, lights(0.5, 0.5, 0.5)).model_copy(update={"training": training(n_real=300)})
    judged = seen.model_copy(update={"failures": (hopeless,)})
    planned = [spent(plan("learning_curve:floor=0", r))["night"] for r in (judged, seen)]
    assert planned[0] < planned[1] / 2
