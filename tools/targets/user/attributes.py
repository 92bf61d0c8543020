"""Attributes of a user's own photographs: as the owner says them, and as measured.

Each function adds to `attributes`, a mapping for every photograph. `in_generator` tells which of
them are in the split generator: bounds come of these alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from prompts.own_words import key_of, value_of
from tools.targets.user import levels
from tools.targets.user.loading import Loaded
from tools.targets.user.problems import Problems

_MOST_VALUES = 20
# A column of more different numbers than this is read as low, medium and high.
_FEW_NUMBERS = 8
_MOST_PRESENCES = 4
_LEAST_PRESENCE = 0.1
_PRESENCE = ("none", "some", "much")
_BLANKS = ("na", "n/a", "#n/a", "nan", "null", "unknown", "-", "?")


def add_said(
    loaded: Sequence[Loaded],
    attributes: Sequence[dict[str, str]],
    in_generator: Sequence[bool],
    found: Problems,
) -> dict[str, list[str]]:
    """Add what owners say of their photographs; return the values by attribute."""
    values: dict[str, list[str]] = {}
    columns = dict.fromkeys(column for entry in loaded for column in entry.item.attributes)
    for column in columns:
        key = key_of(column)
        said = [_known(entry.item.attributes.get(column, "")) for entry in loaded]
        if not key or key == "class" or key in values:
            found.note("columns left out, since their name cannot be used", column)
            continue
        numbers = _numbers(said)
        if numbers is not None and _is_numbering(numbers):
            found.note("columns left out, since they number the photographs", column)
            continue
        if numbers is not None:
            known = [n for n, own in zip(numbers, in_generator, strict=True) if own]
            bounds = levels.bounds_of([n for n in known if n is not None])
            if bounds is None:
                found.note(
                    "columns of numbers left out, since they do not part into thirds", column
                )
                continue
            words = ["" if n is None else levels.level(n, bounds, levels.NUMBERS) for n in numbers]
            different = list(levels.NUMBERS)
        else:
            words = [value_of(text) for text in said]
            different = sorted(set(words) - {""})
            if different and all(
                word in ("", value_of(entry.item.class_name or ""))
                for word, entry in zip(words, loaded, strict=True)
            ):
                found.note("columns left out, since they repeat the class", column)
                continue
            if not 1 < len(different) <= _MOST_VALUES:
                found.note(
                    f"columns left out, since an attribute has 2 to {_MOST_VALUES} values",
                    f"{column}, {len(different)}",
                )
                continue
        values[key] = [value for value in different if value in words]
        for known_of, word in zip(attributes, words, strict=True):
            if word:
                known_of[key] = word
    return values


def _known(text: str) -> str:
    """Return what a cell says, "" where it says that nothing is known."""
    return "" if text.strip().lower() in _BLANKS else text.strip()


def _numbers(said: Sequence[str]) -> list[float | None] | None:
    """Return a column as numbers if it has many different ones, or negative ones."""
    try:
        numbers = [float(text) if text else None for text in said]
    except ValueError:
        return None
    known = {n for n in numbers if n is not None}
    if not all(np.isfinite(n) for n in known):
        return None
    return numbers if len(known) > _FEW_NUMBERS or any(n < 0 for n in known) else None


def _is_numbering(numbers: Sequence[float | None]) -> bool:
    """Tell whether each photograph has a whole number of its own, without a gap."""
    known = sorted(n for n in numbers if n is not None)
    return len(known) == len(numbers) and known == [known[0] + i for i in range(len(known))]


def add_presences(
    arrays: Mapping[str, NDArray[Any]],
    pixel_names: Sequence[str],
    attributes: Sequence[dict[str, str]],
    taken: Mapping[str, object],
    in_generator: Sequence[bool],
) -> dict[str, list[str]]:
    """Add how much there is of the few classes whose presence tells photographs apart best.

    taken: names that other attributes have. Returns the values by attribute.
    """
    if "segmentation" not in arrays:
        return {}
    own = np.array(in_generator)
    rated = []
    for place, title in enumerate(pixel_names):
        key = key_of(title)
        share = (arrays["segmentation"] == place).mean((1, 2))
        there = share > 0
        part = float(there[own].mean())
        if key and key not in taken and _LEAST_PRESENCE <= part <= 1 - _LEAST_PRESENCE:
            usual = float(np.median(share[own & there]))
            words = [_PRESENCE[0 if s == 0 else 1 if s < usual else 2] for s in share]
            rated.append((abs(part - 0.5), key, words))
    values = {}
    for _, key, words in sorted(rated)[:_MOST_PRESENCES]:
        values[key] = [value for value in _PRESENCE if value in words]
        for known, word in zip(attributes, words, strict=True):
            known[key] = word
    return values


def add_measured(
    images: NDArray[np.uint8],
    attributes: Sequence[dict[str, str]],
    values: dict[str, list[str]],
    in_generator: Sequence[bool],
) -> dict[str, levels.Bounds]:
    """Add brightness, contrast and colour where the owner has no such attribute; return bounds.

    images: (n, 1 or 3, h, w); values: those of each attribute, to which these are added, too.
    """
    figures = [levels.figures(image) for image in images]
    bounds = {}
    for name in figures[0]:
        own = [f[name] for f, mine in zip(figures, in_generator, strict=True) if mine]
        limits = levels.bounds_of(own)
        if limits and name not in values:
            bounds[name] = limits
            values[name] = list(levels.NAMES[name])
            for known, figure in zip(attributes, figures, strict=True):
                known[name] = levels.level(figure[name], limits, levels.NAMES[name])
    return bounds
