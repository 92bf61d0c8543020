"""Metrics of dense predictions: segmentation, depth, normals; with 95% intervals over images.

Sufficient statistics of each image are computed first (`confusions`, `depth_sums`, `angle_counts`).
The figures pool the pixels of all images; their intervals resample whole images, because the pixels
of one image are not independent (percentile bootstrap, Efron 1979, with the expanded quantiles of
Hesterberg 2015; always the same 500 resamples). Below 20 images the coverage of a bootstrap is too
low (63% for the mIoU of 10 images): the interval of a bounded figure is then its whole range.
Without a known pixel the figures raise DataError. Slices and failures are computed from the scores
of images, 0..1, higher is better; the score of an image without a known pixel is NaN.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from eval.intervals import expanded_bound, expanded_quantiles, resample_counts
from memory.errors import DataError
from memory.records import Estimate

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]

VOID = 255
DELTA = 1.25
WITHIN_DEG = 11.25

_N_RESAMPLES = 500
# Fewest images for a bootstrap interval.
MIN_IMAGES = 20
_BINS_PER_DEG = 20


def confusions(truth: NDArray[np.uint8], predictions: NDArray[np.uint8], n_classes: int) -> Counts:
    """Count the known pixels of each image by true and predicted class.

    Args:
        truth: class ids below `n_classes`, (n, h, w); pixels of VOID are ignored.
        predictions: class ids, (n, h, w).
        n_classes: number of classes.

    Returns:
        Numbers of pixels, (n, true, predicted).

    Raises:
        DataError: an id is not below `n_classes`, or predictions are not finite.
    """
    _check_finite(predictions)
    valid = truth != VOID
    highest = max(truth[valid].max(initial=0), predictions[valid].max(initial=0))
    if highest >= n_classes:
        raise DataError(f"Class id {highest} in labels of {n_classes} classes, whose ids are less.")
    image = np.arange(len(truth))[:, None, None]
    cells = (image * n_classes + truth) * n_classes + predictions
    counts = np.bincount(cells[valid], minlength=len(truth) * n_classes**2)
    return counts.reshape(len(truth), n_classes, n_classes)


def class_ious(confusion: NDArray[Any]) -> Floats:
    """Return the intersection over union of each class.

    Args:
        confusion: numbers of pixels, (..., true, predicted).

    Returns:
        (..., n_classes), NaN for classes without a true pixel.
    """
    right = np.diagonal(confusion, axis1=-2, axis2=-1)
    true, predicted = confusion.sum(-1), confusion.sum(-2)
    return np.where(true > 0, right / np.maximum(true + predicted - right, 1), np.nan)


def segmentation_scores(confusion: Counts) -> Floats:
    """Return the mean IoU of each image over the classes of its ground truth, (n,)."""
    return _mean_known(class_ious(confusion))


def segmentation_metrics(confusion: Counts, class_names: Sequence[str]) -> dict[str, Estimate]:
    """Return miou, pixel_accuracy, worst_class and "iou NAME" of every class that occurs.

    The IoU is computed over all pixels of the split together; classes without a true pixel are
    ignored. worst_class is the IoU of the lowest class; since it is selected, its interval is
    simultaneous over all classes (Bonferroni). n of a class counts the images that show it.
    """
    n_classes = len(class_names)
    n_showing = (confusion.sum(2) > 0).sum(0)
    sums = confusion.reshape(len(confusion), n_classes**2)

    def ious(pooled: Floats) -> Floats:
        return class_ious(pooled.reshape(*pooled.shape[:-1], n_classes, n_classes))

    def accuracy(pooled: Floats) -> Floats:
        right: Floats = pooled[..., :: n_classes + 1].sum(-1) / pooled.sum(-1)
        return right

    metrics = {
        "miou": _bootstrap(sums, lambda pooled: _mean_known(ious(pooled))),
        "pixel_accuracy": _bootstrap(sums, accuracy),
    }
    shown = np.flatnonzero(n_showing)
    values, resampled = _resample(sums, lambda pooled: ious(pooled)[..., shown])
    estimates = [
        _interval(float(value), of_class, int(n))
        for value, of_class, n in zip(values, resampled.T, n_showing[shown], strict=True)
    ]
    lowest = int(values.argmin())
    worst = _interval(
        float(values[lowest]), resampled[:, lowest], estimates[lowest].n, n_figures=len(shown)
    )
    names = (f"iou {class_names[int(k)]}" for k in shown)
    return metrics | {"worst_class": worst} | dict(zip(names, estimates, strict=True))


def depth_sums(truth: NDArray[np.float32], predictions: NDArray[np.float32]) -> Floats:
    """Sum the depth errors of each image.

    Args:
        truth: metres, (n, h, w); values that are not finite and above 0 are unknown.
        predictions: metres, (n, h, w).

    Returns:
        (n, 4): known pixels, pixels within a factor of `DELTA`, sum of |predicted - true| / true,
        and sum of squared errors in square metres.

    Raises:
        DataError: predictions are not finite.
    """
    _check_finite(predictions)
    valid = np.isfinite(truth) & (truth > 0)
    true = np.where(valid, truth, 1).astype(np.float64)
    predicted = np.where(valid, predictions, 1).astype(np.float64)
    error = np.abs(predicted - true)
    within = (predicted < DELTA * true) & (true < DELTA * predicted) & valid
    return np.stack([part.sum((1, 2)) for part in (valid, within, error / true, error**2)], axis=1)


def depth_scores(sums: Floats) -> Floats:
    """Return the delta1 of each image, (n,)."""
    return _ratio(sums[:, 1], sums[:, 0])


def depth_metrics(sums: Floats) -> dict[str, Estimate]:
    """Return delta1 (share within a factor of 1.25), abs_rel and rmse_m (Eigen et al. 2014)."""
    return {
        "delta1": _bootstrap(sums, lambda pooled: pooled[..., 1] / pooled[..., 0]),
        "abs_rel": _bootstrap(sums, lambda pooled: pooled[..., 2] / pooled[..., 0], None),
        "rmse_m": _bootstrap(sums, lambda pooled: np.sqrt(pooled[..., 3] / pooled[..., 0]), None),
    }


def angle_counts(truth: NDArray[np.float32], predictions: NDArray[np.float32]) -> Floats:
    """Count the pixels of each image by their angular error, in bins of 0.05 degrees.

    Args:
        truth: normals, (n, 3, h, w); vectors that are not finite are unknown.
        predictions: normals, (n, 3, h, w).

    Returns:
        (n, 3601): the bins, and the sum of the angles in degrees as the last column.

    Raises:
        DataError: predictions are not finite.
    """
    _check_finite(predictions)
    n_bins = 180 * _BINS_PER_DEG
    counts = np.zeros((len(truth), n_bins + 1))
    for row, true, predicted in zip(counts, truth, predictions, strict=True):
        valid = np.isfinite(true).all(0)
        a, b = true[:, valid].astype(np.float64), predicted[:, valid].astype(np.float64)
        # Unlike the arc cosine this is exact for small angles.
        sine, cosine = np.linalg.norm(np.cross(a, b, axis=0), axis=0), (a * b).sum(0)
        angle_deg = np.degrees(np.arctan2(sine, cosine))
        bins = np.minimum((angle_deg * _BINS_PER_DEG).astype(np.int64), n_bins - 1)
        row[:-1] = np.bincount(bins, minlength=n_bins)
        row[-1] = angle_deg.sum()
    return counts


def normals_scores(counts: Floats) -> Floats:
    """Return the share of pixels within 11.25 degrees of each image, (n,)."""
    return _ratio(_within(counts), counts[:, :-1].sum(1))


def normals_metrics(counts: Floats) -> dict[str, Estimate]:
    """Return within_11 (share below 11.25 degrees), mean_deg and median_deg (Fouhey et al. 2013).

    The median is exact to 0.05 degrees, the width of the bins.
    """

    def median(pooled: Floats) -> Floats:
        cumulated = pooled[..., :-1].cumsum(-1)
        below: Floats = (cumulated < cumulated[..., -1:] / 2).sum(-1) / _BINS_PER_DEG
        return below

    def mean(pooled: Floats) -> Floats:
        result: Floats = pooled[..., -1] / pooled[..., :-1].sum(-1)
        return result

    return {
        "within_11": _bootstrap(counts, lambda p: _within(p) / p[..., :-1].sum(-1)),
        "mean_deg": _bootstrap(counts, mean, 180.0),
        "median_deg": _bootstrap(counts, median, 180.0),
    }


def _bootstrap(
    sums: NDArray[Any], figure: Callable[[Floats], Floats], highest: float | None = 1.0
) -> Estimate:
    """Return a figure of the pooled sums with its interval; see `_resample` and `_interval`."""
    value, resampled = _resample(sums, figure)
    return _interval(float(value), resampled, int(sums.any(1).sum()), highest)


def _interval(
    value: float, resampled: Floats, n: int, highest: float | None = 1.0, n_figures: int = 1
) -> Estimate:
    """Return a figure with its interval.

    Args:
        value: figure of all images.
        resampled: figure of each resample, (_N_RESAMPLES,); NaN where it is undefined.
        n: number of images; below MIN_IMAGES the interval is 0..highest.
        highest: upper bound of the figure; None: unbounded, always bootstrapped.
        n_figures: number of figures that this one was selected from by its value.
    """
    if n < MIN_IMAGES and highest is not None:
        return Estimate(value=value, low=0.0, high=max(value, highest), n=n)
    if n_figures == 1:
        low, high = (float(end) for end in np.nanquantile(resampled, expanded_quantiles(n)))
    else:
        # Quantiles this far in the tails cannot be read from the resamples.
        half = expanded_bound(n, n_figures) * float(np.nanstd(resampled))
        low, high = max(0.0, value - half), min(highest or math.inf, value + half)
    return Estimate(value=value, low=min(value, low), high=max(value, high), n=n)


def _resample(sums: NDArray[Any], figure: Callable[[Floats], Floats]) -> tuple[Floats, Floats]:
    """Return a figure of all images, and of each resample of the images.

    sums: statistics of each image, (n, m), zeros for an image without a known pixel; figure:
    computed from pooled sums, (..., m) to (..., figures).
    """
    measured = sums[sums.any(1)].astype(np.float64)
    if len(measured) == 0:
        raise DataError("No image of the split has a known pixel, so there is nothing to measure.")
    value = figure(measured.sum(0))
    # The figure of a class is NaN in resamples that do not show the class.
    return value, figure(resample_counts(len(measured), _N_RESAMPLES) @ measured)


def _mean_known(values: Floats) -> Floats:
    valid = ~np.isnan(values)
    return _ratio(np.where(valid, values, 0).sum(-1), valid.sum(-1))


def _ratio(part: NDArray[Any], whole: NDArray[Any]) -> Floats:
    """Return part / whole, NaN where the whole is 0."""
    return np.where(whole > 0, part / np.maximum(whole, 1), np.nan)


def _within(counts: Floats) -> Floats:
    inside: Floats = counts[..., : int(WITHIN_DEG * _BINS_PER_DEG)].sum(-1)
    return inside


def _check_finite(predictions: NDArray[Any]) -> None:
    if not np.isfinite(predictions).all():
        raise DataError(
            "The model's predictions are not all finite: its training has diverged. Train again "
            "with a lower learning rate."
        )
