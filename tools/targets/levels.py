"""Attributes measured on any photograph, and discretisation of numbers into three levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

Bounds = tuple[float, float]

LEVELS = {
    "brightness": ("dark", "medium", "bright"),
    "contrast": ("low", "medium", "high"),
    "colour": ("pale", "medium", "vivid"),
}
# Minimum share of photographs at each level; below it the attribute is uninformative.
_MIN_SHARE = 0.1
_LUMINANCE = np.array([0.299, 0.587, 0.114])


def measure_figures(image: NDArray[np.uint8]) -> dict[str, float]:
    """Measure a photograph; mirroring does not change the results.

    Args:
        image: (1 or 3, h, w), 0..255.

    Returns:
        Values in 0..1. brightness: mean luminance; contrast: its standard deviation; colour: mean
        difference between the largest and the smallest channel, of RGB only.
    """
    x = image.astype(np.float64) / 255
    light = x[0] if len(x) == 1 else np.tensordot(_LUMINANCE, x, 1)
    figures = {"brightness": light.mean(), "contrast": light.std()}
    if len(x) == 3:
        figures["colour"] = (x.max(0) - x.min(0)).mean()
    # Rounded, since the order of summation changes the last bits.
    return {name: round(float(value), 6) for name, value in figures.items()}


def measure_levels(image: NDArray[np.uint8], bounds: Mapping[str, Bounds]) -> dict[str, str]:
    """Return the levels of a photograph for attributes with bounds."""
    figures = measure_figures(image)
    return {
        name: level(figures[name], limits, LEVELS[name])
        for name, limits in bounds.items()
        if name in figures
    }


def bounds_of(values: Sequence[float]) -> Bounds | None:
    """Return the terciles of values, None if a third would be too small."""
    if not len(values):
        return None
    low, high = (float(q) for q in np.quantile(values, [1 / 3, 2 / 3]))
    thirds = np.digitize(values, [low, high])
    shares = np.bincount(thirds, minlength=3) / len(values)
    return (low, high) if shares.min() >= _MIN_SHARE else None


def level(value: float, bounds: Bounds, names: Sequence[str]) -> str:
    """Return the name of the level that a value belongs to."""
    return names[0] if value < bounds[0] else names[1] if value < bounds[1] else names[2]
