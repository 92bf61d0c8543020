"""Regions of COCO as pixels: outlines of corners, and run lengths, plain or as text.

Not by pycocotools: from run lengths that do not fill the image it returns memory never written.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def region(segmentation: Any, width: int, height: int) -> NDArray[np.bool_]:
    """Return where an object is, (height, width).

    segmentation: a list of outlines [x, y, x, y, ...] in pixels, or {"size": [h, w], "counts": run
    lengths, column by column, zeros first}, these as numbers or as the text of pycocotools. Raises
    ValueError, TypeError or KeyError for anything else.
    """
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        lengths = _lengths(counts) if isinstance(counts, str) else counts
        flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
        return flat.reshape(width, height).T
    covered = np.zeros((height, width), bool)
    for outline in segmentation:
        covered |= _inside(np.asarray(outline, float).reshape(-1, 2), width, height)
    return covered


def _inside(corners: NDArray[np.float64], width: int, height: int) -> NDArray[np.bool_]:
    """Return the pixels whose centre lies within an outline, by the even-odd rule."""
    crossed = np.zeros((height, width + 1), np.int32)
    for (x, y), (next_x, next_y) in zip(corners, np.roll(corners, -1, 0), strict=True):
        if y != next_y:
            low, high = np.ceil(np.sort([y, next_y]) - 0.5).clip(0, height).astype(int)
            rows = np.arange(low, high)
            columns = x + (rows + 0.5 - y) * (next_x - x) / (next_y - y)
            crossed[rows, np.ceil(columns - 0.5).clip(0, width).astype(int)] += 1
    inside: NDArray[np.bool_] = crossed.cumsum(1)[:, :width] % 2 == 1
    return inside


def _lengths(text: str) -> Sequence[int]:
    """Read run lengths as `rleToString` of pycocotools' maskApi.c writes them.

    Each character holds 5 bits; from the fourth on, lengths are less the one before the last.
    """
    lengths: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        lengths.append(value + lengths[-2] if len(lengths) > 2 else value)
        value = shift = 0
    return lengths
