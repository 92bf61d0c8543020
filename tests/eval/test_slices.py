from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from eval.metrics import classification_metrics, wilson
from eval.slices import (
    Attributes,
    benjamini_hochberg,
    failing_slices,
    score_slices,
    slice_report,
    slice_table,
    worst,
)
from memory.errors import DataError
from memory.records import Failure, Report, digest

ATTRIBUTES = [
    {"wafer": "mono", "light": "dark"},
    {"wafer": "poly", "light": "dark"},
    {"wafer": "poly"},
    {"wafer": "poly", "light": "dark"},
]
BY = [("wafer",), ("wafer", "light")]


def photographs(n: int, seed: int = 0) -> list[dict[str, str]]:
    rng = np.random.default_rng(seed)
    wafers, lights = ("mono", "poly"), ("dark", "medium", "bright")
    return [{"wafer": wafers[rng.integers(2)], "light": lights[rng.integers(3)]} for _ in range(n)]


def probabilities_for(
    labels: NDArray[np.int64], wrong: NDArray[np.bool_], n_classes: int = 2
) -> NDArray[np.float64]:
    predicted = np.where(wrong, (labels + 1) % n_classes, labels)
    rest = 0.2 / (n_classes - 1)
    found: NDArray[np.float64] = np.where(np.arange(n_classes) == predicted[:, None], 0.8, rest)
    return found


def report_of(labels: NDArray[np.int64], probabilities: NDArray[np.float64], n_min: int) -> Report:
    metrics = classification_metrics(labels, probabilities)
    correct = labels == probabilities.argmax(1)
    return slice_report(metrics, correct, ATTRIBUTES, BY, n_min, 3, "feedback")


def failures_of(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.float64],
    attributes: Attributes,
    ids: Sequence[str],
    by: Sequence[tuple[str, ...]],
    n_min: int,
    n_examples: int = 16,
) -> tuple[Failure, ...]:
    correct, true = labels == probabilities.argmax(1), probabilities[np.arange(len(labels)), labels]
    return failing_slices(
        correct, attributes, ids, by, n_min, n_examples=n_examples, confidence=true
    )


def test_slices_hold_the_photographs_that_share_values() -> None:
    table = slice_table(ATTRIBUTES, BY, n_min=1)
    assert {key: members.tolist() for key, members in table.items()} == {
        "wafer=mono": [0],
        "wafer=poly": [1, 2, 3],
        "light=dark wafer=mono": [0],
        "light=dark wafer=poly": [1, 3],
    }
    assert list(slice_table(ATTRIBUTES, BY, n_min=2)) == ["wafer=poly", "light=dark wafer=poly"]
    assert slice_table(ATTRIBUTES, [("nothing",)], n_min=1) == {}
    assert slice_table([], BY, n_min=0) == {}
    assert list(slice_table(ATTRIBUTES, [("light", "wafer"), ("wafer", "light")], 2)) == [
        "light=dark wafer=poly"
    ]


def test_scores_carry_counts_and_attributes() -> None:
    values = [{"kind": "big car", "lit": "yes"}, {"kind": "big car", "lit": "no"}]
    correct = np.array([True, False])
    (score,) = score_slices(correct, slice_table(values, [("kind",)], 1), values)
    assert (score.key, score.attributes) == ("kind=big car", {"kind": "big car"})
    assert (score.n_correct, score.accuracy) == (1, wilson(1, 2))


def test_the_worst_slice_has_enough_photographs() -> None:
    correct = np.array([False, True, False, True])
    table = slice_table(ATTRIBUTES, BY, n_min=1)
    slices = score_slices(correct, table, ATTRIBUTES)
    assert worst(slices, n_min=1) == "light=dark wafer=mono"
    assert worst(slices, n_min=2) == "wafer=poly"
    assert worst(slices, n_min=4) is None


def test_a_report_measures_everything() -> None:
    labels = np.array([0, 1, 1, 0])
    probabilities = probabilities_for(labels, np.array([False, False, True, False]))
    report = report_of(labels, probabilities, n_min=2)
    assert (report.round, report.split) == (3, "feedback")
    assert {name: m.value for name, m in report.metrics.items()} == {
        "accuracy": 0.75,
        "balanced_accuracy": 0.75,
        "auroc": 0.75,
        "worst_slice": pytest.approx(2 / 3),
    }
    assert report.worst_slice == "wafer=poly"
    assert [s.key for s in report.slices] == ["wafer=poly", "light=dark wafer=poly"]


def test_a_report_of_several_classes_without_slices() -> None:
    labels = np.array([0, 1, 2, 2])
    probabilities = probabilities_for(labels, np.zeros(4, dtype=bool), n_classes=3)
    report = report_of(labels, probabilities, n_min=50)
    assert set(report.metrics) == {"accuracy", "balanced_accuracy"}
    assert (report.slices, report.worst_slice) == ((), None)


def test_what_cannot_be_measured_is_an_error() -> None:
    with pytest.raises(DataError, match="nothing to measure"):
        slice_report({}, np.zeros(0), [], BY, 1, 1, "feedback")
    with pytest.raises(DataError, match="diverged"):
        report_of(np.array([0, 1, 1, 0]), np.full((4, 2), np.nan), 1)


def test_a_planted_failure_is_found_first_with_its_worst_examples() -> None:
    attributes = photographs(600)
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 2, 600)
    planted = np.array([a == {"wafer": "poly", "light": "dark"} for a in attributes])
    wrong = rng.random(600) < np.where(planted, 0.5, 0.1)
    probabilities = probabilities_for(labels, wrong)
    sure = int(np.flatnonzero(planted & wrong)[7])
    probabilities[sure, labels[sure]], probabilities[sure, 1 - labels[sure]] = 0.01, 0.99
    ids = [f"photo{i}" for i in range(600)]

    failures = failures_of(
        labels, probabilities, attributes, ids, [*BY, ("light",)], n_min=20, n_examples=5
    )
    first = failures[0]
    assert first.slice == "light=dark wafer=poly"
    assert first.id == digest("light=dark wafer=poly")
    assert first.attributes == {"light": "dark", "wafer": "poly"}
    assert first.significant and first.q_value < 1e-6
    assert first.n == planted.sum()
    assert first.n_wrong == (planted & wrong).sum()
    assert first.error_rate == wilson(first.n_wrong, first.n)
    assert first.rest_error_rate == pytest.approx(wrong[~planted].mean())
    assert first.examples[0] == f"photo{sure}"
    assert len(first.examples) == 5
    assert all(wrong[int(name.removeprefix("photo"))] for name in first.examples)
    assert all(f.error_rate.value > f.rest_error_rate for f in failures)
    significant = [f.significant for f in failures]
    assert significant == sorted(significant, reverse=True)


def test_a_uniform_error_is_not_significant() -> None:
    n_found = 0
    for seed in range(40):
        attributes = photographs(400, seed)
        rng = np.random.default_rng(seed)
        labels = rng.integers(0, 2, 400)
        probabilities = probabilities_for(labels, rng.random(400) < 0.2)
        failures = failures_of(labels, probabilities, attributes, ["x"] * 400, BY, n_min=20)
        n_found += any(f.significant for f in failures)
    # At most 5% of the runs may find something; six of 40 would have a chance of 1.4%.
    assert n_found <= 5


def test_the_test_is_fishers() -> None:
    # The lady tasting tea: 3 of 4 against 1 of 4 has a one-sided p-value of 17/70.
    attributes = [{"side": "a"}] * 4 + [{"side": "b"}] * 4
    labels = np.zeros(8, dtype=np.int64)
    wrong = np.array([1, 1, 1, 0, 1, 0, 0, 0], dtype=bool)
    (failure,) = failures_of(
        labels, probabilities_for(labels, wrong), attributes, list("abcdefgh"), [("side",)], 1
    )
    assert failure.slice == "side=a"
    assert failure.p_value == pytest.approx(17 / 70)
    assert failure.q_value == pytest.approx(34 / 70)
    assert not failure.significant
    assert failure.examples == ("a", "b", "c")


def test_a_slice_of_everything_and_a_perfect_model_have_no_failures() -> None:
    attributes = [{"side": "a"}] * 4
    labels = np.array([0, 1, 0, 1])
    all_wrong = probabilities_for(labels, np.ones(4, dtype=bool))
    assert failures_of(labels, all_wrong, attributes, list("abcd"), [("side",)], 1) == ()
    perfect = probabilities_for(labels, np.zeros(4, dtype=bool))
    assert failures_of(labels, perfect, ATTRIBUTES, list("abcd"), BY, 1) == ()


def test_benjamini_hochberg_on_the_example_of_its_paper() -> None:
    # Benjamini and Hochberg 1995, section 3.2: 15 tests, the first four are rejected at 0.05.
    p_values = [
        0.0001, 0.0004, 0.0019, 0.0095, 0.0201, 0.0278, 0.0298, 0.0344,
        0.0459, 0.3240, 0.4262, 0.5719, 0.6528, 0.7590, 1.0000,
    ]  # fmt: skip
    q_values = benjamini_hochberg(p_values)
    assert sum(q <= 0.05 for q in q_values) == 4
    assert q_values[:4] == pytest.approx([0.0015, 0.003, 0.0095, 0.035625])
    # The step up: the sixth takes over the smaller value of the seventh.
    assert q_values[4:8] == pytest.approx(
        [0.0201 * 15 / 5, 0.0298 * 15 / 7, 0.0298 * 15 / 7, 0.0344 * 15 / 8]
    )
    assert q_values == sorted(q_values)
    assert benjamini_hochberg(p_values[::-1]) == q_values[::-1]
    assert benjamini_hochberg([]) == []
