from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from numpy.typing import NDArray

from tools.targets.elpv import measure, measure_all, near_copies
from tools.targets.splits import SHARES, split_groups


def cell(
    level: float = 0.62, bars: tuple[int, ...] = (11, 32, 52), noise: float = 0.0, seed: int = 0
) -> NDArray[np.uint8]:
    """A flat cell with busbars, brightness 0..1."""
    rng = np.random.default_rng(seed)
    image = np.full((64, 64), level) + rng.normal(0, noise, (64, 64))
    for row in bars:
        image[row] *= 0.8
    return (image.clip(0, 1) * 255).astype(np.uint8)


def with_patch(image: NDArray[np.uint8], y: int, x: int, radius: int) -> NDArray[np.uint8]:
    rows, columns = np.mgrid[:64, :64]
    spoilt = image.copy()
    spoilt[(rows - y) ** 2 + (columns - x) ** 2 <= radius**2] //= 5
    return spoilt


@pytest.mark.parametrize(("level", "name"), [(0.4, "dark"), (0.62, "medium"), (0.8, "bright")])
def test_brightness(level: float, name: str) -> None:
    assert measure(cell(level), "poly")["brightness"] == name


@pytest.mark.parametrize(("noise", "name"), [(0.0, "low"), (0.03, "medium"), (0.1, "high")])
def test_contrast(noise: float, name: str) -> None:
    assert measure(cell(noise=noise), "poly")["contrast"] == name


@pytest.mark.parametrize(
    ("bars", "expected"),
    [((11, 32, 52), "three"), ((17, 47), "two"), ((20, 43), "two"), ((), None), ((32,), None)],
)
def test_busbars_are_counted_or_left_out(bars: tuple[int, ...], expected: str | None) -> None:
    assert measure(cell(bars=bars), "poly").get("busbars") == expected


@pytest.mark.parametrize(
    ("y", "x", "where"),
    [(32, 14, "left"), (32, 50, "right"), (14, 32, "top"), (50, 32, "bottom"), (30, 33, "centre")],
)
def test_dark_area_is_found_where_it_lies(y: int, x: int, where: str) -> None:
    found = measure(with_patch(cell(), y, x, 7), "poly")
    assert (found["dark_area"], found["where"]) == ("small", where)


def test_large_dark_area_and_none() -> None:
    assert measure(with_patch(cell(), 32, 32, 14), "poly")["dark_area"] == "large"
    clean = measure(cell(), "poly")
    assert clean["dark_area"] == "none"
    assert "where" not in clean


def test_corners_of_a_monocrystalline_cell_are_no_dark_area() -> None:
    image = cell()
    rows, columns = np.mgrid[:64, :64]
    near = np.minimum(rows, 63 - rows) + np.minimum(columns, 63 - columns)
    image[near < 14] = 20
    assert measure(image, "mono")["dark_area"] == "none"
    assert measure(image, "poly")["dark_area"] != "none"


def test_images_are_measured_together_as_alone() -> None:
    images = [cell(0.3), with_patch(cell(), 10, 40, 7), cell(bars=(11, 32, 52)), cell(noise=0.1)]
    wafers = ["poly", "mono", "poly", "mono"]
    alone = [measure(image, wafer) for image, wafer in zip(images, wafers, strict=True)]
    assert measure_all(np.stack(images), wafers) == alone


def test_an_image_all_of_lines_is_measured() -> None:
    image = np.full((64, 64), 200, np.uint8)
    image[::3] = 20
    assert measure(image, "poly")["brightness"] == "dark"


def test_near_copies_share_a_group() -> None:
    """A second exposure of one wafer is found, another wafer of the same layout is not."""
    wafer = cell(noise=0.08, seed=1)
    rng = np.random.default_rng(9)
    again = (wafer * 0.8 + rng.normal(0, 4, wafer.shape)).clip(0, 255).astype(np.uint8)
    groups = near_copies(np.stack([wafer, cell(noise=0.08, seed=2), again]), ["poly"] * 3)
    assert groups[0] == groups[2] != groups[1]


def test_split_groups_keeps_groups_and_shares() -> None:
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(400), rng.integers(1, 5, 400))
    strata = [["a", "b"][int(g) % 4 == 0] for g in groups]
    splits = split_groups(groups, strata, SHARES, seed=0)
    total = Counter(strata)
    for name, share in SHARES.items():
        owned = Counter(strata[i] for i in splits[name])
        for stratum, n in total.items():
            assert abs(owned[stratum] / n - share) < 0.02
    assert splits == split_groups(groups, strata, SHARES, seed=0)
    assert splits != split_groups(groups, strata, SHARES, seed=1)
