"""Encoding of pixel labels as channels that a diffusion model denoises beside the image.

segmentation: the bits of the class id and their parity, -1 or 1 each ("analog bits", Chen et al.
2023); code words of two classes differ in at least two bits, so that a pixel between two classes is
not decoded as a third one. depth: logarithm of metres. normals: x, y, z. Every channel is whitened
to about unit variance.

`LabelGrid` folds these channels to the resolution of VAE latents by a pixel-unshuffle. Marigold
(Ke et al. 2024) and LDM3D (Stan et al. 2023) encode labels with the VAE, as images; folding is
exact, including thin structures, class ids and pixels with unknown labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle

from memory.errors import DataError
from memory.records import Record
from tools.data.samples import KINDS, VOID, Dense, Samples

# Change of log depth between the last two denoising steps (0.1: about 10 % of the distance) at
# which the confidence is 1/e.
_DEPTH_SPREAD = 0.1
_STATISTICS_IMAGES = 2000


class LabelCodes(Record):
    """Encoding of the labels of one data set.

    Attributes:
        kinds: Kinds of labels, a subset of `KINDS` in that order.
        class_names: Classes of the segmentation.
        mean, std: Statistics of every channel before whitening.
        depth_m: Smallest and largest distance, metres.
    """

    kinds: tuple[str, ...] = ()
    class_names: tuple[str, ...] = ()
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    depth_m: tuple[float, float] = (1.0, 1.0)

    @classmethod
    def of(cls, samples: Samples, class_names: Sequence[str]) -> Self:
        """Fit the codes to the labels of samples; constant channels keep a std of 1.

        Raises:
            DataError: An image has class ids without a name or depth values that are not above 0;
                the message names the image.
        """
        for kind in samples.labels.keys() & {"segmentation", "depth"}:
            for name, values in zip(samples.ids, samples.labels[kind], strict=True):
                check_labels(kind, values, len(class_names), f" of the image {name!r}")
        kinds = tuple(kind for kind in KINDS if kind in samples.labels)
        plain = cls(kinds=kinds, class_names=tuple(class_names) if "segmentation" in kinds else ())
        chosen = np.linspace(0, len(samples) - 1, min(len(samples), _STATISTICS_IMAGES)).astype(int)
        labels = {kind: samples.labels[kind][chosen] for kind in kinds}
        depth_m = (1.0, 1.0)
        if "depth" in kinds:
            known = labels["depth"][np.isfinite(labels["depth"])]
            if len(known):
                depth_m = (float(known.min()), float(known.max()))
        if not kinds:
            return plain
        values, known_pixels = plain._channels(labels, samples.images.shape[2:])
        mean, std = [], []
        for channel in range(values.shape[1]):
            known_values = values[:, channel][known_pixels[:, channel]]
            mean.append(float(known_values.mean()) if len(known_values) else 0.0)
            spread = float(known_values.std()) if len(known_values) else 0.0
            std.append(spread if spread > 1e-3 else 1.0)
        return plain.model_copy(update={"mean": tuple(mean), "std": tuple(std), "depth_m": depth_m})

    @property
    def n_channels(self) -> int:
        """Total number of channels of all kinds."""
        return sum(self.widths)

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of channels of each kind."""
        return tuple(self._width(kind) for kind in self.kinds)

    @property
    def words(self) -> NDArray[np.float32]:
        """Code words of the classes, (n_classes, bits), -1 or 1."""
        n = len(self.class_names)
        bits = np.arange(n)[:, None] >> np.arange(_n_bits(n))[None] & 1
        parity = bits.sum(1, keepdims=True) & 1
        return np.concatenate([bits, parity], axis=1).astype(np.float32) * 2 - 1

    def encode(
        self, labels: Dense, size: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return whitened channels, (n, c, h, w), 0 where unknown, and the mask of known values.

        Args:
            labels: As in `Samples`; missing kinds are unknown.
            size: Height and width, pixels.
        """
        values, known = self._channels(labels, size)
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.std))
        whitened: NDArray[np.float32] = np.where(known, (values - mean) / std, 0)
        return whitened, known

    def decode(
        self, channels: NDArray[np.float32], before: NDArray[np.float32]
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.float32]]]:
        """Return labels as in `Samples` and the confidence in each pixel, 0..1, by kind.

        Each pixel gets the class of the nearest code word; its confidence is the margin to the
        second nearest. Confidence in normals falls with the deviation of their length from 1,
        confidence in depth with the change in the last denoising step.

        Args:
            channels: Whitened channels, (n, c, h, w).
            before: The same channels one denoising step earlier.
        """
        mean, std = (np.array(v, np.float32)[:, None, None] for v in (self.mean, self.std))
        labels: dict[str, NDArray[Any]] = {}
        confidence: dict[str, NDArray[np.float32]] = {}
        start = 0
        for kind in self.kinds:
            part = slice(start, start + self._width(kind))
            start = part.stop
            values, earlier = (x[:, part] * std[part] + mean[part] for x in (channels, before))
            if kind == "segmentation":
                labels[kind], confidence[kind] = self._nearest(values)
            elif kind == "depth":
                near, far = self.depth_m
                labels[kind] = np.clip(np.exp(values[:, 0]), near, far).astype(np.float32)
                change = np.abs(values - earlier)[:, 0]
                confidence[kind] = np.exp(-change / _DEPTH_SPREAD).astype(np.float32)
            else:
                length = np.linalg.norm(values, axis=1)
                labels[kind] = (values / np.maximum(length, 1e-6)[:, None]).astype(np.float32)
                confidence[kind] = np.clip(1 - np.abs(length - 1), 0, 1).astype(np.float32)
        return labels, confidence

    def _nearest(
        self, values: NDArray[np.float32]
    ) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
        n, bits, height, width = values.shape
        words = self.words
        # |v - w|^2 without the term |v|^2, which is the same for all words.
        distances = bits - 2 * np.einsum("nbhw,kb->nkhw", values, words, optimize=True)
        ids = distances.argmin(1).astype(np.uint8)
        if len(words) == 1:
            return ids, np.ones((n, height, width), np.float32)
        nearest = np.partition(distances, 1, axis=1)
        # Words that differ in two bits have a squared distance of 8.
        lead = (nearest[:, 1] - nearest[:, 0]) / 8
        return ids, np.clip(lead, 0, 1).astype(np.float32)

    def _channels(
        self, labels: Dense, size: Sequence[int]
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """Return finite channels before whitening and the mask of known values, (n, c, h, w)."""
        n = max((len(values) for values in labels.values()), default=1)
        parts, masks = [], []
        for kind in self.kinds:
            if kind not in labels:
                shape = (n, self._width(kind), *size)
                parts.append(np.zeros(shape, np.float32))
                masks.append(np.zeros(shape, np.bool_))
                continue
            values = labels[kind]
            check_labels(kind, values, len(self.class_names))
            if kind == "segmentation":
                known = values != VOID
                coded = np.moveaxis(self.words[np.where(known, values, 0)], -1, 1)
                known = known[:, None]
            elif kind == "depth":
                known = np.isfinite(values)[:, None]
                coded = np.log(np.where(known, values[:, None], 1))
            else:
                known = np.isfinite(values).all(1, keepdims=True)
                coded = np.where(known, values, 0)
            parts.append(coded.astype(np.float32))
            masks.append(np.broadcast_to(known, coded.shape))
        return np.concatenate(parts, axis=1), np.concatenate(masks, axis=1)

    def _width(self, kind: str) -> int:
        widths = {"segmentation": _n_bits(len(self.class_names)) + 1, "depth": 1, "normals": 3}
        return widths[kind]


class LabelGrid(Record):
    """Layout of label channels on the grid of a VAE's latents.

    Attributes:
        codes: Label codes.
        label_size: Height and width, pixels, of labels as in `Samples`.
        grid: Height and width of the latents.
        patch: Side of the square of label pixels that is folded onto one latent.
    """

    codes: LabelCodes
    label_size: tuple[int, int]
    grid: tuple[int, int]
    patch: int

    @classmethod
    def of(
        cls, codes: LabelCodes, label_size: tuple[int, int], size: tuple[int, int], scale: int
    ) -> Self:
        """Return the grid with the smallest patch that keeps every pixel of the labels.

        Args:
            codes: Label codes.
            label_size: Height and width, pixels; labels finer than the image are sampled at the
                resolution of the image.
            size: Height and width of the images, pixels.
            scale: Downsampling factor of the VAE.
        """
        height, width = size[0] // scale, size[1] // scale
        needed = max(-(-label_size[0] // height), -(-label_size[1] // width))
        return cls(
            codes=codes, label_size=label_size, grid=(height, width), patch=min(needed, scale)
        )

    @property
    def n_channels(self) -> int:
        """Total number of folded label channels."""
        return int(self.codes.n_channels * self.patch**2)

    def encode(self, labels: Dense) -> tuple[torch.Tensor, torch.Tensor]:
        """Return channels of about unit variance and their mask (1: known), (n, c, *grid) each.

        Args:
            labels: As in `Samples`; missing kinds are unknown.

        Raises:
            DataError: Class ids have no name, or depth values are not above 0.
        """
        values, known = self.codes.encode(labels, self.label_size)
        height, width = (side * self.patch for side in self.grid)
        both = torch.cat([torch.from_numpy(values), torch.from_numpy(known.astype(np.float32))])
        fine = interpolate(both, (height, width), mode="nearest-exact")
        channels, is_known = pixel_unshuffle(fine, self.patch).chunk(2)
        return channels, is_known

    def decode(
        self, channels: torch.Tensor, before: torch.Tensor
    ) -> tuple[dict[str, NDArray[Any]], dict[str, NDArray[np.float32]]]:
        """Return labels and confidence as `LabelCodes.decode` does.

        Args:
            channels: Folded label channels, (n, c, *grid).
            before: The same channels one denoising step earlier.
        """
        last, earlier = (
            interpolate(pixel_shuffle(x, self.patch), self.label_size, mode="nearest-exact")
            for x in (channels.float().cpu(), before.float().cpu())
        )
        return self.codes.decode(last.numpy(), earlier.numpy())


def check_labels(kind: str, values: NDArray[Any], n_classes: int, of: str = "") -> None:
    """Raise DataError for labels that cannot be encoded.

    Args:
        kind: Kind of the labels; normals are always valid.
        values: As in `Samples`, of one image or several.
        n_classes: Number of classes of the segmentation.
        of: Origin of the labels as a phrase of the message, e.g. " of the image 'a'".
    """
    if kind == "segmentation" and (wrong := values[(values >= n_classes) & (values != VOID)]).size:
        raise DataError(
            f"The segmentation{of} holds the class id {wrong.max()}, but there are {n_classes} "
            f"classes. Ids are 0 to {n_classes - 1}, or {VOID} for unknown."
        )
    if kind == "depth" and (wrong := values[np.isfinite(values) & (values <= 0)]).size:
        raise DataError(
            f"The depth{of} is {wrong.min():g} metres somewhere; it must be above 0, or NaN where "
            "it is unknown."
        )


def mirrored(labels: Dense, horizontal: bool, vertical: bool) -> dict[str, NDArray[Any]]:
    """Return the labels of one or several images after mirroring; arrays as in `Samples`.

    Normals are mirrored too: a horizontal flip negates x, a vertical flip y.
    """
    across = (slice(None, None, -1 if vertical else 1), slice(None, None, -1 if horizontal else 1))
    flipped: dict[str, NDArray[Any]] = {kind: v[(..., *across)] for kind, v in labels.items()}
    if "normals" in flipped:
        signs = [-1 if horizontal else 1, -1 if vertical else 1, 1]
        flipped["normals"] = flipped["normals"] * np.array(signs, np.float32)[:, None, None]
    return flipped


def _n_bits(n_classes: int) -> int:
    return max(1, (n_classes - 1).bit_length())
