"""The target `elpv`: electroluminescence photographs of solar cells (package elpv-dataset).

2,624 gray 300x300 photographs of mono- and polycrystalline cells with an expert's defect
probability (0, 1/3, 2/3, 1): Buerhop-Lutz et al. 2018, Deitsch et al. 2019 and 2021. CC BY-NC-SA
4.0. They are scaled to 64x64, and attributes are measured on the scaled image, so that the same
functions apply to generated images.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter, gaussian_filter1d

from memory.errors import DataError
from memory.files import write_atomic
from prompts.vocabulary import Vocabulary, load_vocabulary
from tools.data.samples import Samples
from tools.targets import check_split, flip_where
from tools.targets.levels import level
from tools.targets.splits import SHARES, connected_groups, split_groups

SIZE = 64
SEVERITIES = ("functional", "suspect", "probable", "defective")
NOTICE = (
    "The photographs of the ELPV data set (Buerhop-Lutz, Deitsch et al.) are licensed "
    "CC BY-NC-SA 4.0: non-commercial use, same licence, credit to the authors. Images made by a "
    "model trained on them should be treated alike."
)

# Increased whenever `measure` or `near_copies` changes, as their results are cached.
_CACHE_VERSION = 2
_NEAR_COPY = 0.6
_N_AT_ONCE = 256

Gray = NDArray[np.floating]


class Elpv:
    """The target `elpv`; see the module for the data and `measure_all` for the attributes."""

    name = "elpv"
    task = "classification"
    image_shape = (1, SIZE, SIZE)
    notice = NOTICE
    pixel_classes: Sequence[str] = ()
    flips = ("horizontal", "vertical")

    def __init__(self, cache_dir: Path, seed: int = 0) -> None:
        self.vocabulary: Vocabulary = load_vocabulary("elpv")
        self.class_names = self.vocabulary.classes
        data = _load_small(cache_dir)
        self._images = data["images"]
        self._wafers = [str(w) for w in data["wafers"]]
        self._severities = [SEVERITIES[int(s)] for s in data["severities"]]
        self._measured: list[dict[str, str]] = json.loads(str(data["measured"]))
        self._groups = data["groups"]
        self._splits = split_groups(
            self._groups,
            [f"{w} {s}" for w, s in zip(self._wafers, self._severities, strict=True)],
            SHARES,
            seed,
        )

    def split(self, name: str) -> Samples:
        """Return one of the disjoint splits; ids are the file names of the package."""
        check_split(name)
        index = self._splits[name]
        attributes = [self._attributes(i) for i in index]
        classes = [
            self.class_names.index(self.vocabulary.class_of[a["severity"]]) for a in attributes
        ]
        return Samples(
            images=self._images[index][:, None],
            classes=np.array(classes, dtype=np.int64),
            attributes=attributes,
            ids=[f"cell{i + 1:04d}" for i in index],
            groups=[str(self._groups[i]) for i in index],
        )

    def flip(self, attributes: dict[str, str], horizontal: bool, vertical: bool) -> dict[str, str]:
        """Return the attributes of the mirrored photograph: only `where` changes."""
        return flip_where(attributes, horizontal, vertical)

    def measure(self, image: NDArray[np.uint8], attributes: Mapping[str, str]) -> dict[str, str]:
        """Measure an image, (1, 64, 64); of the given attributes only `wafer` is used."""
        return measure(image[0], attributes.get("wafer", "poly"))

    def _attributes(self, i: int) -> dict[str, str]:
        labelled = {"wafer": self._wafers[i], "severity": self._severities[i]}
        return labelled | self._measured[i]


def build(cache_dir: Path, seed: int = 0) -> Elpv:
    """Build the target; scaled images are cached in `cache_dir` (about 11 MB)."""
    return Elpv(cache_dir, seed)


def measure(image: NDArray[np.uint8], wafer: str) -> dict[str, str]:
    """Return the measurable attributes of an image, see `measure_all`.

    Args:
        image: (64, 64), gray, 0..255.
        wafer: "mono" or "poly".
    """
    return measure_all(image[None], [wafer])[0]


def measure_all(images: NDArray[np.uint8], wafers: Sequence[str]) -> list[dict[str, str]]:
    """Return the measurable attributes of images.

    Args:
        images: (n, 64, 64), gray, 0..255.
        wafers: Wafer type of each image, "mono" or "poly", n.

    Returns:
        Attributes of each image. brightness: mean luminance of the cell; dark_area and where:
        fraction and centroid of the smoothed cell below 0.65 of its upper quartile, after
        interpolation of busbars; contrast: standard deviation of the texture; busbars: two or
        three, absent if the row profile shows neither clearly.
    """
    measured: list[dict[str, str]] = [{}] * len(images)
    for wafer in dict.fromkeys(wafers):
        rows = [row for row, other in enumerate(wafers) if other == wafer]
        for start in range(0, len(rows), _N_AT_ONCE):
            part = rows[start : start + _N_AT_ONCE]
            results = _measured(images[part], _cell_mask(wafer))
            for row, attributes in zip(part, results, strict=True):
                measured[row] = attributes
    return measured


def _measured(images: NDArray[np.uint8], inner: NDArray[np.bool_]) -> Iterator[dict[str, str]]:
    x = images.astype(np.float32) / 255
    profile = np.quantile(x[:, :, 8:-8], 0.65, axis=2)
    clean = _without_busbars(x, profile - gaussian_filter1d(profile, 5))
    luminance = x[:, inner].mean(1)
    smooth = gaussian_filter(clean, (0, 1.5, 1.5))
    dark = (smooth < 0.65 * np.quantile(smooth[:, inner], 0.75, axis=1)[:, None, None]) & inner
    n_dark = dark.sum((1, 2))
    offset = np.arange(SIZE) - (SIZE - 1) / 2
    right, below = (dark.sum(axis) @ offset / np.maximum(n_dark, 1) for axis in (1, 2))
    texture = (clean - gaussian_filter(clean, (0, 4, 4)))[:, inner].std(1)
    texture = texture / np.maximum(clean[:, inner].mean(1), 0.1)
    for i, busbars in enumerate(_busbars(x)):
        attributes = {
            "brightness": level(float(luminance[i]), (0.57, 0.70), ("dark", "medium", "bright"))
        }
        share = float(n_dark[i] / inner.sum())
        attributes["dark_area"] = level(share, (0.005, 0.06), ("none", "small", "large"))
        if attributes["dark_area"] != "none":
            dx, dy = float(right[i]), float(below[i])
            if max(abs(dx), abs(dy)) < 8:
                attributes["where"] = "centre"
            elif abs(dx) >= abs(dy):
                attributes["where"] = "left" if dx < 0 else "right"
            else:
                attributes["where"] = "top" if dy < 0 else "bottom"
        attributes["contrast"] = level(float(texture[i]), (0.03, 0.06), ("low", "medium", "high"))
        if busbars:
            attributes["busbars"] = busbars
        yield attributes


@cache
def _cell_mask(wafer: str) -> NDArray[np.bool_]:
    """Return the mask of the cell without its frame and, if mono, without the cut corners."""
    y, x = np.mgrid[:SIZE, :SIZE]
    u, v = np.minimum(x, SIZE - 1 - x), np.minimum(y, SIZE - 1 - y)
    inside: NDArray[np.bool_] = (u >= 4) & (v >= 4)
    return inside & (u + v >= 20) if wafer == "mono" else inside


def _without_busbars(x: Gray, dips: Gray) -> Gray:
    """Interpolate rows at dips of the row profile, (n, 64), between the rows above and below."""
    bar = dips < -0.01
    bar = bar | np.roll(bar, 1, axis=1) | np.roll(bar, -1, axis=1)
    bar &= ((~bar).sum(1) >= 2)[:, None]  # ignored if fewer than two rows remain
    grid = np.arange(SIZE)
    above = np.maximum.accumulate(np.where(bar, -1, grid), axis=1)
    below = np.minimum.accumulate(np.where(bar, SIZE, grid)[:, ::-1], axis=1)[:, ::-1]
    # Beyond the outermost row without a dip, its values are repeated.
    above, below = np.where(above < 0, below, above), np.where(below == SIZE, above, below)
    part = (grid - above) / np.maximum(below - above, 1)
    n = np.arange(len(x))[:, None]
    low, high = x[n, above].astype(np.float64), x[n, below].astype(np.float64)
    clean: Gray = (low + part[:, :, None] * (high - low)).astype(np.float32)
    return clean


def _busbars(x: Gray) -> Iterator[str | None]:
    """Detect two or three thin dark lines at the busbar positions, which are symmetric."""
    profile = np.median(x[:, :, 8:-8], axis=2)
    dips = profile - gaussian_filter1d(profile, 2.5)
    dips = dips / np.maximum(profile.mean(1), 0.05)[:, None]

    def line(row: int) -> NDArray[np.bool_]:
        lines: NDArray[np.bool_] = dips[:, row - 2 : row + 3].min(1) < -0.02
        return lines

    three = line(11) & line(32) & line(52)
    two = ~line(32) & ((line(17) & line(47)) | (line(20) & line(43)))
    for has_three, has_two in zip(three, two, strict=True):
        yield "three" if has_three else "two" if has_two else None


def near_copies(images: NDArray[np.uint8], wafers: list[str]) -> NDArray[np.int64]:
    """Group photographs that show the same wafer, or sister wafers of one ingot.

    Images of one wafer type are linked if their textures (busbars, rows and columns removed)
    correlate above 0.6; groups are the connected components. Sister wafers share their grain
    pattern, so the texture alone identifies them.

    Args:
        images: (n, 64, 64).
        wafers: Wafer type of each image, "mono" or "poly".

    Returns:
        Group number of each image, (n,).
    """
    x = images[:, 4:-4, 4:-4].astype(np.float32) / 255
    profile = x.mean(2)
    bar = (profile - gaussian_filter1d(profile, 4, axis=1)) < -0.02
    bar = np.logical_or.reduce([np.roll(bar, shift, axis=1) for shift in (-2, -1, 0, 1, 2)])
    texture = x - gaussian_filter(x, (0, 4, 4))
    texture = texture * ~bar[:, :, None]
    texture = texture - np.median(texture, axis=2, keepdims=True)
    texture = texture - np.median(texture, axis=1, keepdims=True)
    spread = texture.std((1, 2), keepdims=True)
    flat = np.clip(texture, -3 * spread, 3 * spread).reshape(len(x), -1)
    flat = flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6)
    alike = np.triu(flat @ flat.T, 1) > _NEAR_COPY
    kind = np.array(wafers)
    rows, columns = np.nonzero(alike & (kind[:, None] == kind[None, :]))
    return connected_groups(len(x), rows, columns)


def _load_small(cache_dir: Path) -> dict[str, NDArray[Any]]:
    """Return the scaled photographs with groups and attributes, computed once and cached."""
    if util.find_spec("elpv_dataset") is None:
        raise DataError(
            "The target elpv needs the photographs of the package elpv-dataset, which is not "
            "installed. Add it with: pip install elpv-dataset"
        )
    version = metadata.version("elpv-dataset")
    path = cache_dir / f"elpv-{version}-{SIZE}-v{_CACHE_VERSION}.npz"
    if not path.exists():
        _write_cache(path)
    with np.load(path, allow_pickle=False) as data:
        return {name: data[name] for name in data.files}


def _write_cache(path: Path) -> None:
    import elpv_dataset

    root = Path(elpv_dataset.__file__).parent / "data"
    table = np.genfromtxt(
        root / "labels.csv", dtype=["U64", "f8", "U8"], names=["path", "probability", "wafer"]
    )

    def shrink(name: str) -> NDArray[np.uint8]:
        with Image.open(root / name) as image:
            return np.asarray(image.convert("L").resize((SIZE, SIZE), Image.Resampling.LANCZOS))

    with ThreadPoolExecutor(2) as pool:
        images = np.stack(list(pool.map(shrink, table["path"])))
    wafers = [str(w) for w in table["wafer"]]
    content: dict[str, Any] = {
        "images": images,
        "wafers": np.array(wafers),
        "severities": np.round(table["probability"] * 3).astype(np.int64),
        "groups": near_copies(images, wafers),
        "measured": json.dumps(measure_all(images, wafers)),
    }
    write_atomic(path, lambda handle: np.savez(handle, **content))
