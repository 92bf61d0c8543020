"""Attributes that can be measured on any photograph, and numbers as levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

NAMES = {
    "brightness": ("dark", "medium", "bright"),
    "contrast": ("low", "medium", "high"),
    "colour": ("pale", "medium", "vivid"),
}
NUMBERS = ("low", "medium", "high")
Bounds = tuple[float, float]

# The least share of photographs at each level; with fewer the attribute says nothing.
_LEAST = 0.1
_LUMINANCE = np.array([0.299, 0.587, 0.114])


def figures(image: NDArray[np.uint8]) -> dict[str, float]:
    """Measure a photograph, uint8, (1 or 3, h, w), in units of 0..1.

    brightness: mean luminance; contrast: its standard deviation; colour: mean distance of the
    largest from the smallest channel, of RGB only. A mirrored photograph has the same figures.
    """
    x = image.astype(np.float64) / 255
    light = x[0] if len(x) == 1 else np.tensordot(_LUMINANCE, x, 1)
    found = {"brightness": light.mean(), "contrast": light.std()}
    if len(x) == 3:
        found["colour"] = (x.max(0) - x.min(0)).mean()
    # Rounded, since sums in another order differ in their last bits.
    return {name: round(float(value), 6) for name, value in found.items()}


def bounds_of(values: Sequence[float]) -> Bounds | None:
    """Return what parts values into thirds, None where they do not part well."""
    if not len(values):
        return None
    low, high = (float(q) for q in np.quantile(values, [1 / 3, 2 / 3]))
    levels = np.digitize(values, [low, high])
    shares = np.bincount(levels, minlength=3) / len(values)
    return (low, high) if shares.min() >= _LEAST else None


def level(value: float, bounds: Bounds, names: Sequence[str]) -> str:
    """Name the third in which a value lies."""
    return names[0] if value < bounds[0] else names[1] if value < bounds[1] else names[2]


def measured(image: NDArray[np.uint8], bounds: Mapping[str, Bounds]) -> dict[str, str]:
    """Name the levels of a photograph for the attributes that have bounds."""
    found = figures(image)
    return {
        name: level(found[name], limits, NAMES[name])
        for name, limits in bounds.items()
        if name in found
    }
