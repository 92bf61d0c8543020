from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from eval import quality
from eval.dense import VOID
from eval.metrics import auroc

FOCAL_PX = 40.0


def plane(normal: tuple[float, float, float], distance_m: float = 9.0) -> NDArray[np.float64]:
    """Return the depth of the plane normal . X = -distance, (1, 24, 36)."""
    x = (np.arange(36) + 0.5 - 18) / FOCAL_PX
    y = ((np.arange(24) + 0.5 - 12) / FOCAL_PX)[:, None]
    unit = np.array(normal) / np.linalg.norm(normal)
    depth: NDArray[np.float64] = -distance_m / (unit[0] * x + unit[1] * y + unit[2])
    return depth[None]


@pytest.mark.parametrize("normal", [(0, 0, -1), (0.6, 0, -1), (0, -1, -0.7), (-0.5, -0.8, -1)])
def test_the_normals_of_a_plane(normal: tuple[float, float, float]) -> None:
    depth = plane(normal)
    assert (depth > 0).all()
    unit = np.array(normal) / np.linalg.norm(normal)
    true = np.broadcast_to(unit[:, None, None], (1, 3, 24, 36))
    angle = quality.geometric_difference(depth, true, FOCAL_PX)
    assert angle.shape == (1, 24, 36)
    assert angle.max() < 0.01
    # What is wrong by 20 degrees is found to be.
    turned = true.copy()
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    turned[:, 0], turned[:, 2] = c * true[:, 0] + s * true[:, 2], c * true[:, 2] - s * true[:, 0]
    wrong = quality.geometric_difference(depth, turned, FOCAL_PX)
    expected = quality.angles_deg(true, turned, axis=1)
    assert np.allclose(wrong, expected, atol=0.01)
    assert wrong.max() > 10


def test_the_edge_of_an_object_is_no_surface() -> None:
    depth = np.where(np.arange(36) < 18, plane((0, 0, -1), 4), plane((0, 0, -1), 30))
    normals = np.broadcast_to(np.array([0, 0, -1.0])[:, None, None], (1, 3, 24, 36))
    assert quality.geometric_difference(depth, normals, FOCAL_PX).max() < 0.01


def test_unknown_depth_is_not_judged() -> None:
    depth = plane((0, 0, -1))
    depth[:, :, 20:] = np.nan
    found = quality.normals_of_depth(depth, FOCAL_PX)
    assert np.isfinite(found[..., :20]).all()
    assert np.isnan(found[..., 20:]).all()


def test_the_focal_length_is_found() -> None:
    planes = [(0.6, 0, -1), (0, -1, -0.7), (-0.5, -0.8, -1)]
    depth = np.concatenate([plane(normal) for normal in planes])
    units = np.array(planes) / np.linalg.norm(planes, axis=1, keepdims=True)
    normals = np.broadcast_to(units[:, :, None, None], (3, 3, 24, 36))
    assert quality.estimate_focal(depth, normals) == pytest.approx(FOCAL_PX, rel=0.02)


def test_angles() -> None:
    a = np.array([[1.0, 0, 0], [1, 0, 0], [1, 0, 0], [1, 0, 0], [np.nan, 0, 0]])
    b = np.array([[2.0, 0, 0], [0, 3, 0], [-1, 0, 0], [1, 1e-6, 0], [1, 0, 0]])
    found = quality.angles_deg(a, b, axis=1)
    assert found[:3].tolist() == pytest.approx([0, 90, 180])
    assert found[3] == pytest.approx(np.degrees(1e-6))
    assert np.isnan(found[4])


def test_classes_overlap_with_what_teachers_see() -> None:
    truth = np.zeros((1, 10, 10), np.uint8)
    truth[0, :, 5:] = 1
    truth[0, 2:4, 2:4] = 2
    teachers = np.stack([(truth == k).astype(float) for k in range(3)], axis=1)[None]
    same, spread = quality.class_difference(truth, teachers)
    assert (same[0], spread[0]) == pytest.approx((0, 0))
    assert quality.class_difference((truth + 1) % 3, teachers)[0][0] == pytest.approx(1)
    # An object that the label leaves out: 0 of class 2, 46 of 50 pixels of class 0, all of 1.
    without = np.where(truth == 2, 0, truth).astype(np.uint8)
    assert quality.class_difference(without, teachers)[0][0] == pytest.approx(1 - (1 + 0.92) / 3)
    # Unknown pixels do not count.
    unknown = np.where(truth == 2, 255, truth).astype(np.uint8)
    assert quality.class_difference(unknown, teachers)[0][0] == pytest.approx(0)
    # Teachers that waver between two classes expect no more of a label than of themselves.
    wavering = np.full((2, 1, 2, 10, 10), 0.5)
    difference, spread = quality.class_difference(np.zeros((1, 10, 10), np.uint8), wavering)
    assert difference[0] == spread[0] == pytest.approx(0.75)


def test_depth_and_normals_are_compared_with_the_middle_of_the_teachers() -> None:
    teachers_m = np.array([5.0, 20.0])[:, None, None, None] * np.ones((2, 1, 2, 2))
    depth = np.array([[[10.0, 20.0], [5.0, np.nan]]])
    difference, spread = quality.depth_difference(depth, teachers_m)
    assert difference[0] == pytest.approx(2 / 3 * np.log(2))
    assert spread[0] == pytest.approx(np.log(2))
    axes = np.eye(3)[[0, 1]][:, None, :, None, None]
    diagonal = np.array([1.0, 1, 0])[None, :, None, None]
    angle, spread = quality.normals_difference(diagonal, axes)
    assert angle[0] == pytest.approx(0, abs=1e-6)
    assert spread[0] == pytest.approx(45)


def test_what_is_known_of_nothing_counts_as_no_evidence() -> None:
    assert quality.image_means(np.full((2, 3, 3), np.nan)).tolist() == [0, 0]


def test_measures_are_collected_as_far_as_there_is_what_they_need() -> None:
    n, size = 2, (4, 6)
    labels = {"depth": np.full((n, *size), 5.0, np.float32)}
    teachers = {"depth": np.full((3, n, *size), 5.0)}
    assert [*quality.collect(labels, teachers, {}, 10.0)["depth"]] == ["disagreement", "spread"]
    normals = np.broadcast_to(np.array([0, 0, -1.0])[:, None, None], (n, 3, *size))
    both = {**labels, "normals": normals}
    sure = {"depth": np.full((n, *size), 0.75), "segmentation": np.ones((n, *size))}
    found = quality.collect(both, teachers, sure, 10.0)
    assert found.keys() == {"depth"}
    assert found["depth"]["geometry"].tolist() == pytest.approx([0, 0], abs=1e-6)
    assert found["depth"]["doubt"].tolist() == [0.25, 0.25]


def test_doubt_in_small_objects_weighs_as_much_as_doubt_in_the_sky() -> None:
    ids = np.zeros((2, 4, 5), np.uint8)
    ids[0, 0, 0], ids[0, 0, 1] = 7, VOID
    confidence = np.where(ids == 7, 0.0, 0.9)
    confidence[0, 0, 1] = 0
    teachers = {"segmentation": np.full((1, 2, 8, 4, 5), 1 / 8)}
    found = quality.collect(
        {"segmentation": ids}, teachers, {"segmentation": confidence}, focal_px=None
    )
    assert found["segmentation"]["doubt"] == pytest.approx([0.55, 0.1])
    assert quality.class_means(confidence, np.full_like(ids, VOID)).tolist() == [0, 0]


def test_evidence_beyond_the_normal_counts_most() -> None:
    spread = np.array([0.1, 0.2, 0.4, 0.8])
    normal = quality.normal_evidence(
        {"disagreement": 3 * spread, "spread": spread, "geometry": np.full(4, 2.0)}
    )
    # Half of the slope, which is 1.
    assert normal["per_spread"] == pytest.approx(0.5, abs=0.01)
    measures = {
        "disagreement": np.array([0.3, 1.2, 0.6, 1.2]),
        "spread": np.array([0.1, 0.1, 0.4, 0.4]),
        "geometry": np.array([0.1, 2.0, 20.0, 2.0]),
    }
    found = quality.excess(measures, normal)
    # As many times what is normal, which rises with the root of what teachers differ themselves.
    usual = 3 * np.sqrt(np.exp(np.log(spread).mean()) * measures["spread"])
    beyond = np.log(1 + measures["disagreement"] / usual)
    assert found["disagreement"] == pytest.approx(beyond, abs=0.03)
    assert found["geometry"] == pytest.approx(np.log([1.05, 2, 11, 2]), abs=0.01)


def test_scores_are_predicted_from_evidence() -> None:
    rng = np.random.default_rng(0)
    evidence = np.abs(rng.normal(size=(4000, 2)))
    scores = 1 / (1 + np.exp(-(3 - 2 * evidence[:, 0] - evidence[:, 1])))
    found = quality.fit_scores(evidence, scores)
    assert np.allclose(found, [3, -2, -1], atol=0.1)
    assert np.allclose(quality.expected_scores(evidence, found), scores, atol=0.01)
    # What cannot be known is not known: the mean is predicted.
    noise = rng.random(4000)
    blind = quality.fit_scores(evidence, noise)
    assert np.allclose(quality.expected_scores(evidence, blind), noise.mean(), atol=0.1)
    less = quality.expected_scores(evidence, found, against=1.0)
    assert (less < quality.expected_scores(evidence, found)).all()


def test_auroc_is_that_of_scikit_learn() -> None:
    from sklearn.metrics import roc_auc_score

    rng = np.random.default_rng(0)
    bad = rng.integers(0, 2, 300)
    evidence = np.round(rng.normal(size=300) + bad, 1)  # with ties
    assert auroc(bad, evidence).value == pytest.approx(roc_auc_score(bad, evidence))
