"""Steering: what becomes of a draft, whoever wrote it, and what is reply of it afterwards."""

from __future__ import annotations

import random

import pytest
from pydantic import ValidationError

from agent import planners
from agent.loop.validation import PlanRules, validate
from agent.planners import (
    AttributeCombination,
    AttributeDistribution,
    Observation,
    PlanDraft,
    PromptDraft,
)
from agent.steering.preferences import (
    Addition,
    Kind,
    Preference,
    active_preferences,
    bounds,
    effects,
)
from agent.steering.steer import add, broken, drawable, ignored, possible, share, steer
from memory.records import Plan, Round
from prompts.vocabulary import Vocabulary, load_vocabulary
from tests.events import event
from tests.factories import report, slice_score
from tools.plugins import names

ELPV = load_vocabulary("elpv")
STREETS = load_vocabulary("streets")
N = 120


def palette(vocabulary: Vocabulary) -> AttributeDistribution:
    """Every combination of the plain attributes, some more often than others."""
    rng = random.Random(0)
    plain = [key for key in vocabulary.attributes if key not in vocabulary.requires]
    rows = []
    for number in range(60):
        attributes = {key: rng.choice(list(vocabulary.attributes[key])) for key in plain}
        name = vocabulary.class_name(attributes)
        assert name is not None
        rows.append(AttributeCombination(attributes=attributes, class_name=name, n=1 + number % 5))
    return AttributeDistribution(rows=tuple(rows))


def wish(kind: Kind, strength: float = 2.0, name: str = "w1", **attributes: str) -> Preference:
    values = {key: tuple(value.split("|")) for key, value in attributes.items()}
    return Preference(id=name, attributes=values, **bounds(kind, strength=strength))


def part(kind: Kind, wanted: float, name: str = "w1", **attributes: str) -> Preference:
    values = wish("more", 2.0, name, **attributes).attributes
    return Preference(id=name, attributes=values, **bounds(kind, wanted))


def draft(planner: str = "uniform", vocabulary: Vocabulary = ELPV) -> PlanDraft:
    observation = Observation(round=1, n_images=N, images_per_prompt=8, seed=3)
    return planners.build(planner).plan(observation, palette(vocabulary), vocabulary)


def steered(
    wanted: list[Preference], before: PlanDraft, vocabulary: Vocabulary = ELPV
) -> PlanDraft:
    after, shifts = steer(before, wanted, palette(vocabulary), vocabulary, 8, "0 1")
    assert sum(p.count for p in after.prompts) == sum(p.count for p in before.prompts)
    assert {s.preference for s in shifts} == {w.id for w in wanted}
    return after


def as_plan(found: PlanDraft, vocabulary: Vocabulary = ELPV) -> Plan:
    rules = PlanRules(vocabulary, N, lambda text: len(text.split()), 99)
    return validate(found, 1, "policy:x", rules)


def test_nothing_wished_changes_nothing() -> None:
    before = draft()
    assert steer(before, [], palette(ELPV), ELPV, 8, "0 1") == (before, ())


def test_more_doubles_the_share_and_keeps_the_classes() -> None:
    dark, before = wish("more", brightness="dark"), draft()
    after = steered([dark], before)
    assert share(dark, after.prompts, ELPV) == pytest.approx(
        2 * share(dark, before.prompts, ELPV), abs=0.02
    )
    for name in ELPV.classes:
        counts = [sum(p.count for p in d.prompts if p.class_name == name) for d in (before, after)]
        assert counts[0] == counts[1]
    as_plan(after)


def test_fewer_halves_and_focus_gives_half() -> None:
    mono, before = wish("fewer", wafer="mono"), draft()
    halved = share(mono, before.prompts, ELPV) / 2
    assert share(mono, steered([mono], before).prompts, ELPV) == pytest.approx(halved, abs=0.02)
    rare = wish("focus", wafer="poly", brightness="dark", dark_area="large")
    assert share(rare, steered([rare], before).prompts, ELPV) == pytest.approx(0.5, abs=0.02)


def test_shares_are_kept_beside_one_another() -> None:
    wanted = [
        part("share", 0.2, "w1", weather="rain"),
        part("share", 0.5, "w2", weather="fog"),
        part("at_most", 0.1, "w3", light="night"),
        part("at_least", 0.01, "w4", traffic="dense"),
        wish("more", name="w5", weather="snow"),
    ]
    before = draft(vocabulary=STREETS)
    after = steered(wanted, before, STREETS)
    rain, fog, night, dense = (share(w, after.prompts, STREETS) for w in wanted[:4])
    assert rain == pytest.approx(0.2, abs=0.03)
    assert fog == pytest.approx(0.5, abs=0.03)
    assert night <= 0.13
    assert dense > 0.1
    missed = [part("share", 0.9, "w6", weather="fog"), *wanted[:2]]
    assert ignored(as_plan(after, STREETS), None, missed, STREETS) == [
        f"w6 (of all images 90% weather=fog) gets {fog:.0%} of the images"
    ]


def test_what_constraints_rule_out_cannot_be_wished() -> None:
    held = [wish("avoid", light="night")]
    assert not drawable(wish("more", light="night", weather="fog"), held, palette(STREETS), STREETS)
    assert drawable(wish("more", light="night|dusk"), held, palette(STREETS), STREETS)
    assert not drawable(
        wish("more", light="night"), [wish("only", light="day")], palette(STREETS), STREETS
    )


def test_what_no_photograph_has_can_be_asked_for() -> None:
    rare = wish("only", dark_area="small", where="left", busbars="two")
    after = steered([rare], draft())
    assert share(rare, after.prompts, ELPV) == 1.0
    as_plan(after)


def test_values_of_one_attribute_are_alternatives() -> None:
    dark_or_bright = wish("avoid", brightness="dark|bright")
    after = steered([dark_or_bright], draft())
    assert {p.attributes["brightness"] for p in after.prompts} == {"medium"}


def test_same_wishes_give_the_same_draft() -> None:
    wanted, before = [wish("more", wafer="poly")], draft()
    assert steered(wanted, before) == steered(wanted, before)
    other, _ = steer(before, wanted, palette(ELPV), ELPV, 8, "0 2")
    assert other != steered(wanted, before)


@pytest.mark.parametrize("vocabulary", [ELPV, STREETS], ids=["elpv", "streets"])
@pytest.mark.parametrize("planner", ["uniform", "random", "thompson"])
def test_every_planner_obeys_wishes_drawn_at_random(planner: str, vocabulary: Vocabulary) -> None:
    if planner not in names("agent.planners"):
        pytest.skip(f"there is no planner {planner}")
    rng = random.Random(1)
    before = draft(planner, vocabulary)
    for _ in range(20):
        kinds: list[Kind] = ["avoid", "only", "more", "fewer", "focus"]
        wanted = []
        for number, kind in enumerate(rng.sample(kinds, 3)):
            key = rng.choice([k for k in vocabulary.attributes if k not in vocabulary.requires])
            value = rng.choice(list(vocabulary.attributes[key]))
            wanted.append(wish(kind, 2.0, f"w{number}", **{key: value}))
        if not possible(wanted, palette(vocabulary), vocabulary):
            continue
        after = steered(wanted, before, vocabulary)
        plan = as_plan(after, vocabulary)
        assert broken(plan, wanted, vocabulary) == []


def test_contradictions_are_known_before_anything_is_planned() -> None:
    wanted = [wish("only", wafer="poly"), wish("avoid", wafer="poly")]
    assert not possible(wanted, palette(ELPV), ELPV)
    assert possible(wanted[:1], palette(ELPV), ELPV)


def test_plan_of_a_model_that_breaks_a_constraint_is_named() -> None:
    prompt = PromptDraft(attributes={"severity": "defective", "wafer": "poly"}, count=8)
    plan = as_plan(PlanDraft(prompts=(prompt,)))
    (problem,) = broken(plan, [wish("avoid", wafer="poly")], ELPV)
    assert "avoid wafer=poly (w1)" in problem
    (problem,) = broken(plan, [wish("only", brightness="dark")], ELPV)
    assert "only brightness=dark" in problem
    assert broken(plan, [wish("more", brightness="dark")], ELPV) == []


def test_preferences_that_a_model_ignores_are_named() -> None:
    poly = PromptDraft(attributes={"severity": "defective", "wafer": "poly"}, count=8)
    mono = PromptDraft(attributes={"severity": "defective", "wafer": "mono"}, count=8)
    both, one = as_plan(PlanDraft(prompts=(poly, mono))), as_plan(PlanDraft(prompts=(mono,)))
    more = wish("more", wafer="poly")
    assert ignored(one, both, [more], ELPV) == [
        "w1 (more of wafer=poly (x2)) is not followed: 50% before, 0% now"
    ]
    assert ignored(both, one, [more], ELPV) == []


def test_class_word_stands_for_prompts_that_name_only_their_class() -> None:
    defective = wish("avoid", severity="defective")
    assert defective.matches(PromptDraft(text="a cell", class_name="defective", count=1), ELPV)
    assert not defective.matches(PromptDraft(text="a cell", class_name="functional", count=1), ELPV)


def test_additions_take_their_images_from_the_others() -> None:
    extra = Addition(id="a1", prompt=PromptDraft(text="a broken poly cell", count=20))
    after = add(draft(), [extra], N, ELPV)
    assert sum(p.count for p in after.prompts) == N
    assert after.prompts[-1].count == 20


def test_forgotten_wishes_do_not_hold() -> None:
    events = [
        event("wish", wish=wish("more", wafer="poly").to_json()),
        event("wish", wish=wish("avoid", name="w2", wafer="mono").to_json()),
        event("forget", id="w1"),
    ]
    assert [w.id for w in active_preferences(events)] == ["w2"]


DARK_POLY = {"wafer": "poly", "brightness": "dark"}


def test_effect_compares_the_plans_and_the_slice() -> None:
    dark = wish("more", wafer="poly", brightness="dark")

    slices = [slice_score(DARK_POLY, value, n=40) for value in (0.5, 0.55, 0.7)]
    past = [Round(number=n, report=report(score, number=n)) for n, score in enumerate(slices, 1)]
    events = [
        event("steered", round=n, shifts=[{"wish": "w1", "before": b, "after": a}])
        for n, b, a in ((2, 0.1, 0.2), (3, 0.2, 0.4))
    ]
    ((_, effect),) = effects([dark], events, past)
    assert "10% -> 40% of images; accuracy 0.500 -> 0.700" in effect.say()
    assert effects([dark], events[:1], past[:1]) == []


@pytest.mark.parametrize("kind", ["more", "fewer", "only", "avoid", "focus", "note"])
def test_preferences_of_earlier_journals_load_and_keep_their_keys(kind: str) -> None:
    stored = {"id": "w2", "kind": kind, "attributes": {"wafer": ["poly"]}, "strength": 3.0}
    stored |= {"share": None, "text": "so", "since": 4}
    if kind == "note":
        stored["attributes"] = {}
        stored["strength"] = 2.0
    preference = Preference.model_validate(stored)
    assert preference.kind == kind
    expected = stored if kind in ("more", "fewer") else {**stored, "strength": 2.0}
    assert preference.to_json() == expected


@pytest.mark.parametrize(("kind", "wanted"), [("share", 0.2), ("at_least", 0.0), ("at_most", 0.3)])
def test_shares_of_earlier_journals_load_and_keep_their_keys(kind: str, wanted: float) -> None:
    stored = part("at_most", 0.3, "w1", wafer="poly").to_json() | {"kind": kind, "share": wanted}
    assert Preference.model_validate(stored).to_json() == stored


def test_a_range_of_shares_is_kept_and_journaled() -> None:
    dark = Preference(
        id="w1", attributes={"brightness": ("dark",)}, min_share=0.5, max_share=0.6, text="?"
    )
    assert Preference.model_validate(dark.to_json()) == dark
    after = steered([dark], draft())
    assert share(dark, after.prompts, ELPV) == pytest.approx(0.5, abs=0.02)
    assert "50% to 60%" in dark.say()


@pytest.mark.parametrize(
    "demand",
    [{}, {"factor": 2, "max_share": 0.5}, {"min_share": 0.6, "max_share": 0.5}, {"factor": 99}],
)
def test_a_preference_demands_one_thing(demand: dict[str, float]) -> None:
    with pytest.raises(ValidationError):
        Preference(attributes={"wafer": ("poly",)}, **demand)
