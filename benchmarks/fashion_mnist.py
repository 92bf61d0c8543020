"""Writes Fashion-MNIST (Xiao, Rasul and Vollgraf 2017) as folders of a user's own photographs.

    python -m benchmarks.fashion_mnist FOLDER --seed 0

Needs the Debian package `dataset-fashion-mnist`, or its four files elsewhere (`--source`). The
photographs, MIT licence, are copied to FOLDER and never into this repository.

FOLDER/public/             500 photographs of each class: training data of a public generator
FOLDER/seed-000/           a long tail of 1,000 to 10 photographs per class, in an order set by the
                           seed; 100 per class for feedback, 1,000 per class for testing
FOLDER/public-conditions/  125 photographs of each class in each of four conditions: upright or
                           sideways, bright or dark
FOLDER/conditions-000/     60 photographs of each of these 40 groups, but 4 of six rare ones chosen
                           by the seed; 25 per group for feedback, 250 per group for testing

All are class folders with `attributes.csv`. No photograph is both in a public folder and in that of
a seed, or in two splits. Conditions are synthetic: sideways is rotated by 90 degrees, dark has a
quarter of the brightness and added noise.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections.abc import Mapping, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

from memory.records import slice_key

CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
SOURCE = Path("/usr/share/datasets/fashion-mnist")
N_LARGEST, RATIO = 1000, 100
N_FEEDBACK, N_TEST, N_PUBLIC = 100, 1000, 500
# Photographs of a class in the training file; the second half of each is for the public folder.
_N_OF_CLASS = 6000
# Pads 28 to 32 pixels, a multiple of 8.
_MARGIN = 2
_AUDIT_SHARE = 0.25
_DARK = 32
BRIGHTNESS, VIEWS = ("bright", "dark"), ("upright", "sideways")
N_RARE_GROUPS, N_COMMON, N_RARE = 6, 60, 4
_N_CONDITIONS = len(BRIGHTNESS) * len(VIEWS)
_GROUP = {"feedback": 25, "test": 250, "public": 125}
_LIGHT, _NOISE = 0.25, 8.0
# Further splits of a public folder, which pretraining needs.
_OTHERS = {"audit": 20, "feedback": 20, "test": 20}

Rows = Mapping[str, NDArray[np.int64]]
Condition = tuple[str, str]
"""Brightness and view."""


def tail(seed: int) -> dict[str, int]:
    """Return the number of training photographs of each class, from most to fewest."""
    order = np.random.default_rng(seed).permutation(len(CLASSES))
    last = len(CLASSES) - 1
    return {CLASSES[c]: round(N_LARGEST * RATIO ** (-rank / last)) for rank, c in enumerate(order)}


def group_counts(seed: int) -> dict[str, int]:
    """Return the number of training photographs of each class and condition, by slice key.

    Rare groups come last.
    """
    keys = [
        slice_key({"class": name, "brightness": brightness, "view": view})
        for name in CLASSES
        for brightness in BRIGHTNESS
        for view in VIEWS
    ]
    rare = np.random.default_rng([seed, 2]).choice(len(keys), N_RARE_GROUPS, replace=False).tolist()
    common = {key: N_COMMON for number, key in enumerate(keys) if number not in rare}
    return common | {keys[number]: N_RARE for number in sorted(rare)}


def write_tail(folder: Path, seed: int, source: Path = SOURCE) -> Path:
    """Write the folder of a seed, unless it exists; return it."""
    images, labels = _read(source, "train")
    test_images, test_labels = _read(source, "t10k")
    rng = np.random.default_rng([seed, 1])
    pictures = np.concatenate([images, test_images])
    of_classes: list[Rows] = []
    for name, n in tail(seed).items():
        c = CLASSES.index(name)
        rows = rng.permutation(np.flatnonzero(labels == c)[: _N_OF_CLASS // 2])
        n_audit = max(2, round(_AUDIT_SHARE * n))
        bounds = [N_FEEDBACK, N_FEEDBACK + n_audit]
        feedback, audit, generator = np.split(rows[: N_FEEDBACK + n], bounds)
        test = len(images) + np.flatnonzero(test_labels == c)[:N_TEST]
        splits = {"generator": generator, "audit": audit, "feedback": feedback, "test": test}
        of_classes.append(splits)
    labels = np.concatenate([labels, test_labels])
    return _write(folder / f"seed-{seed:03d}", pictures, labels, _join(of_classes))


def write_public(folder: Path, source: Path = SOURCE) -> Path:
    """Write the training photographs of a public generator, unless the folder exists."""
    images, labels = _read(source, "train")
    sizes = {"generator": N_PUBLIC, **_OTHERS}
    of_class = [np.flatnonzero(labels == c)[_N_OF_CLASS // 2 :] for c in range(len(CLASSES))]
    return _write(folder / "public", images, labels, _join([_cut(r, sizes)[0] for r in of_class]))


def write_conditions(folder: Path, seed: int, source: Path = SOURCE) -> Path:
    """Write the folder of a seed with conditions, unless it exists; return it."""
    images, labels = _read(source, "train")
    test_images, test_labels = _read(source, "t10k")
    counts, rng = group_counts(seed), np.random.default_rng([seed, 3])
    conditions: dict[int, Condition] = {}
    found: list[Rows] = []
    for c, name in enumerate(CLASSES):
        rows = rng.permutation(np.flatnonzero(labels == c)[: _N_OF_CLASS // 2])
        test = len(images) + rng.permutation(np.flatnonzero(test_labels == c))
        for condition in product(BRIGHTNESS, VIEWS):
            key = slice_key({"class": name, "brightness": condition[0], "view": condition[1]})
            n_audit = round(_AUDIT_SHARE * counts[key])
            sizes = (_GROUP["feedback"], n_audit, counts[key] - n_audit)
            parts, rows = _cut(
                rows, dict(zip(("feedback", "audit", "generator"), sizes, strict=True))
            )
            parts |= {"test": test[: _GROUP["test"]]}
            test = test[_GROUP["test"] :]
            found.append(parts)
            conditions |= dict.fromkeys(np.concatenate([*parts.values()]).tolist(), condition)
    pictures, names = np.concatenate([images, test_images]), np.concatenate([labels, test_labels])
    return _write(folder / f"conditions-{seed:03d}", pictures, names, _join(found), conditions)


def write_public_conditions(folder: Path, source: Path = SOURCE) -> Path:
    """Write the training photographs of a public generator in conditions."""
    images, labels = _read(source, "train")
    conditions: dict[int, Condition] = {}
    found: list[Rows] = []
    for c in range(len(CLASSES)):
        rows = np.flatnonzero(labels == c)[_N_OF_CLASS // 2 :]
        for condition in product(BRIGHTNESS, VIEWS):
            parts, rows = _cut(rows, {"generator": _GROUP["public"], **_OTHERS})
            found.append(parts)
            conditions |= dict.fromkeys(np.concatenate([*parts.values()]).tolist(), condition)
    return _write(folder / "public-conditions", images, labels, _join(found), conditions)


def _cut(
    rows: NDArray[np.int64], sizes: Mapping[str, int]
) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.int64]]:
    """Split the first rows into parts of the given sizes; return the parts and the rest."""
    *parts, rest = np.split(rows, np.cumsum([*sizes.values()]))
    return dict(zip(sizes, parts, strict=True)), rest


def _join(parts: Sequence[Rows]) -> Rows:
    """Concatenate the rows of each split over all parts."""
    return {split: np.concatenate([part[split] for part in parts]) for split in parts[0]}


def _read(source: Path, name: str) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return images, (n, 28, 28), and labels, (n,), of one pair of files."""
    parts = []
    for kind, header in (("images-idx3", 16), ("labels-idx1", 8)):
        path = source / f"{name}-{kind}-ubyte.gz"
        if not path.exists():
            raise SystemExit(
                f"{path} is missing. Install the Debian package dataset-fashion-mnist, or name the "
                "folder of its files with --source."
            )
        parts.append(np.frombuffer(gzip.decompress(path.read_bytes()), np.uint8, offset=header))
    return parts[0].reshape(-1, 28, 28), parts[1]


def _write(
    folder: Path,
    images: NDArray[np.uint8],
    labels: NDArray[np.uint8],
    splits: Rows,
    conditions: Mapping[int, Condition] | None = None,
) -> Path:
    """Write class folders and, last, the table, which marks the folder as complete."""
    table = folder / "attributes.csv"
    if table.exists():
        return folder
    lines: list[Sequence[Any]] = []
    for split, rows in splits.items():
        for row in rows.tolist():
            name = f"{CLASSES[labels[row]]}/{row:05d}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            image = images[row]
            columns: tuple[str, ...] = (f"{_width(image):.3f}",)
            if conditions is not None:
                columns = conditions[row]
                image = _in_condition(image, row, columns)
            Image.fromarray(np.pad(image, _MARGIN)).save(folder / name)
            lines.append((name, split, *columns))
    heads = ("width",) if conditions is None else ("brightness", "view")
    with table.with_suffix(".part").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "split", *heads), *lines])
    table.with_suffix(".part").rename(table)
    return folder


def _in_condition(
    image: NDArray[np.uint8], row: int, condition: Sequence[str]
) -> NDArray[np.uint8]:
    """Return a photograph in a condition; the noise of a dark one is seeded by its row."""
    brightness, view = condition
    if view == "sideways":
        image = np.rot90(image)
    if brightness == "dark":
        noise = np.random.default_rng(row).normal(0, _NOISE, image.shape)
        image = (image * _LIGHT + noise).clip(0, 255).astype(np.uint8)
    return image


def _width(image: NDArray[np.uint8]) -> float:
    """Return the mean width of the garment's rows, a share of the image's width."""
    rows = (image > _DARK).sum(1)
    return float(rows[rows > 0].mean() / image.shape[1]) if rows.any() else 0.0


def main() -> None:
    """Write all folders of a seed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", type=Path, default=SOURCE)
    options = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    for path in (
        write_public(options.folder, options.source),
        write_tail(options.folder, options.seed, options.source),
        write_public_conditions(options.folder, options.source),
        write_conditions(options.folder, options.seed, options.source),
    ):
        console.print(str(path))


if __name__ == "__main__":
    main()
