"""How good labels of pixels are that no truth is known of.

Evidence against a label comes from teachers, models that were trained on real labels (how far the
label is from what they say, and how far they are from one another), from geometry (normals must
agree with the depth's gradient) and from the generator's own confidence. All evidence is at least
0, higher is worse; pixels whose label is unknown do not count. `expected_scores` turns it into the
score that the labels should have against the truth, 0..1, in the sense of `eval.dense`.
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

# Focal lengths that `estimate_focal` tries, in widths of the image: from 127 down to 14 degrees.
_FOCALS = np.geomspace(0.25, 4, 81)
# Of the image, that teachers must give to a class to have seen it.
_SHOWN_SHARE = 0.005
_LEAST = 1e-3
_RIDGE = 1e-4
# Of the disagreement that goes with spread among teachers, the share that is held to be normal. Of
# real labels it is all; but where teachers are unsure, a generator's labels are worse, too.
_NORMAL_SHARE = 0.5


def class_difference(ids: NDArray[np.uint8], probabilities: Floats) -> tuple[Vector, Vector]:
    """Return how little classes overlap with what teachers see, 0..1, and what is normal for them.

    ids: (n, h, w); probabilities: (teachers, n, classes, h, w). The first is 1 - IoU of the label
    with the teachers' mean p, where a pixel counts by its p, averaged over the classes that the
    label or the teachers show: so objects that the label leaves out count, too. The second is the
    same for the teachers' own most probable classes. Each is (n,).
    """
    known = ids != VOID
    p = probabilities.mean(0) * known[:, None]
    numbers = np.arange(p.shape[1])[:, None, None]
    labelled = (ids[:, None] == numbers) & known[:, None]
    guessed = (p.argmax(1)[:, None] == numbers) & known[:, None]
    return _no_overlap(labelled, p), _no_overlap(guessed, p)


def depth_difference(depth_m: Floats, teachers_m: Floats) -> tuple[Vector, Vector]:
    """Return |log depth - mean log of the teachers|, and the teachers' mean distance from it.

    depth_m: (n, h, w), NaN where unknown; teachers_m: above 0, (teachers, n, h, w). Both are means
    over the known pixels of each image, (n,).
    """
    logs = np.log(teachers_m)
    middle = logs.mean(0)
    known = np.isfinite(depth_m) & (depth_m > 0)
    difference = np.abs(np.log(np.where(known, depth_m, 1)) - middle)
    spread = np.abs(logs - middle).mean(0)
    return (
        image_means(np.where(known, difference, np.nan)),
        image_means(np.where(known, spread, np.nan)),
    )


def normals_difference(normals: Floats, teachers: Floats) -> tuple[Vector, Vector]:
    """Return the angle to the mean of the teachers, and their mean angle to it, in degrees.

    normals: (n, 3, h, w), NaN where unknown; teachers: unit vectors, (teachers, n, 3, h, w). Both
    are means over the known pixels of each image, (n,).
    """
    middle = _unit(teachers.mean(0), axis=1)
    difference = angles_deg(normals, middle, axis=1)
    spread = angles_deg(teachers, middle[None], axis=2).mean(0)
    known = np.isfinite(difference)
    return image_means(difference), image_means(np.where(known, spread, np.nan))


def geometric_difference(depth_m: Floats, normals: Floats, focal_px: float) -> Floats:
    """Return the angle between each normal and the one that the depth implies, in degrees.

    depth_m: along the optical axis, (n, h, w); normals: (n, 3, h, w), facing the camera. See
    `normals_of_depth`.
    """
    return angles_deg(normals, normals_of_depth(depth_m, focal_px), axis=1)


def normals_of_depth(depth_m: Floats, focal_px: float) -> Floats:
    """Return the normals of the surface that depth describes, (n, 3, h, w), facing the camera.

    depth_m: along the optical axis of a pinhole camera whose principal point is the middle of the
    image, (n, h, w). On a plane n.X = c the inverse depth is w = n.(x, y, 1) / c at the ray
    (x, y, 1): affine in the pixel. So the normal is along -(w_x, w_y, w - x w_x - y w_y), exact
    for planes whatever the distance of the pixels. Of the differences to both sides the smaller
    one counts, so that edges of objects do not. NaN where depth is unknown all around.
    """
    known = np.isfinite(depth_m) & (depth_m > 0)
    inverse = np.where(known, 1 / np.where(known, depth_m, 1), np.nan)
    height, width = depth_m.shape[1:]
    x = (np.arange(width) + 0.5 - width / 2) / focal_px
    y = ((np.arange(height) + 0.5 - height / 2) / focal_px)[:, None]
    along_x = _smaller_difference(inverse, axis=2) * focal_px
    along_y = _smaller_difference(inverse, axis=1) * focal_px
    forward = inverse - x * along_x - y * along_y
    return _unit(-np.stack([along_x, along_y, forward], axis=1), axis=1)


def estimate_focal(depth_m: Floats, normals: Floats) -> float:
    """Return the focal length in pixels with which depth and normals agree best.

    The least mean angle over `_FOCALS` times the width of the image, steps of 3.5%.
    """
    width = depth_m.shape[2]
    errors = [
        float(np.nanmedian(geometric_difference(depth_m, normals, factor * width)))
        for factor in _FOCALS
    ]
    return float(_FOCALS[int(np.argmin(errors))] * width)


def angles_deg(a: Floats, b: Floats, axis: int) -> Floats:
    """Return the angle between vectors along `axis`, 0..180 degrees, NaN where one is not finite.

    Unlike the arc cosine of the product this is exact for small angles.
    """
    found: Floats = np.degrees(
        2
        * np.arctan2(
            np.linalg.norm(_unit(a, axis) - _unit(b, axis), axis=axis),
            np.linalg.norm(_unit(a, axis) + _unit(b, axis), axis=axis),
        )
    )
    return found


def collect(
    labels: Mapping[str, NDArray[Any]],
    teachers: Mapping[str, Floats],
    confidence: Mapping[str, Floats],
    focal_px: float | None,
) -> dict[str, dict[str, Vector]]:
    """Return all evidence against each image's labels, by kind and measure, each (n,), at least 0.

    labels: as in `tools.data.samples.Samples`; teachers: what (teachers, n, ...) say, classes as
    probabilities; confidence: 0..1, (n, h, w). Measures, as far as there is what they need:
    `disagreement` with the teachers, `spread` among them, `geometry` of depth and normals, `doubt`
    (1 - confidence, of classes the mean over those that the label shows: a mean over pixels tells
    of sky and road alone).
    """
    compare: Mapping[str, Callable[[Any, Floats], tuple[Vector, Vector]]] = {
        "segmentation": class_difference,
        "depth": depth_difference,
        "normals": normals_difference,
    }
    found: dict[str, dict[str, Vector]] = {}
    for kind, values in labels.items():
        if kind not in teachers:
            continue
        disagreement, spread = compare[kind](values, teachers[kind])
        found[kind] = {"disagreement": disagreement, "spread": spread}
    if focal_px is not None and {"depth", "normals"} <= labels.keys():
        angle = image_means(geometric_difference(labels["depth"], labels["normals"], focal_px))
        for kind in found.keys() & {"depth", "normals"}:
            found[kind]["geometry"] = angle
    for kind in found.keys() & confidence.keys():
        doubt = 1 - confidence[kind]
        is_of_classes = kind == "segmentation"
        found[kind]["doubt"] = (
            class_means(doubt, labels[kind]) if is_of_classes else image_means(doubt)
        )
    return found


def image_means(evidence: Floats) -> Vector:
    """Return the mean of each image's known pixels, (n,); 0 where nothing is known."""
    known = np.isfinite(evidence)
    total = np.where(known, evidence, 0).sum((1, 2), dtype=np.float64)
    means: Vector = total / np.maximum(known.sum((1, 2)), 1)
    return means


def class_means(evidence: Floats, ids: NDArray[np.uint8]) -> Vector:
    """Return the mean over the classes of each image of the mean of their pixels, (n,).

    evidence, ids: (n, h, w); pixels of `VOID` do not count; 0 where nothing is known.
    """
    total, shown = np.zeros(len(ids)), np.zeros(len(ids))
    for number in np.unique(ids[ids != VOID]):
        own = ids == number
        n_pixels = own.sum((1, 2))
        total += np.where(own, evidence, 0).sum((1, 2), dtype=np.float64) / np.maximum(n_pixels, 1)
        shown += n_pixels > 0
    means: Vector = total / np.maximum(shown, 1)
    return means


def normal_evidence(measures: Mapping[str, Vector]) -> dict[str, float]:
    """Return what is normal for real labels, of one kind, from their measures; see `excess`.

    `disagreement` and `per_spread`: the line of log disagreement over log spread, by least squares,
    its slope reduced to `_NORMAL_SHARE`; `geometry`: the mean of its logarithm.
    """
    disagreement, spread = (np.log(measures[name] + _LEAST) for name in ("disagreement", "spread"))
    variance = float(((spread - spread.mean()) ** 2).mean())
    covariance = float(((spread - spread.mean()) * disagreement).mean())
    slope = _NORMAL_SHARE * covariance / variance if variance > 1e-9 else 0.0
    found = {"disagreement": float(disagreement.mean() - slope * spread.mean())}
    found["per_spread"] = slope
    if "geometry" in measures:
        found["geometry"] = float(np.log(measures["geometry"] + _LEAST).mean())
    return found


def excess(measures: Mapping[str, Vector], normal: Mapping[str, float]) -> dict[str, Vector]:
    """Return by how much evidence is beyond what is normal, above 0, by measure, each (n,).

    Softplus of logarithms of ratios. Where teachers disagree among themselves, their disagreement
    with the label is normal in part; and a label that agrees better than real ones do gains little
    by it, so that one measure cannot make up for another.
    """
    expected = normal["disagreement"] + normal["per_spread"] * np.log(measures["spread"] + _LEAST)
    found = {"disagreement": np.log(measures["disagreement"] + _LEAST) - expected}
    if "geometry" in normal:
        found["geometry"] = np.log(measures["geometry"] + _LEAST) - normal["geometry"]
    return {name: np.logaddexp(0, values) for name, values in found.items()}


def fit_scores(evidence: Vector, scores: Vector) -> Vector:
    """Return the coefficients, (m + 1,), that predict scores from evidence; see `expected_scores`.

    evidence: (n, m); scores: of the same labels against the truth, 0..1, (n,).
    """
    return logistic_regression(evidence, scores, np.full(evidence.shape[1] + 1, _RIDGE))


def expected_scores(
    evidence: Vector, coefficients: Vector, against: Vector | float = 0.0
) -> Vector:
    """Return the expected scores of labels, 0..1, (n,), from evidence, (n, m).

    against: what is taken from the logarithm of the odds, for evidence that was not fitted, (n,).
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
    """Return each pixel's difference to the neighbour, before or after, that is more like it."""
    step = np.diff(values, axis=axis)
    pad = [(0, 0)] * values.ndim
    pad[axis] = (0, 1)
    after = np.pad(step, pad, constant_values=np.nan)
    pad[axis] = (1, 0)
    before = np.pad(step, pad, constant_values=np.nan)
    take_after = np.isnan(before) | (np.abs(after) < np.abs(before))
    return np.where(take_after, after, before)


def _unit(vectors: Floats, axis: int) -> Floats:
    length = np.linalg.norm(vectors, axis=axis, keepdims=True)
    unit: Floats = vectors / np.maximum(length, 1e-12)
    return unit
