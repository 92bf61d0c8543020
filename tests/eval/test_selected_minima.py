"""Intervals of figures that were chosen since they are the lowest, by simulation."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from eval import dense
from eval.slices import slice_report

Floats = NDArray[np.float64]


def right(rng: np.random.Generator, chances: Floats) -> NDArray[np.bool_]:
    return rng.random(len(chances)) < chances


def skewed(rng: np.random.Generator, chances: Floats) -> Floats:
    return rng.beta(4 * chances, 4 * (1 - chances))


@pytest.mark.parametrize("draw", [right, skewed])
def test_the_worst_slice_is_covered(
    draw: Callable[[np.random.Generator, Floats], NDArray[np.generic]],
) -> None:
    """Twenty slices of 30 photographs that are all equal; the lowest one is reported."""
    rng = np.random.default_rng(0)
    attributes = [{"a": f"v{i % 20:02d}"} for i in range(600)]
    covered, unselected = [], []
    for _ in range(120):
        scores = draw(rng, np.full(600, 0.8))
        report = slice_report({}, scores, attributes, [("a",)], 10, 1, "feedback")
        found = report.metrics["worst_slice"]
        alone = next(s.accuracy for s in report.slices if s.key == report.worst_slice)
        assert found.value == alone.value and found.low < alone.low
        covered.append(found.low <= 0.8 <= found.high)
        unselected.append(alone.low <= 0.8 <= alone.high)
    assert np.mean(covered) >= 0.92
    assert np.mean(unselected) < 0.85


def confusion(rng: np.random.Generator, n: int) -> NDArray[np.int64]:
    """Images of six classes that are equally hard, three of them rare."""
    counts = np.zeros((n, 6, 6), np.int64)
    shows = rng.random((n, 6)) < [1, 1, 1, 0.5, 0.5, 0.5]
    for k in range(6):
        size = rng.integers(20, 400, n) * shows[:, k]
        hit = (size * rng.beta(4, 1, n)).astype(np.int64)
        counts[:, k, k] = hit
        counts[:, k, (k + 1) % 3] += size - hit
    return counts


@pytest.mark.parametrize("n", [20, 40])
def test_figures_of_few_images_are_covered(n: int) -> None:
    rng = np.random.default_rng(1)
    names = [f"c{k}" for k in range(6)]
    true = dense.class_ious(confusion(rng, 50_000).sum(0))
    miou, lowest = [], []
    for _ in range(120):
        found = dense.segmentation_metrics(confusion(rng, n), names)
        miou.append(found["miou"].low <= true.mean() <= found["miou"].high)
        worst = found["worst_class"]
        chosen = min((m for m in found if m.startswith("iou")), key=lambda m: found[m].value)
        lowest.append(worst.low <= true[names.index(chosen.removeprefix("iou "))] <= worst.high)
    assert np.mean(miou) >= 0.9
    assert np.mean(lowest) >= 0.92


def test_fewer_than_twenty_images_have_no_interval() -> None:
    rng = np.random.default_rng(2)
    found = dense.segmentation_metrics(confusion(rng, 19), [f"c{k}" for k in range(6)])
    for figure in found.values():
        assert (figure.low, figure.high) == (0.0, 1.0)
        assert 0 < figure.value < 1
