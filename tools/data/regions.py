"""Conversion of COCO polygons and run lengths to masks, and of masks to run lengths.

pycocotools is not used: it returns uninitialized memory for run lengths that do not fill the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def draw_region(segmentation: Any, width: int, height: int) -> NDArray[np.bool_]:
    """Return the mask of an object, (height, width).

    Args:
        segmentation: A list of polygons [x, y, x, y, ...] in pixels, or {"counts": run lengths in
            column-major order, zeros first}, as numbers or in the compressed text format of
            pycocotools.
        width: Width of the image in pixels.
        height: Height of the image in pixels.

    Raises:
        ValueError: The segmentation is invalid; also TypeError or KeyError.
    """
    if isinstance(segmentation, dict):
        counts = segmentation["counts"]
        lengths = _run_lengths(counts) if isinstance(counts, str) else counts
        # Checked before the array is allocated.
        if min(lengths, default=0) < 0 or sum(lengths) != width * height:
            raise ValueError(f"run lengths that do not fill {width}x{height} pixels")
        flat = np.repeat(np.arange(len(lengths)) % 2 == 1, lengths)
        return flat.reshape(width, height).T
    covered = np.zeros((height, width), bool)
    for outline in segmentation:
        corners = np.asarray(outline, float).reshape(-1, 2)
        if not np.isfinite(corners).all():
            raise ValueError("a corner without a number")
        covered |= _inside(corners, width, height)
    return covered


def _inside(corners: NDArray[np.float64], width: int, height: int) -> NDArray[np.bool_]:
    """Return the mask of pixels whose centre lies inside a polygon, by the even-odd rule."""
    crossed = np.zeros((height, width + 1), np.uint8)
    for (x, y), (next_x, next_y) in zip(corners, np.roll(corners, -1, 0), strict=True):
        if y != next_y:
            low, high = np.ceil(np.sort([y, next_y]) - 0.5).clip(0, height).astype(int)
            rows = np.arange(low, high)
            columns = x + (rows + 0.5 - y) * (next_x - x) / (next_y - y)
            crossed[rows, np.ceil(columns - 0.5).clip(0, width).astype(int)] += 1
    # The count may overflow at 256, which preserves its parity.
    inside: NDArray[np.bool_] = crossed.cumsum(1, dtype=np.uint8)[:, :width] % 2 == 1
    return inside


def _run_lengths(text: str) -> Sequence[int]:
    """Decode compressed run lengths, see `rleToString` in maskApi.c of pycocotools.

    Each character holds 5 bits; from the fourth on, a length is stored relative to the one two
    before it.
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


def run_lengths(mask: NDArray[np.bool_]) -> list[int]:
    """Return COCO's run lengths of a mask, (height, width): column by column, zeros first."""
    flat = mask.flatten(order="F")
    changes = np.flatnonzero(np.diff(flat)) + 1
    bounds = np.concatenate([[0], changes, [flat.size]])
    lengths: list[int] = np.diff(bounds).tolist()
    return [0, *lengths] if flat[0] else lengths
