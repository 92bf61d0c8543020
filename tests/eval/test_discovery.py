from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from eval.candidates import (
    Candidate,
    Evaluated,
    as_scores,
    factor_audit,
    fit_direction,
    group_candidates,
)
from eval.clusters import fit_mixture
from eval.discovery import discover, follow, jaccard, nearest_prompts, select, traits
from eval.slices import failing_slices


def made_up(seed: int, planted: bool = True, n: int = 600, dense: bool = False) -> Evaluated:
    """Images that fail at night in the rain and in a corner of the embeddings, and 10% anywhere."""
    rng = np.random.default_rng(seed)
    light, weather = rng.choice(["day", "night"], n, p=(0.7, 0.3)), rng.choice(["clear", "rain"], n)
    embeddings = rng.normal(size=(n, 20))
    hidden = rng.random(n) < 0.1
    embeddings[hidden, :3] += 4
    bad = planted & (hidden | ((light == "night") & (weather == "rain")))
    wrong = (rng.random(n) < np.where(bad, 0.8, 0.1)).astype(float)
    classes = rng.integers(0, 2, n)
    said = np.abs(classes - wrong).astype(int)
    errors = np.clip(0.3 + 0.3 * bad + rng.normal(0, 0.1, n), 0, 1) if dense else wrong
    return Evaluated(
        ids=[f"i{i}" for i in range(n)],
        errors=errors,
        attributes=[
            {"light": str(a), "weather": str(b), "lane": str(i % 3)}
            for i, (a, b) in enumerate(zip(light, weather, strict=True))
        ],
        outcomes=(1 - errors[:, None],) if dense else (np.eye(2)[classes], np.eye(2)[said]),
        classes=None if dense else classes,
        embeddings=embeddings,
    )


def hidden_of(images: Evaluated) -> set[str]:
    assert images.embeddings is not None
    return {f"i{i}" for i in np.flatnonzero(images.embeddings[:, :3].sum(1) > 6)}


def test_factor_audit_knows_what_matters() -> None:
    images = made_up(0)
    audit = {factor.names: factor for factor in factor_audit(images.errors, images.attributes)}
    assert set(audit) == {
        ("light",),
        ("weather",),
        ("lane",),
        ("light", "weather"),
        ("lane", "light"),
        ("lane", "weather"),
    }
    assert next(iter(audit)) in {("light", "weather"), ("light",), ("weather",)}
    assert audit["light", "weather"].q < 1e-6
    assert audit["light", "weather"].share > audit["light",].share
    assert audit["lane",].p > 0.01


def test_f_of_a_known_case() -> None:
    errors = np.array([0.0, 0.2, 0.4, 0.6, 0.8, 1.0])
    (factor,) = factor_audit(errors, [{"a": v} for v in "xxxyyy"], n_min=1)
    # Between: 6 * 0.3**2 = 0.54 with 1 degree of freedom; within: 0.16 with 4.
    assert factor.f == pytest.approx(0.54 / (0.16 / 4))
    assert factor.share == pytest.approx(0.54 / 0.7)
    assert factor_audit(np.zeros(6), [{"a": v} for v in "xxxyyy"], n_min=1) == ()
    assert factor_audit(errors, [{"a": "x"}] * 6, n_min=1) == ()


@pytest.mark.parametrize("dense", [False, True])
def test_discovery_finds_a_pair_of_attributes_and_a_hidden_cluster(dense: bool) -> None:
    images = made_up(1, dense=dense)
    pair, *others = discover(images, n_min=15)
    assert (pair.kind, pair.slice) == ("slice", "light=night weather=rain")
    assert pair.members == () and pair.significant
    assert ("mean score 0." in pair.wrong) == dense
    cluster = others[0]
    assert cluster.kind == "cluster"
    hidden = hidden_of(images)
    assert len(hidden & set(cluster.members)) / len(cluster.members) > 0.8
    assert jaccard(cluster.members, tuple(hidden)) > 0.3
    assert cluster.error_rate.value > 1.5 * cluster.rest_error_rate
    assert set(cluster.examples) <= set(cluster.members)
    assert discover(images, n_min=15) == (pair, *others)


def test_a_finding_is_shown_beside_what_it_is_worse_than() -> None:
    """A direction in a class that is easy: worse than its class, not than all photographs."""
    rng = np.random.default_rng(0)
    classes = np.repeat([0, 1], 300)
    embeddings = rng.normal(size=(600, 6))
    chance = np.where(classes == 1, 0.6, 1 / (1 + np.exp(-4 * (embeddings[:, 0] - 1.6))))
    errors = (rng.random(600) < chance).astype(float)
    images = Evaluated([str(i) for i in range(600)], errors, [{}] * 600, (), classes, embeddings)
    direction = next(f for f in discover(images, n_min=15) if f.kind == "direction")
    assert {classes[int(name)] for name in direction.members} == {0}
    assert direction.rest_error_rate < 0.1 < direction.error_rate.value


def test_nothing_is_found_where_nothing_is_planted() -> None:
    n_found = [len(discover(made_up(seed, planted=False), n_min=15)) for seed in range(12)]
    assert sum(n > 0 for n in n_found) <= 2


def test_what_is_known_is_not_found_again() -> None:
    images = made_up(2)
    correct, by = images.errors == 0, [("light", "weather")]
    known = failing_slices(correct, images.attributes, images.ids, by, n_min=15)
    found = discover(images, n_min=15, reported=known)
    assert "light=night weather=rain" not in [failure.slice for failure in found]
    assert found[0].kind == "cluster"


def test_names_are_kept_over_rounds() -> None:
    first = discover(made_up(1), n_min=15)
    again = made_up(1)
    rng = np.random.default_rng(9)
    other = np.where(rng.random(600) < 0.1, 1 - again.errors, again.errors)
    moved = Evaluated(
        again.ids, other, again.attributes, again.outcomes, again.classes, again.embeddings
    )
    second = discover(moved, n_min=15, previous=first)
    old = next(f for f in first if f.kind == "cluster")
    new = next(f for f in second if f.kind == "cluster")
    assert (new.id, new.slice) == (old.id, old.slice)
    assert follow(second, ()) == second
    fresh = discover(moved, n_min=15)
    assert {f.id for f in fresh if f.kind == "cluster"}.isdisjoint({old.id}) or new in fresh


def test_a_part_that_explains_the_whole_is_taken_instead() -> None:
    errors = np.zeros(200)
    errors[:30] = 1
    every = np.arange(200)
    rain = Candidate("slice", np.arange(100), every, {"weather": "rain"})
    night = Candidate("slice", np.arange(30), every, {"weather": "rain", "light": "night"})
    (taken,) = select([rain, night], as_scores(errors), n_min=10, alpha=0.05)
    assert taken.attributes == night.attributes
    (only,) = select([rain], as_scores(errors), n_min=10, alpha=0.05)
    assert only.attributes == rain.attributes


def test_parts_explain_a_whole_together() -> None:
    errors = np.zeros(300)
    errors[:20] = errors[60:80] = 1
    every = np.arange(300)
    mono = Candidate("slice", np.arange(100), every, {"wafer": "mono"})
    # One part lies in the whole by half only.
    dark = Candidate("slice", np.arange(20), every, {"wafer": "mono", "light": "dark"})
    large = Candidate("slice", np.r_[60:80, 200:215], every, {"area": "large"})
    taken = select([mono, dark, large], as_scores(errors), n_min=10, alpha=0.05)
    assert [c.attributes for c in taken] in (
        [dark.attributes, large.attributes],
        [large.attributes, dark.attributes],
    )


def test_what_is_left_of_an_overlap_is_still_tested() -> None:
    errors = np.zeros(300)
    errors[:24] = 1
    every = np.arange(300)
    first = Candidate("slice", np.arange(16), every, {"a": "x"})
    second = Candidate("slice", np.arange(8, 24), every, {"b": "y"})
    assert len(select([first, second], as_scores(errors), n_min=15, alpha=0.05)) == 2


def test_groups_are_the_same_whatever_fails() -> None:
    images, others = made_up(1), made_up(1, planted=False)
    rows = np.arange(600)
    one, other = (group_candidates(i, rows, n_min=15) for i in (images, others))
    assert [c.members.tolist() for c in one] == [c.members.tolist() for c in other]
    assert all(len(c.tested) == 600 and len(c.members) >= 15 for c in one)


def test_mixture_separates_what_looks_and_fails_alike() -> None:
    images = made_up(3)
    assert images.embeddings is not None
    mixture = fit_mixture(images.embeddings, images.outcomes, images.errors, n_components=8)
    component = mixture.assign(images.embeddings)
    inside = np.array([name in hidden_of(images) for name in images.ids])
    best = np.bincount(component[inside]).argmax()
    assert (component[inside] == best).mean() > 0.5
    assert inside[component == best].mean() > 0.5


def test_a_failure_direction_points_to_failures() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 5))
    errors = (x[:, 1] + 0.3 * rng.normal(size=400) > 1).astype(float)
    weights = fit_direction(x, errors)
    assert np.abs(weights[1:]).argmax() == 1 and weights[2] > 0
    assert weights[0] < 0


def test_traits_are_values_that_members_share_and_others_lack() -> None:
    attributes = [{"light": "night" if i < 10 else "day", "lane": "a"} for i in range(40)]
    (trait,) = traits(np.arange(8), attributes)
    assert (trait.attribute, trait.value, trait.share, trait.lift) == ("light", "night", 1.0, 4.0)
    assert traits(np.arange(40), attributes) == ()


def test_nearest_prompts_say_what_members_have_and_others_lack() -> None:
    captions = np.array([[1.0, 0.0, 1.0]] * 5 + [[0.0, 1.0, 1.0]] * 15)
    prompts = np.array([[0.0, 1.0, 1.0], [1.0, 0.0, 1.0], [0.5, 0.5, 1.0]])
    assert nearest_prompts(np.arange(5), captions, prompts, n=2) == [1, 2]
    assert nearest_prompts(np.arange(5), captions, np.zeros((0, 3))) == []


def test_few_images_or_none_wrong_give_nothing() -> None:
    images = made_up(0, n=20)
    assert discover(images, n_min=15) == ()
    right = Evaluated(["a"] * 60, np.zeros(60), [{"x": "y"}] * 60)
    assert discover(right, n_min=15) == ()


def test_photographs_of_one_group_are_one_observation() -> None:
    """Frames of a video that fail together are no failure of what they happen to show."""
    found = {True: 0, False: 0}
    for seed in range(6):
        rng = np.random.default_rng(seed)
        groups = np.repeat(np.arange(60), 5)
        wrong = (rng.random(60) < 0.3).astype(float)[groups]
        scene = rng.choice(["road", "field", "town"], 60)[groups]
        embeddings = rng.normal(size=(60, 8))[groups] + rng.normal(scale=0.1, size=(300, 8))
        images = Evaluated(
            ids=[f"i{i}" for i in range(300)],
            errors=wrong,
            attributes=[{"scene": str(value)} for value in scene],
            outcomes=(np.stack([1 - wrong, wrong], 1),),
            embeddings=embeddings,
        )
        for grouped in found:
            given = replace(images, groups=groups if grouped else None)
            found[grouped] += bool(discover(given, n_min=10))
    assert found[True] <= 1
    assert found[False] >= 4


def test_a_failure_of_many_groups_is_found() -> None:
    images = made_up(0)
    pairs = replace(images, groups=np.arange(600) // 2)
    slices = {failure.slice for failure in discover(pairs, n_min=20)}
    assert "light=night weather=rain" in slices
    assert any(name.startswith("cluster") for name in slices)
