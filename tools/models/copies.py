"""Near copies: images that repeat a photograph up to light, crop, mirroring and noise.

An image and crops of a photograph are compared as vectors v: gray pixels of a square, centred and
normalised to length 1, then whitened, w = diag(l + r)^-1/2 U' (v - m), where m, U and l are mean,
principal directions and variances of crops of all photographs, and r is 0.1 of the mean variance.
Features that all photographs share, such as a frame or the horizon, therefore count little. The
distance is 1 minus the cosine at the best alignment: the nearest photographs by coarse vectors over
a grid of crops are aligned more finely, with halving steps in size and position.

The score of an image is its distance to the nearest photograph that the generator was trained on,
divided by the mean distance to the nearest others of any split: a ratio test (Lowe 2004, section
7.1), with real photographs as background, by which Pizzi et al. (2022, section 4.4) normalise.
Photographs that resemble many others, such as a cell without defects, give ratios near 1: copies of
them cannot be detected.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import product
from typing import TYPE_CHECKING, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import affine_grid, grid_sample, interpolate, normalize

from eval.copies import FALSE_ALARMS, Copies
from eval.metrics import wilson
from memory.records import Estimate
from tools.data.samples import Images

if TYPE_CHECKING:
    from tools.targets import Target

Rows = NDArray[np.int64]
Floats = NDArray[np.float64]

MOST = 1 / 3
"""Largest limit of the score of near copies."""
LEAST_SIDE = 0.8
"""Smallest side of a crop relative to the image."""
N_MOST = 5000
"""Largest number of photographs of a split that are compared, 35 kB of memory each."""
_N_NEAREST = 4
_N_CALIBRATION = 1000
_N_PLANTED = 100
_N_AT_ONCE = 128
# Side of the squares in pixels, and number of components.
_COARSE, _FINE = (16, 128), (24, 192)
_RIDGE = 0.1
_N_CROPS = 2000
_SIDES, _PLACES, _HALVINGS = 5, 4, 3


@dataclass(frozen=True)
class Whitening:
    """Whitening of gray squares: their side in pixels, mean and scaled principal directions."""

    side: int
    mean: Tensor
    axes: Tensor

    @classmethod
    def of(cls, pixels: Tensor, poses: Tensor, size: tuple[int, int]) -> Self:
        """Fit to random crops of photographs.

        Args:
            pixels: Gray photographs, (n, 1, h, w).
            poses: Poses of the crops, see `_cropped`.
            size: Side of the squares, pixels, and number of components.
        """
        side, n_axes = size
        rng = torch.Generator().manual_seed(0)
        rows = torch.randint(len(pixels), (_N_CROPS,), generator=rng)
        of_crops = poses[torch.randint(len(poses), (_N_CROPS,), generator=rng)]
        vectors = _unit(_cropped(pixels[rows], of_crops, side).flatten(1))
        mean = vectors.mean(0)
        variances, axes = torch.linalg.eigh((vectors - mean).T @ (vectors - mean) / _N_CROPS)
        variances = variances.clamp(min=0)
        scale = (variances + _RIDGE * variances.mean()).sqrt().clamp(min=1e-9)
        return cls(side, mean, (axes / scale)[:, -n_axes:])

    def __call__(self, squares: Tensor) -> Tensor:
        """Return the whitened vectors, of length 1, of squares, (n, 1, side, side)."""
        whitened = (_unit(squares.flatten(1)) - self.mean) @ self.axes
        return normalize(whitened, eps=1e-9)


class CopyFinder:
    """Search for the photograph that an image may copy."""

    def __init__(
        self,
        photographs: Images,
        known: NDArray[np.bool_],
        flips: Sequence[str] = (),
        groups: Sequence[object] | None = None,
        ids: Sequence[str] = (),
    ) -> None:
        """Fit the whitening and index photographs.

        Args:
            photographs: (n, channels, height, width), uint8.
            known: Photographs that may have been copied, (n,), at least one; the others, which the
                generator has not seen, show how similar images are that are not copies.
            flips: Directions in which a copy may be mirrored.
            groups: Photographs of one group, e.g. of one object, are not compared with each other.
                None: each is its own group.
            ids: Names of the photographs.
        """
        self.photographs, self.known, self.flips = photographs, known, tuple(flips)
        self.ids = ids
        names = {name: i for i, name in enumerate(dict.fromkeys(groups or ()))}
        self._groups = torch.tensor([names[g] for g in groups or ()] or range(len(photographs)))
        self._known = torch.from_numpy(known)
        sides = np.linspace(1, LEAST_SIDE, _SIDES)
        places = np.linspace(-1, 1, _PLACES)
        self._poses = torch.tensor(
            [(1.0, 0.0, 0.0)]
            + [(s, y * (1 - s), x * (1 - s)) for s, y, x in product(sides[1:], places, places)],
            dtype=torch.float32,
        )
        self._pixels = _gray(photographs, 2 * _FINE[0])
        small = _resized(self._pixels, 2 * _COARSE[0])
        self._coarse = Whitening.of(small, self._poses, _COARSE)
        self._fine = Whitening.of(self._pixels, self._poses, _FINE)
        self._bank = [
            self._coarse(_cropped(small, pose.expand(len(small), 3), _COARSE[0]))
            for pose in self._poses
        ]

    def search(self, images: Images, own: Rows | None = None) -> tuple[Rows, Floats]:
        """Return the row of the known photograph nearest to each image, and the score, (n,) each.

        Args:
            images: (n, channels, height, width).
            own: Rows of the images if they are photographs of this finder; these and their groups
                are excluded.
        """
        rows, scores = np.zeros(len(images), np.int64), np.zeros(len(images))
        for start in range(0, len(images), _N_AT_ONCE):
            part = slice(start, start + _N_AT_ONCE)
            rows[part], scores[part] = self._search(
                _gray(images[part], 2 * _FINE[0]),
                None if own is None else torch.from_numpy(own[part]),
            )
        return rows, scores

    @cached_property
    def limit(self) -> float:
        """Score below which an image counts as a near copy.

        At most `MOST`. With n >= 99 photographs unseen by the generator, one per group, also at
        most the k-th smallest of their scores, k = floor(0.01 (n + 1)): at most 1% of further
        photographs are below it (split conformal prediction, Vovk et al. 2005).
        """
        unseen = np.flatnonzero(~self.known)
        unseen = unseen[np.unique(self._groups[unseen].numpy(), return_index=True)[1]]
        unseen = _some(unseen, _N_CALIBRATION)
        k = int(FALSE_ALARMS * (len(unseen) + 1))
        if not k:
            return MOST
        scores = np.sort(self.search(self.photographs[unseen], unseen)[1])
        return min(MOST, float(scores[k - 1]))

    def is_copy(self, scores: Floats) -> NDArray[np.bool_]:
        """Return which scores are below the limit."""
        return scores < self.limit

    @cached_property
    def power(self) -> Estimate:
        """Share of planted copies of known photographs that are detected."""
        rows = _some(np.flatnonzero(self.known), _N_PLANTED)
        planted = plant(self.photographs[rows], self.flips)
        detected = self.is_copy(self.search(planted)[1])
        return wilson(int(detected.sum()), len(detected))

    def summary(self, scores: Floats) -> Copies:
        """Summarise the scores of images, (n,), n at least 1."""
        return Copies(
            n_photographs=int(self.known.sum()),
            limit=self.limit,
            power=self.power,
            found=wilson(int(self.is_copy(scores).sum()), len(scores)),
        )

    def _search(self, images: Tensor, own: Tensor | None) -> tuple[Rows, Floats]:
        views = [images.flip(axes) if axes else images for axes in _mirrorings(self.flips)]
        best = torch.full((len(images), len(self.photographs)), -2.0)
        number = torch.zeros(best.shape, dtype=torch.int16)
        for i, view in enumerate(views):
            vectors = self._coarse(_resized(view, _COARSE[0]))
            for j, bank in enumerate(self._bank):
                alike = vectors @ bank.T
                number[alike > best] = i * len(self._bank) + j
                torch.maximum(best, alike, out=best)
        if own is not None:
            best[self._groups[own][:, None] == self._groups[None]] = -2
        kinds = [torch.where(mask, best, -2) for mask in (self._known, ~self._known)]
        n_each = [min(_N_NEAREST, int(mask.sum())) for mask in (self._known, ~self._known)]
        rows = torch.cat(
            [kind.topk(n, 1).indices for kind, n in zip(kinds, n_each, strict=True)], 1
        )
        which = number.gather(1, rows).long()
        fine = torch.stack([self._fine(_resized(view, _FINE[0])) for view in views], 1)
        wanted = fine.gather(1, (which // len(self._bank))[..., None].expand(-1, -1, fine.shape[2]))
        poses = self._poses[which % len(self._bank)]
        distances = 1 - self._aligned(wanted.flatten(0, 1), rows.flatten(), poses.flatten(0, 1))
        distances = distances.reshape(rows.shape)
        distances[best.gather(1, rows) <= -2] = torch.inf
        least, at = distances[:, : n_each[0]].min(1)
        nearest = rows.gather(1, at[:, None])
        distances[self._groups[rows] == self._groups[nearest]] = torch.inf
        others = distances.sort(1).values[:, :_N_NEAREST]
        there = others.isfinite()
        mean = others.where(there, 0).sum(1) / there.sum(1)
        scores = torch.where(there.any(1), least / mean, 1).nan_to_num(1, 1)
        return nearest[:, 0].numpy(), scores.double().numpy()

    def _aligned(self, wanted: Tensor, rows: Tensor, poses: Tensor) -> Tensor:
        """Return the largest cosine of each vector with crops of a photograph near its pose."""

        def cosine(poses: Tensor) -> Tensor:
            crops = _cropped(self._pixels[rows], poses, _FINE[0])
            return (self._fine(crops) * wanted).sum(1)

        best = cosine(poses)
        step = torch.tensor([(1 - LEAST_SIDE) / (2 * (_SIDES - 1)), *2 * [(1 - LEAST_SIDE) / 4]])
        for halving in range(_HALVINGS):
            for axis in range(3):
                middle = poses
                for sign in (-1, 1):
                    moved = middle.clone()
                    moved[:, axis] += sign * step[axis] / 2**halving
                    moved[:, 0] = moved[:, 0].clamp(max=1)
                    alike = cosine(moved)
                    poses = torch.where((alike > best)[:, None], moved, poses)
                    best = torch.maximum(best, alike)
        return best


def plant(images: Images, flips: Sequence[str] = (), seed: int = 1) -> Images:
    """Return copies of images, mirrored at random, cropped, with changed light and noise.

    Crops have 0.8 to 1 of each side, contrast and brightness change by up to 20%, and the noise has
    a standard deviation of 5 of 255.
    """
    rng = np.random.default_rng(seed)
    n, mirrorings = len(images), _mirrorings(flips)
    chosen = rng.integers(len(mirrorings), size=n)
    x = torch.from_numpy(images.astype(np.float32))
    x = torch.stack([one.flip(mirrorings[i]) for one, i in zip(x, chosen, strict=True)])
    side = rng.uniform(LEAST_SIDE, 1, n)
    poses = np.stack([side, *((1 - side) * rng.uniform(-1, 1, (2, n)))], 1)
    y = _cropped(x, torch.from_numpy(poses.astype(np.float32)), *x.shape[2:]).numpy()
    contrast, brightness = rng.uniform(0.8, 1.2, (2, n, 1, 1, 1))
    mean = y.mean((1, 2, 3), keepdims=True)
    y = (y - mean) * contrast + mean * brightness + rng.normal(0, 5, images.shape)
    planted: Images = y.round().clip(0, 255).astype(np.uint8)
    return planted


def finder_of(target: Target, unseen: Sequence[str] = ("audit", "feedback")) -> CopyFinder:
    """Return a finder of copies of a target's split `generator`.

    Args:
        target: At most `N_MOST` photographs of each of its splits, chosen at random, are compared.
        unseen: Splits that the generator was not trained on.
    """
    splits = [target.split(name) for name in ("generator", *unseen)]
    parts = [part.take(_some(np.arange(len(part)), N_MOST)) for part in splits]
    n = [len(part) for part in parts]
    groups = [group for part in parts for group in part.groups]
    return CopyFinder(
        np.concatenate([part.images for part in parts]),
        np.arange(sum(n)) < n[0],
        target.flips,
        groups if len(groups) == sum(n) else None,
        [name for part in parts for name in part.ids],
    )


def _some(rows: Rows, n: int) -> Rows:
    """Return at most n of the rows, sampled with a fixed seed."""
    return rows if len(rows) <= n else np.sort(np.random.default_rng(0).choice(rows, n, False))


def _mirrorings(flips: Sequence[str]) -> list[tuple[int, ...]]:
    """Return the axes of every combination of flips, starting with none."""
    axes = [axis for axis, name in ((-2, "vertical"), (-1, "horizontal")) if name in flips]
    return [(), *((axis,) for axis in axes), *([tuple(axes)] if len(axes) == 2 else [])]


def _gray(images: Images, side: int) -> Tensor:
    """Return images in gray, 0..1, resized to squares of `side` pixels."""
    pixels = torch.from_numpy(images.mean(1, keepdims=True, dtype=np.float32) / 255)
    return _resized(pixels, side)


def _resized(pixels: Tensor, side: int) -> Tensor:
    if pixels.shape[2:] == (side, side):
        return pixels
    if min(pixels.shape[2:]) < side:
        return interpolate(pixels, (side, side), mode="bilinear", antialias=True)
    return interpolate(pixels, (side, side), mode="area")


def _cropped(pixels: Tensor, poses: Tensor, height: int, width: int | None = None) -> Tensor:
    """Return one crop per image; poses: side and y, x of the centre, as shares, (n, 3)."""
    theta = torch.zeros(len(poses), 2, 3)
    theta[:, 0, 0] = theta[:, 1, 1] = poses[:, 0]
    theta[:, 0, 2], theta[:, 1, 2] = poses[:, 2], poses[:, 1]
    grid = affine_grid(theta, [len(poses), 1, height, width or height], align_corners=False)
    return grid_sample(pixels, grid, padding_mode="reflection", align_corners=False)


def _unit(vectors: Tensor) -> Tensor:
    return normalize(vectors - vectors.mean(1, keepdim=True), eps=1e-9)
