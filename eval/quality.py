"""Quality of dense labels without ground truth.

Evidence against a label comes from teachers, i.e. models that were trained on real labels (their
disagreement with the label, and with one another), from geometry (normals must agree with the
gradient of the depth) and from the confidence of the generator. All evidence is at least 0, higher
is worse; pixels without a label are ignored. `expected_scores` maps it to the expected score of the
labels against the ground truth, 0..1, as defined in `eval.dense`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.dense import VOID
from eval.metrics import logistic, logistic_regression

Floats = NDArray[np.floating[Any]]
Vector = NDArray[np.float64]

# Candidate focal lengths in widths of the image: fields of view from 127 down to 14 degrees.
_FOCALS = np.geomspace(0.25, 4, 81)
# Least share of the known pixels for a class to count as predicted by the teachers.
_SHOWN_SHARE = 0.005
_LEAST = 1e-3
_RIDGE = 1e-4
# Share of the disagreement explained by spread among teachers that counts as normal. On real labels
# it would be 1, but where teachers are unsure, the labels of a generator are worse as well.
_NORMAL_SHARE = 0.5


def class_difference(ids: NDArray[np.uint8], probabilities: Floats) -> tuple[Vector, Vector]:
    """Return 1 - soft IoU of labels with the teachers' mean probabilities, and a reference value.

    The IoU is averaged over the classes that the label or the teachers show, so objects missing
    from the label count as well.

    Args:
        ids: class ids, (n, h, w).
        probabilities: predictions of the teachers, (teachers, n, classes, h, w).

    Returns:
        The difference, 0..1, (n,), and the same for the teachers' most probable classes in place of
        the labels, (n,).
    """
    valid = ids != VOID
    p = probabilities.mean(0) * valid[:, None]
    numbers = np.arange(p.shape[1])[:, None, None]
    labelled = (ids[:, None] == numbers) & valid[:, None]
    guessed = (p.argmax(1)[:, None] == numbers) & valid[:, None]
    return _no_overlap(labelled, p), _no_overlap(guessed, p)


def depth_difference(depth_m: Floats, teachers_m: Floats) -> tuple[Vector, Vector]:
    """Return |log depth - mean log depth of teachers|, and the teachers' mean distance to it.

    Args:
        depth_m: in metres, (n, h, w), NaN where unknown.
        teachers_m: in metres, above 0, (teachers, n, h, w).

    Returns:
        Both as means over the known pixels of each image, (n,).
    """
    logs = np.log(teachers_m)
    middle = logs.mean(0)
    valid = np.isfinite(depth_m) & (depth_m > 0)
    difference = np.abs(np.log(np.where(valid, depth_m, 1)) - middle)
    spread = np.abs(logs - middle).mean(0)
    return (
        image_means(np.where(valid, difference, np.nan)),
        image_means(np.where(valid, spread, np.nan)),
    )


def normals_difference(normals: Floats, teachers: Floats) -> tuple[Vector, Vector]:
    """Return the angle to the teachers' mean normal and their mean angle to it, in degrees.

    Args:
        normals: (n, 3, h, w), NaN where unknown.
        teachers: unit vectors, (teachers, n, 3, h, w).

    Returns:
        Both as means over the known pixels of each image, (n,).
    """
    middle = unit_vectors(teachers.mean(0), axis=1)
    difference = angles_deg(normals, middle, axis=1)
    spread = angles_deg(teachers, middle[None], axis=2).mean(0)
    valid = np.isfinite(difference)
    return image_means(difference), image_means(np.where(valid, spread, np.nan))


def geometric_difference(depth_m: Floats, normals: Floats, focal_px: float) -> Floats:
    """Return the angle between each normal and the one that the depth implies, in degrees.

    depth_m: along the optical axis, (n, h, w); normals: (n, 3, h, w), facing the camera. See
    `normals_of_depth`.
    """
    return angles_deg(normals, normals_of_depth(depth_m, focal_px), axis=1)


def normals_of_depth(depth_m: Floats, focal_px: float) -> Floats:
    """Return the surface normals of depth maps, (n, 3, h, w), facing the camera.

    On a plane n.X = c the inverse depth is w = n.(x, y, 1) / c at the ray (x, y, 1): affine in the
    pixel. So the normal is along -(w_x, w_y, w - x w_x - y w_y), which is exact for planes at any
    pixel spacing. The smaller of the differences to both neighbours is used, so that depth
    discontinuities at the edges of objects have no effect.

    Args:
        depth_m: along the optical axis of a pinhole camera whose principal point is the centre of
            the image, (n, h, w). Normals are NaN where it is unknown all around.
        focal_px: focal length in pixels.
    """
    valid = np.isfinite(depth_m) & (depth_m > 0)
    inverse = np.where(valid, 1 / np.where(valid, depth_m, 1), np.nan)
    height, width = depth_m.shape[1:]
    x = (np.arange(width) + 0.5 - width / 2) / focal_px
    y = ((np.arange(height) + 0.5 - height / 2) / focal_px)[:, None]
    along_x = _smaller_difference(inverse, axis=2) * focal_px
    along_y = _smaller_difference(inverse, axis=1) * focal_px
    forward = inverse - x * along_x - y * along_y
    return unit_vectors(-np.stack([along_x, along_y, forward], axis=1), axis=1)


def estimate_focal(depth_m: Floats, normals: Floats) -> float:
    """Return the focal length in pixels for which depth and normals agree best.

    It minimises the median angle over `_FOCALS` times the width of the image, in steps of 3.5%.
    """
    width = depth_m.shape[2]
    errors = [
        float(np.nanmedian(geometric_difference(depth_m, normals, factor * width)))
        for factor in _FOCALS
    ]
    return float(_FOCALS[int(np.argmin(errors))] * width)


def angles_deg(a: Floats, b: Floats, axis: int) -> Floats:
    """Return the angle between vectors along `axis`, 0..180 degrees, NaN where one is not finite.

    Unlike the arc cosine of the product it is accurate for small angles.
    """
    a, b = unit_vectors(a, axis), unit_vectors(b, axis)
    apart, together = (np.linalg.norm(both, axis=axis) for both in (a - b, a + b))
    angles: Floats = np.degrees(2 * np.arctan2(apart, together))
    return angles


def unit_vectors(vectors: Floats, axis: int) -> Floats:
    """Return vectors along `axis` divided by their length."""
    length = np.linalg.norm(vectors, axis=axis, keepdims=True)
    unit: Floats = vectors / np.maximum(length, 1e-12)
    return unit


def collect(
    labels: Mapping[str, NDArray[Any]],
    teachers: Mapping[str, Floats],
    confidence: Mapping[str, Floats],
    focal_px: float | None,
) -> dict[str, dict[str, Vector]]:
    """Return all evidence against each image's labels.

    Args:
        labels: by kind, as in `tools.data.samples.Samples`.
        teachers: predictions by kind, (teachers, n, ...), classes as probabilities.
        confidence: confidence of the generator by kind, 0..1, (n, h, w).
        focal_px: focal length in pixels; None: without geometry.

    Returns:
        Evidence by kind and measure, each (n,), at least 0, as far as available: `disagreement`
        with the teachers, `spread` among them, `geometry` of depth and normals, and `doubt`, i.e.
        1 - confidence. The doubt of a segmentation is averaged over the classes of the label, since
        a mean over pixels would be dominated by sky and road.
    """
    differences: Mapping[str, Callable[[Any, Floats], tuple[Vector, Vector]]] = {
        "segmentation": class_difference,
        "depth": depth_difference,
        "normals": normals_difference,
    }
    evidence_by_kind: dict[str, dict[str, Vector]] = {}
    for kind, values in labels.items():
        if kind not in teachers:
            continue
        disagreement, spread = differences[kind](values, teachers[kind])
        evidence_by_kind[kind] = {"disagreement": disagreement, "spread": spread}
    if focal_px is not None and {"depth", "normals"} <= labels.keys():
        angle = image_means(geometric_difference(labels["depth"], labels["normals"], focal_px))
        for kind in evidence_by_kind.keys() & {"depth", "normals"}:
            evidence_by_kind[kind]["geometry"] = angle
    for kind in evidence_by_kind.keys() & confidence.keys():
        doubt = 1 - confidence[kind]
        is_of_classes = kind == "segmentation"
        evidence_by_kind[kind]["doubt"] = (
            class_means(doubt, labels[kind]) if is_of_classes else image_means(doubt)
        )
    return evidence_by_kind


def image_means(evidence: Floats) -> Vector:
    """Return the mean over the known pixels of each image, (n,); 0 without known pixels."""
    valid = np.isfinite(evidence)
    total = np.where(valid, evidence, 0).sum((1, 2), dtype=np.float64)
    means: Vector = total / np.maximum(valid.sum((1, 2)), 1)
    return means


def class_means(evidence: Floats, ids: NDArray[np.uint8]) -> Vector:
    """Return the mean over the classes of each image of their mean over pixels, (n,).

    evidence, ids: (n, h, w); pixels of `VOID` are ignored; 0 without known pixels.
    """
    total, shown = np.zeros(len(ids)), np.zeros(len(ids))
    for number in np.unique(ids[ids != VOID]):
        of_class = ids == number
        n_pixels = of_class.sum((1, 2))
        total += np.where(of_class, evidence, 0).sum((1, 2), dtype=np.float64) / np.maximum(
            n_pixels, 1
        )
        shown += n_pixels > 0
    return total / np.maximum(shown, 1)


def normal_evidence(measures: Mapping[str, Vector]) -> dict[str, float]:
    """Fit the normal level of evidence to real labels of one kind; see `excess`.

    Returns:
        `disagreement` and `per_spread`: offset and slope of the least-squares line of log
        disagreement over log spread, the slope multiplied by `_NORMAL_SHARE`; `geometry`: mean log
        angle between depth and normals.
    """
    disagreement, spread = (np.log(measures[name] + _LEAST) for name in ("disagreement", "spread"))
    variance = float(((spread - spread.mean()) ** 2).mean())
    covariance = float(((spread - spread.mean()) * disagreement).mean())
    slope = _NORMAL_SHARE * covariance / variance if variance > 1e-9 else 0.0
    normal = {"disagreement": float(disagreement.mean() - slope * spread.mean())}
    normal["per_spread"] = slope
    if "geometry" in measures:
        normal["geometry"] = float(np.log(measures["geometry"] + _LEAST).mean())
    return normal


def excess(measures: Mapping[str, Vector], normal: Mapping[str, float]) -> dict[str, Vector]:
    """Return the excess of evidence over its normal level, above 0, by measure, each (n,).

    The excess is the softplus of the log ratio of both. Where teachers disagree among themselves,
    part of their disagreement with the label is normal. A label that agrees better than real labels
    gains little, so that one measure cannot compensate for another.
    """
    expected = normal["disagreement"] + normal["per_spread"] * np.log(measures["spread"] + _LEAST)
    log_ratios = {"disagreement": np.log(measures["disagreement"] + _LEAST) - expected}
    if "geometry" in normal:
        log_ratios["geometry"] = np.log(measures["geometry"] + _LEAST) - normal["geometry"]
    return {name: np.logaddexp(0, values) for name, values in log_ratios.items()}


def fit_scores(evidence: Vector, scores: Vector) -> Vector:
    """Return the coefficients, (m + 1,), that predict scores from evidence; see `expected_scores`.

    evidence: (n, m); scores: scores of the same labels against the ground truth, 0..1, (n,).
    """
    return logistic_regression(evidence, scores, np.full(evidence.shape[1] + 1, _RIDGE))


def expected_scores(
    evidence: Vector, coefficients: Vector, against: Vector | float = 0.0
) -> Vector:
    """Return the expected scores of labels, 0..1, (n,).

    Args:
        evidence: (n, m).
        coefficients: result of `fit_scores`, (m + 1,).
        against: subtracted from the log odds, for evidence without fitted coefficients, (n,).
    """
    design = np.column_stack([np.ones(len(evidence)), evidence])
    return logistic(design @ coefficients - against)


def _no_overlap(classes: NDArray[np.bool_], p: Floats) -> Vector:
    """Return 1 - the mean soft IoU of one-hot classes and probabilities, (n, k, h, w), as (n,)."""
    of_classes, of_p = classes.sum((2, 3)), p.sum((2, 3))
    both = (p * classes).sum((2, 3))
    shown = (of_classes > 0) | (of_p > _SHOWN_SHARE * of_p.sum(1, keepdims=True))
    ious = both / np.maximum(of_classes + of_p - both, 1e-9)
    missed: Vector = 1 - (ious * shown).sum(1) / np.maximum(shown.sum(1), 1)
    return missed


def _smaller_difference(values: Floats, axis: int) -> Floats:
    """Return the difference to the neighbour, before or after each pixel, that is smaller."""
    step = np.diff(values, axis=axis)
    pad = [(0, 0)] * values.ndim
    pad[axis] = (0, 1)
    after = np.pad(step, pad, constant_values=np.nan)
    pad[axis] = (1, 0)
    before = np.pad(step, pad, constant_values=np.nan)
    take_after = np.isnan(before) | (np.abs(after) < np.abs(before))
    return np.where(take_after, after, before)
