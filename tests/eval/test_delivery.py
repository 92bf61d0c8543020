"""Delivery: which round, and the paired difference to round 0."""

from __future__ import annotations

from typing import get_args

import numpy as np
import pytest

from eval.delivery import (
    Delivery,
    Rule,
    change,
    class_sums,
    delivered_round,
    figure_changes,
    score_sums,
    slice_sums,
    slices_that_matter,
)
from eval.report.delivery import delivery_line, delivery_table
from eval.slices import slice_table
from memory.records import Hypothesis, Plan, PromptSpec, Report, Round, Training
from tests.factories import estimate, failure, slice_score
from tools import tasks
from tools.data.samples import Samples
from tools.tasks import Slicing


def measured(number: int, main: float, *slices: float, aim: str = "") -> Round:
    scores = tuple(slice_score({"k": str(i)}, value) for i, value in enumerate(slices))
    training = Training(
        round=number, job_id="j", model="m", n_images=number, n_steps=1, final_loss=0.1, sha256="s"
    )
    report = Report(
        round=number, split="feedback", metrics={"accuracy": estimate(main)}, slices=scores
    )
    plan = None
    if aim:
        prompt = PromptSpec(id="p", text="t", class_name="c", count=1)
        aims = Hypothesis(slice=aim, expected_change=0.1)
        plan = Plan(round=number, author="a", prompts=(prompt,), hypothesis=aims)
    return Round(number=number, training=training, report=report, plan=plan)


def test_the_best_round_is_chosen_by_the_rule_and_of_equals_the_one_of_fewer_images() -> None:
    rounds = [
        measured(0, 0.8, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9),
        measured(1, 0.7, 0.6, 0.6, 0.6, 0.6, 0.6, 0.9),
        measured(2, 0.8, 0.2, 0.9, 0.9, 0.9, 0.9, 0.9),
        measured(3, 0.75, 0.78, 0.78, 0.78, 0.78, 0.78, 0.78),
    ]
    numbers = {}
    for rule in get_args(Rule):
        chosen = delivered_round(rounds, rule)
        assert chosen
        numbers[rule] = chosen.number
    assert numbers == {"main": 0, "worst5": 3, "balanced": 0}
    assert delivered_round(rounds[1:3], "worst5") == rounds[2]
    assert delivered_round([], "main") is None


def test_a_slice_matters_that_fails_in_round_0_or_that_plans_name() -> None:
    zero = measured(0, 0.5).model_copy(
        update={"failures": (failure({"k": "1"}), failure({"k": "2"}, significant=False))}
    )
    past = [zero, measured(1, 0.5, aim="k=3"), measured(2, 0.5, aim="k=1")]
    assert slices_that_matter(past) == ["k=1", "k=3"]


def test_figures_are_those_of_reports() -> None:
    rng = np.random.default_rng(0)
    n = 60
    attributes = [{"k": str(i)} for i in rng.integers(7, size=n)]
    samples = Samples(
        images=np.zeros((n, 1, 2, 2), np.uint8),
        classes=rng.integers(3, size=n),
        attributes=attributes,
        ids=[str(i) for i in range(n)],
        weights=np.ones(n, np.float32),
    )
    task = tasks.build("classification")
    predictions = rng.dirichlet(np.ones(3), size=n)
    report = task.report(predictions, samples, "abc", 0, "test", Slicing([("k",)], 3))
    scores = task.scores(predictions, samples)
    sums, figure = class_sums(scores, samples.classes)
    assert figure(sums.sum(0)) == pytest.approx(report.metrics["balanced_accuracy"].value)
    sums, figure = score_sums(scores)
    assert figure(sums.sum(0)) == pytest.approx(report.metrics["accuracy"].value)
    sums, figure = slice_sums(scores, list(slice_table(attributes, [("k",)], 3).values()))
    lowest = sorted(s.accuracy.value for s in report.slices)[:5]
    assert figure(sums.sum(0)) == pytest.approx(np.mean(lowest))


def test_the_main_figure_of_pixels_is_pooled_over_photographs() -> None:
    rng = np.random.default_rng(0)
    truth, predicted = rng.integers(3, size=(2, 30, 4, 4)).astype(np.uint8)
    samples = Samples(
        images=np.zeros((30, 1, 4, 4), np.uint8),
        classes=np.zeros(30, np.int64),
        attributes=[{}] * 30,
        ids=[str(i) for i in range(30)],
        weights=np.ones(30, np.float32),
        labels={"segmentation": truth},
    )
    task = tasks.build("segmentation")
    report = task.report(predicted, samples, "abc", 0, "test", Slicing())
    sums, figure = task.main_sums(predicted, samples, "abc")  # type: ignore[attr-defined]
    assert figure(sums.sum(0)) == pytest.approx(report.metrics["miou"].value)
    worse = np.where(rng.random(truth.shape) < 0.9, truth, predicted)
    after, _ = task.main_sums(worse, samples, "abc")  # type: ignore[attr-defined]
    assert change("mIoU", sums, after, figure).difference.low > 0.5


def test_the_interval_of_a_paired_difference_covers_it() -> None:
    rng = np.random.default_rng(1)
    n_covered, n_trials = 0, 80
    for _ in range(n_trials):
        classes = rng.integers(2, size=80)
        easy = rng.random(80) < 0.6
        # Both models are right on the easy photographs; the second on 0.05 more of the others.
        before = (easy | (rng.random(80) < 0.3)).astype(float)
        after = (easy | (rng.random(80) < 0.35)).astype(float)
        one, figure = class_sums(before, classes)
        found = change("balanced", one, class_sums(after, classes)[0], figure).difference
        n_covered += found.low <= 0.4 * 0.05 <= found.high
    assert n_covered / n_trials >= 0.86


@pytest.mark.parametrize("n_groups", [4, 30])
def test_the_photographs_of_a_group_are_resampled_together(n_groups: int) -> None:
    rng, n_trials, covered = np.random.default_rng(2), 80, {"together": 0, "apart": 0}
    groups = np.repeat(np.arange(n_groups), 12)
    for _ in range(n_trials):
        # The second model is better or worse on whole groups, and on average equal.
        of_groups = rng.normal(0, 0.1, n_groups)[groups]
        before = 0.5 + rng.normal(0, 0.02, len(groups))
        one, figure = score_sums(before)
        other, _ = score_sums(before + of_groups)
        for name, numbers in (("together", groups), ("apart", None)):
            found = change("accuracy", one, other, figure, numbers).difference
            covered[name] += found.low <= 0 <= found.high
    assert covered["together"] / n_trials >= 0.86
    assert covered["apart"] / n_trials < 0.7


def test_with_few_photographs_nothing_can_be_shown() -> None:
    sums, figure = score_sums(np.zeros(10))
    found = change("accuracy", sums, score_sums(np.ones(10))[0], figure)
    assert (found.difference.low, found.difference.high) == (-1, 1)


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(0.01, 0.05, "helped"), (-0.01, 0.05, "undecided"), (-0.05, -0.01, "harmed")],
)
def test_the_interval_of_the_main_figure_decides(low: float, high: float, outcome: str) -> None:
    rng = np.random.default_rng(0)
    scores = rng.random(50), rng.random(50)
    before, after = (score_sums(each) for each in scores)
    found = figure_changes(
        ("mIoU", before[0], after[0], before[1]),
        scores,
        "Mean score",
        {"a=b": np.arange(9)},
        ["a=b", "c"],
    )
    assert [each.name for each in found] == ["mIoU", "Mean score", "Worst five slices", "a=b"]
    main = found[0].model_copy(
        update={"difference": found[0].difference.model_copy(update={"low": low, "high": high})}
    )
    delivery = Delivery(
        rule="main",
        baseline="0 (real only)",
        round=0,
        compared=2,
        n_images=32,
        changes=(main, *found[1:]),
    )
    assert delivery.outcome == outcome
    table = delivery_table(delivery)
    assert table.title == "Your photographs alone → with 32 shaped images"
    assert len(table.rows) == 4
    assert "0 (real only)" in delivery_line(delivery).text
    few = main.model_copy(update={"difference": main.difference.model_copy(update={"n": 18})})
    words = delivery_line(delivery.model_copy(update={"changes": (few,)})).text
    assert ("Too few test photographs" in words) == (outcome == "undecided")
