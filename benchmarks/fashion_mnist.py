"""Makes folders of Fashion-MNIST (Xiao, Rasul and Vollgraf 2017) as a user's own photographs.

    python -m benchmarks.fashion_mnist FOLDER --seed 0

Needs the Debian package `dataset-fashion-mnist`, or its four files elsewhere (`--source`). The
photographs, MIT licence, are copied to FOLDER and never into this repository.

FOLDER/public/     500 photographs of each class: what a public generator has seen
FOLDER/seed-000/   a long tail of 1,000 to 10 photographs a class, whose order the seed decides; 100
                   a class of feedback, 1,000 a class to test

Both are class folders with `attributes.csv`. No photograph is in both, nor in two splits.
"""

from __future__ import annotations

import argparse
import csv
import gzip
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from rich.console import Console

CLASSES = (
    "t-shirt", "trouser", "pullover", "dress", "coat", "sandal", "shirt", "sneaker", "bag", "boot",
)  # fmt: skip
SOURCE = Path("/usr/share/datasets/fashion-mnist")
N_LARGEST, RATIO = 1000, 100
N_FEEDBACK, N_TEST, N_PUBLIC = 100, 1000, 500
# Photographs of a class in the training file; the second half of each is for the public folder.
_N_OF_CLASS = 6000
# From 28 to 32 pixels, a multiple of 8.
_MARGIN = 2
_AUDIT_SHARE = 0.25
_DARK = 32

Rows = Mapping[str, NDArray[np.int64]]


def tail(seed: int) -> dict[str, int]:
    """Return the number of training photographs of each class, from most to fewest."""
    order = np.random.default_rng(seed).permutation(len(CLASSES))
    last = len(CLASSES) - 1
    return {CLASSES[c]: round(N_LARGEST * RATIO ** (-rank / last)) for rank, c in enumerate(order)}


def write_tail(folder: Path, seed: int, source: Path = SOURCE) -> Path:
    """Write the folder of a seed, unless it is there; return it."""
    images, labels = _read(source, "train")
    test_images, test_labels = _read(source, "t10k")
    rng = np.random.default_rng([seed, 1])
    pictures = np.concatenate([images, test_images])
    splits: dict[str, list[NDArray[np.int64]]] = {}
    for name, n in tail(seed).items():
        c = CLASSES.index(name)
        rows = rng.permutation(np.flatnonzero(labels == c)[: _N_OF_CLASS // 2])
        n_audit = max(2, round(_AUDIT_SHARE * n))
        bounds = [N_FEEDBACK, N_FEEDBACK + n_audit]
        feedback, audit, generator = np.split(rows[: N_FEEDBACK + n], bounds)
        test = len(images) + np.flatnonzero(test_labels == c)[:N_TEST]
        parts = {"generator": generator, "audit": audit, "feedback": feedback, "test": test}
        for split, chosen in parts.items():
            splits.setdefault(split, []).append(chosen)
    labels = np.concatenate([labels, test_labels])
    joined = {split: np.concatenate(parts) for split, parts in splits.items()}
    return _write(folder / f"seed-{seed:03d}", pictures, labels, joined)


def write_public(folder: Path, source: Path = SOURCE) -> Path:
    """Write the photographs that a public generator has seen, unless they are there."""
    images, labels = _read(source, "train")
    splits: dict[str, list[NDArray[np.int64]]] = {}
    for c in range(len(CLASSES)):
        rows = np.flatnonzero(labels == c)[_N_OF_CLASS // 2 :]
        first = 0
        for split, n in (("generator", N_PUBLIC), ("audit", 20), ("feedback", 20), ("test", 20)):
            splits.setdefault(split, []).append(rows[first : first + n])
            first += n
    joined = {split: np.concatenate(parts) for split, parts in splits.items()}
    return _write(folder / "public", images, labels, joined)


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
    folder: Path, images: NDArray[np.uint8], labels: NDArray[np.uint8], splits: Rows
) -> Path:
    """Write class folders and, last, the table that says the folder is whole."""
    table = folder / "attributes.csv"
    if table.exists():
        return folder
    lines: list[Sequence[Any]] = []
    for split, rows in splits.items():
        for row in rows.tolist():
            name = f"{CLASSES[labels[row]]}/{row:05d}.png"
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(np.pad(images[row], _MARGIN)).save(folder / name)
            lines.append((name, split, f"{_width(images[row]):.3f}"))
    with table.with_suffix(".part").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "split", "width"), *lines])
    table.with_suffix(".part").rename(table)
    return folder


def _width(image: NDArray[np.uint8]) -> float:
    """Return the mean width of the garment's rows, a share of the image's width."""
    rows = (image > _DARK).sum(1)
    return float(rows[rows > 0].mean() / image.shape[1]) if rows.any() else 0.0


def main() -> None:
    """Write both folders of a seed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--source", type=Path, default=SOURCE)
    options = parser.parse_args()
    console = Console(highlight=False, soft_wrap=True)
    for path in (
        write_public(options.folder, options.source),
        write_tail(options.folder, options.seed, options.source),
    ):
        console.print(str(path))


if __name__ == "__main__":
    main()
