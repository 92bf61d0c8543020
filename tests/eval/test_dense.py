from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eval import dense
from eval.slices import failing_slices, slice_report
from memory.errors import DataError


def ids(*rows: list[int]) -> Any:
    return np.array(rows, np.uint8)[:, None, :]


def test_iou_of_a_known_case() -> None:
    truth = ids([0, 0, 1, 1], [0, 0, 0, dense.VOID])
    said = ids([0, 1, 1, 1], [0, 0, 0, 1])
    confusion = dense.confusions(truth, said, 3)
    assert confusion[0].tolist() == [[1, 1, 0], [0, 2, 0], [0, 0, 0]]
    # Class 2 is true nowhere, the void pixel does not count.
    assert dense.class_ious(confusion.sum(0))[:2].tolist() == pytest.approx([4 / 5, 2 / 3])
    figures = dense.segmentation_metrics(confusion, ["road", "car", "sky"])
    assert next(iter(figures)) == "miou"
    assert figures["miou"].value == pytest.approx((4 / 5 + 2 / 3) / 2)
    assert figures["pixel_accuracy"].value == pytest.approx(6 / 7)
    assert figures["worst_class"] == figures["iou car"]
    assert (figures["iou car"].n, "iou sky" in figures) == (1, False)
    assert dense.segmentation_scores(confusion).tolist() == pytest.approx([7 / 12, 1])


def test_ids_that_no_class_has_are_refused() -> None:
    with pytest.raises(DataError, match="id 7"):
        dense.confusions(ids([7]), ids([0]), 3)


def test_depth_of_a_known_case() -> None:
    truth = np.array([[[10, 10, np.nan, 0]]], np.float32)
    said = np.array([[[11, 20, 5, 5]]], np.float32)
    sums = dense.depth_sums(truth, said)
    assert sums.tolist() == [[2, 1, pytest.approx(1.1), pytest.approx(101)]]
    figures = dense.depth_metrics(sums)
    assert {k: v.value for k, v in figures.items()} == {
        "delta1": 0.5,
        "abs_rel": pytest.approx(0.55),
        "rmse_m": pytest.approx((101 / 2) ** 0.5),
    }


def test_angles_of_a_known_case() -> None:
    truth = np.zeros((1, 3, 1, 3), np.float32)
    truth[0, 2] = -1
    said = truth.copy()
    said[0, :, 0, 1] = [1, 0, 0]  # 90 degrees off
    truth[0, :, 0, 2] = np.nan
    figures = dense.normals_metrics(dense.angle_counts(truth, said))
    assert figures["within_11"].value == 0.5
    assert figures["mean_deg"].value == pytest.approx(45)


@pytest.mark.parametrize("kind", ["depth", "normals"])
def test_nothing_known_is_an_error(kind: str) -> None:
    shape = (2, 3, 4, 4) if kind == "normals" else (2, 4, 4)
    unknown, said = np.full(shape, np.nan, np.float32), np.ones(shape, np.float32)
    with pytest.raises(DataError, match="nothing to measure"):
        if kind == "depth":
            dense.depth_metrics(dense.depth_sums(unknown, said))
        else:
            dense.normals_metrics(dense.angle_counts(unknown, said))


def test_a_slice_that_is_worse_is_found_and_its_worst_images_are_named() -> None:
    rng = np.random.default_rng(0)
    night = np.arange(80) % 4 == 0
    scores = np.clip(np.where(night, 0.5, 0.8) + rng.normal(0, 0.1, 80), 0, 1)
    scores[4] = np.nan
    attributes = [
        {"light": "night" if n else "day", "layout": "straight" if i % 3 else "crossing"}
        for i, n in enumerate(night)
    ]
    names = [str(i) for i in range(80)]
    by = [("light",), ("layout",)]
    worst, *others = failing_slices(scores, attributes, names, by, 5)
    assert (worst.slice, worst.significant, worst.n) == ("light=night", True, 19)
    assert worst.examples[0] == str(np.nanargmin(np.where(night, scores, 1)))
    assert not any(failure.significant for failure in others)
    report = slice_report({}, scores, attributes, by, 5, 1, "feedback")
    assert report.worst_slice == "light=night"
    (slice_,) = [s for s in report.slices if s.key == "light=night"]
    assert slice_.accuracy.value == pytest.approx(np.nanmean(scores[night]))
    assert slice_.accuracy.low < slice_.accuracy.value < slice_.accuracy.high
    assert slice_.n_correct == round(float(np.nansum(scores[night])))
