from __future__ import annotations

import pytest

from eval.compare import (
    ORACLE,
    REFERENCE,
    Score,
    Summary,
    area,
    contrast,
    headroom,
    images_to_reach,
    mean_curve,
    score_report,
    slice_figures,
    summarise,
    summary_table,
)
from eval.report.compare import Comparison, build_compare_html
from memory.errors import DataError
from memory.records import Report
from tests import factories
from tests.factories import estimate, slice_score


def score(arm: str, seed: int, number: int, worst_five: float) -> Score:
    return Score(
        arm=arm,
        seed=seed,
        round=number,
        n_images=100 * number,
        average=0.5,
        balanced=0.5,
        worst_slice=worst_five / 2,
        worst_five=worst_five,
        sound_five=worst_five,
    )


def table() -> list[Score]:
    """Uniform gains 0.1 a round; `good` is 0.1 better from round 2 on; the oracle 0.2."""
    return [
        score(arm, seed, number, 0.1 * number + 0.01 * seed + (lead if number > 1 else 0))
        for arm, lead in (("uniform", 0.0), ("good", 0.1), ("oracle", 0.2))
        for seed in range(3)
        for number in (1, 2, 3)
    ]


def test_summary_of_a_table_with_known_answers() -> None:
    uniform, good, oracle = summarise(table())
    assert uniform.differences == {}
    difference = good.differences["worst_five"]
    # Seeds differ, but pairs do not: the interval has no width.
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    assert difference.n == 3
    assert good.figures["worst_five"].value == pytest.approx(0.41)
    assert good.gap_closed is not None and good.gap_closed.value == pytest.approx(0.5)
    assert oracle.gap_closed is not None and oracle.gap_closed.value == pytest.approx(1)
    assert uniform.images_to_match == pytest.approx(300)
    assert good.images_to_match == pytest.approx(200)
    assert oracle.images_to_match == pytest.approx(100 + 100 * 0.2 / 0.3)
    assert uniform.area is not None and uniform.area.value == pytest.approx(0.21)
    assert good.area is not None and good.area.value == pytest.approx(0.21 + 0.075)


def test_arms_are_held_against_one_another_by_seed() -> None:
    (found,) = contrast(table(), [("oracle", "good"), ("oracle", "not there")])
    assert (found.arm, found.other) == ("oracle", "good")
    difference = found.differences["worst_five"]
    assert (difference.value, difference.low, difference.high) == pytest.approx((0.1, 0.1, 0.1))
    assert difference.n == 3
    assert found.differences["average"].value == 0


def test_an_unfinished_seed_does_not_count() -> None:
    scores = [s for s in table() if (s.arm, s.seed, s.round) != ("good", 2, 3)]
    good = summarise(scores)[1]
    assert good.n_seeds == 2
    assert good.differences["worst_five"].n == 2


def test_controls_of_a_single_round_have_no_curve() -> None:
    real = [score("real", seed, 3, 0.6) for seed in range(3)]
    found = summarise([*table(), *real])[-1]
    assert (found.area, found.images_to_match, found.gap_closed) == (None, None, None)
    assert found.differences["worst_five"].value == pytest.approx(0.29)


def test_without_uniform_there_are_no_differences() -> None:
    (only,) = summarise([s for s in table() if s.arm == "good"])
    assert only.differences == {}
    assert only.images_to_match is None


def test_an_oracle_that_is_no_better_leaves_no_gap() -> None:
    scores = [s for s in table() if s.arm != "oracle"]
    worse = [s.model_copy(update={"arm": "oracle"}) for s in scores if s.arm == "uniform"]
    assert all(s.gap_closed is None for s in summarise([*scores, *worse]))


def test_curve_area_and_reach() -> None:
    curve = [score("a", 0, 1, 0.0), score("a", 0, 2, 1.0), score("a", 0, 3, 1.0)]
    assert area(curve) == pytest.approx(0.75)
    assert area(curve[:1]) == 0.0
    assert images_to_reach([100, 200], [0.0, 1.0], 0.25) == 125
    assert images_to_reach([100, 200], [0.5, 1.0], 0.25) == 100
    assert images_to_reach([100, 200], [0.0, 0.2], 0.25) is None
    assert mean_curve(table(), "worst_five")[1].value == pytest.approx(0.11)


def report(values: dict[str, float]) -> Report:
    names = ("weather", "light")
    slices = [
        slice_score(dict(zip(names, key.split(), strict=True)), value)
        for key, value in values.items()
    ]
    return factories.report(*slices, split="test", metrics={"miou": estimate(0.4)})


def test_scores_of_a_report() -> None:
    values = {"fog night": 0.1, "fog day": 0.2, "rain night": 0.3, "rain day": 0.4}
    values |= {"snow day": 0.5, "snow night": 0.6}
    found = score_report(report(values), "a", 0, 1, 50, [{"weather": "fog", "light": "night"}])
    assert found.average == pytest.approx(0.4)
    assert found.balanced == pytest.approx(0.35)
    assert found.worst_slice == pytest.approx(0.1)
    assert found.worst_five == pytest.approx(0.3)
    assert found.sound_five == pytest.approx(0.4)
    with pytest.raises(DataError, match=r"feedback\.n_min"):
        score_report(report({}), "a", 0, 1, 50)


def test_csv_and_page_show_every_arm() -> None:
    scores = [*table(), *(score("real <b>", seed, 3, 0.6) for seed in range(3))]
    summaries = summarise(scores)
    head, *values = summary_table(summaries)
    rows = [dict(zip(head, row, strict=True)) for row in values]
    assert [row["arm"] for row in rows] == ["uniform", "good", "oracle", "real <b>"]
    assert rows[1]["worst_five_vs_uniform"] == "0.1000"
    assert rows[1]["images_to_match"] == "200"
    assert rows[3]["gap_closed"] == ""
    comparison = Comparison(
        preset="solar",
        broken=0.15,
        settings={"session": {"rounds": 3, "images_per_round": 100}, "dstm": {"steps": 10}},
        scores=scores,
        summaries=summaries,
        command="shaping compare solar",
    )
    page = build_compare_html(comparison)
    assert page == build_compare_html(comparison)
    assert "15% of the prompt cells broken" in page
    assert "real &lt;b&gt;" in page and "real <b>" not in page
    assert "+0.100" in page


def test_one_seed_is_shown_without_an_interval() -> None:
    scores = [s for s in table() if s.seed == 0]
    comparison = Comparison(
        preset="solar",
        broken=0,
        settings={"session": {"rounds": 3, "images_per_round": 100}, "dstm": {"steps": 10}},
        scores=scores,
        summaries=summarise(scores),
        command="shaping compare solar",
    )
    page = build_compare_html(comparison)
    assert "+0.100" in page and "+0.100 to +0.100" not in page and "0.400 to 0.400" not in page


def test_a_pilot_says_whether_the_oracle_gains_three_standard_errors() -> None:
    def summaries(gains: list[float]) -> list[Summary]:
        scores = [
            score(arm, seed, 1, 0.5 + (gain if arm == ORACLE else 0.0))
            for seed, gain in enumerate(gains)
            for arm in (REFERENCE, ORACLE)
        ]
        return summarise(scores)

    clear = headroom(summaries([0.10, 0.11, 0.12]))
    assert clear.gain.value == pytest.approx(0.11)
    assert clear.standard_error == pytest.approx(0.01 / 3**0.5)
    assert clear.is_enough
    assert not headroom(summaries([0.02, 0.11, -0.03])).is_enough


def test_slice_figures_are_means_over_trainings_and_hold_the_ious_of_classes() -> None:
    reports = [
        factories.report(
            slice_score({"light": "dusk"}, value / 2),
            metrics={"miou": estimate(0.5), "iou car": estimate(value)},
        )
        for value in (0.4, 0.6)
    ]
    assert {one.slice: one.score for one in slice_figures(reports)} == pytest.approx(
        {"light=dusk": 0.25, "iou car": 0.5}
    )
    assert slice_figures([]) == []
