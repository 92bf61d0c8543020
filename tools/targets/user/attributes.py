"""Attributes of a user's photographs: from columns of a table, from masks, and measured.

Each `add_*` function adds to `attributes`, a dictionary per photograph, and returns the values of
each new attribute in order. Bounds between values are computed from the photographs of the split
generator alone, which `in_generator` selects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prompts.user_vocabulary import first_alike, is_blank, key_of, value_of
from tools.targets.levels import LEVELS, Bounds, bounds_of, level, measure_figures
from tools.targets.user.loading import Loaded
from tools.targets.validation import ValidationReport

_NUMBER_LEVELS = ("low", "medium", "high")
_MAX_VALUES = 20
# Columns with more distinct numbers are discretised as low, medium and high.
_MAX_NUMBERS = 8
_MAX_PRESENCES = 4
_MIN_PRESENCE = 0.1
_PRESENCE = ("none", "some", "much")


def add_columns(
    loaded: Sequence[Loaded],
    attributes: Sequence[dict[str, str]],
    in_generator: Sequence[bool],
    report: ValidationReport,
) -> dict[str, list[str]]:
    """Add the columns of the owner's table; unusable ones are reported."""
    values: dict[str, list[str]] = {}
    classes = [value_of(entry.item.class_name or "") for entry in loaded]
    for column in dict.fromkeys(column for entry in loaded for column in entry.item.attributes):
        key = key_of(column)
        if not key or key == "class" or key in values:
            report.warn("column-name", column)
            continue
        texts = [entry.item.attributes.get(column, "").strip() for entry in loaded]
        texts = ["" if is_blank(text) else text for text in texts]
        numbers = _numbers(texts)
        if numbers is None:
            if alike := first_alike(text for text in texts if text):
                report.warn("column-alike", f"{column}, {' and '.join(alike)}")
                continue
            words = [value_of(text) for text in texts]
            different = sorted(set(words) - {""})
            if different and all(
                word in ("", name) for word, name in zip(words, classes, strict=True)
            ):
                report.warn("column-class", column)
                continue
            if not 1 < len(different) <= _MAX_VALUES:
                report.warn("column-values", f"{column}, {len(different)}", maximum=_MAX_VALUES)
                continue
        elif _is_numbering(numbers):
            report.warn("column-numbering", column)
            continue
        else:
            bounds = bounds_of(
                [n for n, used in zip(numbers, in_generator, strict=True) if used and n is not None]
            )
            if bounds is None:
                report.warn("column-thirds", column)
                continue
            words = ["" if n is None else level(n, bounds, _NUMBER_LEVELS) for n in numbers]
            different = list(_NUMBER_LEVELS)
        values[key] = [value for value in different if value in words]
        for photo, word in zip(attributes, words, strict=True):
            if word:
                photo[key] = word
    return values


def _numbers(texts: Sequence[str]) -> list[float | None] | None:
    """Return a column as numbers if it has many distinct or negative numbers, else None."""
    try:
        numbers = [float(text) if text else None for text in texts]
    except ValueError:
        return None
    different = {n for n in numbers if n is not None}
    if not all(np.isfinite(n) for n in different):
        return None
    return numbers if len(different) > _MAX_NUMBERS or any(n < 0 for n in different) else None


def _is_numbering(numbers: Sequence[float | None]) -> bool:
    """Return whether numbers are consecutive integers, one per photograph."""
    known = sorted(n for n in numbers if n is not None)
    return len(known) == len(numbers) and known == [known[0] + i for i in range(len(known))]


def add_presences(
    arrays: Mapping[str, NDArray[Any]],
    pixel_names: Sequence[str],
    attributes: Sequence[dict[str, str]],
    taken: Mapping[str, object],
    in_generator: Sequence[bool],
) -> dict[str, list[str]]:
    """Add the amounts of a few pixel classes whose presence divides the photographs best.

    Args:
        arrays: "segmentation", (n, h, w), if there are masks.
        pixel_names: Names of the pixel classes.
        attributes: See the module.
        taken: Existing attributes.
        in_generator: See the module.
    """
    if "segmentation" not in arrays:
        return {}
    selected = np.array(in_generator)
    rated = []
    for index, title in enumerate(pixel_names):
        key = key_of(title)
        share = (arrays["segmentation"] == index).mean((1, 2))
        present = share > 0
        frequency = float(present[selected].mean())
        if key and key not in taken and _MIN_PRESENCE <= frequency <= 1 - _MIN_PRESENCE:
            usual = float(np.median(share[selected & present]))
            words = [_PRESENCE[0 if s == 0 else 1 if s < usual else 2] for s in share]
            rated.append((abs(frequency - 0.5), key, words))
    values = {}
    for _, key, words in sorted(rated)[:_MAX_PRESENCES]:
        values[key] = [value for value in _PRESENCE if value in words]
        for photo, word in zip(attributes, words, strict=True):
            photo[key] = word
    return values


def add_measured(
    images: NDArray[np.uint8],
    attributes: Sequence[dict[str, str]],
    values: dict[str, list[str]],
    in_generator: Sequence[bool],
) -> dict[str, Bounds]:
    """Add brightness, contrast and colour, unless the owner has such an attribute.

    Args:
        images: (n, 1 or 3, h, w).
        attributes: See the module.
        values: Values by attribute; the measured attributes are added.
        in_generator: See the module.

    Returns:
        The bounds between the values by attribute.
    """
    figures = [measure_figures(image) for image in images]
    bounds = {}
    for name in figures[0]:
        limits = bounds_of([f[name] for f, used in zip(figures, in_generator, strict=True) if used])
        if limits and name not in values:
            bounds[name] = limits
            values[name] = list(LEVELS[name])
            for photo, figure in zip(attributes, figures, strict=True):
                photo[name] = level(figure[name], limits, LEVELS[name])
    return bounds
