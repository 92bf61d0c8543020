"""Channels of the MTDM: pixel-unshuffled images and coded labels, projected on a patch basis."""

from __future__ import annotations

from functools import cached_property

import torch
from diffusers import DiffusionPipeline
from torch.nn.functional import pixel_shuffle, pixel_unshuffle

from tools.data.samples import Dense
from tools.diffusion import patch_pca, sampler
from tools.diffusion.label_codes import LabelCodes
from tools.diffusion.sampler import Levels, per_channel


class PatchChannels(DiffusionPipeline):  # type: ignore[misc]
    """Conversions between images with labels and network channels; arguments: see `MTDMPipeline`.

    Folded channels, (n, c, h, w), are the pixel-unshuffled image and labels. Projected channels,
    (n, k, h, w), are their coefficients in the patch basis, which the network denoises.
    """

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one image, (channels, height, width)."""
        size = self.config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return (self.config.image_channels, height, width)

    @property
    def codes(self) -> LabelCodes:
        """Label codes, without kinds if the model draws images only."""
        return LabelCodes.model_validate(self.config.label_codes)

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Shape of the noise of one image and its labels, (c, height, width), before folding."""
        channels, height, width = self.image_shape
        return (channels + self.codes.n_channels, height, width)

    @property
    def n_image_channels(self) -> int:
        """Number of folded image channels; label channels follow them."""
        return int(self.config.image_channels * self.config.patch**2)

    @cached_property
    def _basis(self) -> torch.Tensor | None:
        rows = patch_pca.restored(self.config.basis)
        return None if rows is None else torch.from_numpy(rows)

    @cached_property
    def n_projected(self) -> tuple[int, int]:
        """Number of projected channels of the image and of the labels."""
        n = self.n_image_channels
        if self._basis is None:
            return n, self.unet.config.in_channels - n
        n_image = int((self._basis[:, :n] != 0).any(1).sum())
        return n_image, len(self._basis) - n_image

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Project folded channels, (n, c, h, w), on the basis, (n, k, h, w)."""
        return x if self._basis is None else _mix(self._basis.to(x), x)

    def reconstruct(self, projected: torch.Tensor) -> torch.Tensor:
        """Map projected channels back to folded ones; components outside the basis are lost."""
        return projected if self._basis is None else _mix(self._basis.T.to(projected), projected)

    def fold(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Convert pixels and coded labels to folded channels.

        Args:
            images: float in 0..1, (n, c, h, w).
            labels: Whitened channels of `codes`, (n, c, h, w). None: the model has no labels.
        """
        whitened = (images - self.config.mean) / self.config.std
        if labels is not None:
            whitened = torch.cat([whitened, labels], dim=1)
        return pixel_unshuffle(whitened, self.config.patch)

    def unfold(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Invert `fold`: return unclipped pixels and whitened label channels."""
        channels = self.config.image_channels
        flat = pixel_shuffle(x, self.config.patch)
        return flat[:, :channels] * self.config.std + self.config.mean, flat[:, channels:]

    def fold_unlabelled(self, pixels: torch.Tensor) -> torch.Tensor:
        """Fold images without labels, with label channels set to their mean, 0."""
        n_labels = self.codes.n_channels
        if not n_labels:
            return self.fold(pixels)
        return self.fold(pixels, pixels.new_zeros(len(pixels), n_labels, *pixels.shape[2:]))

    def levels(self, t: torch.Tensor) -> Levels:
        """Return the signal power of image and labels at the times `t`, see `sampler.levels_at`."""
        alphas = self.scheduler.alphas_cumprod
        return sampler.levels_at(alphas, t, self.config.label_noise_offset)

    def per_channel(self, levels: Levels) -> torch.Tensor:
        """Return the signal power of every folded channel, (n, c, 1, 1)."""
        n_labels = self.codes.n_channels * self.config.patch**2
        return per_channel(levels, (self.n_image_channels, n_labels))

    def projected_levels(self, t: torch.Tensor, levels: Levels | None = None) -> torch.Tensor:
        """Return the signal power of every projected channel, (n, k, 1, 1).

        Args:
            t: Times, int64, (n,).
            levels: Signal power of image and labels. None: that at the times `t`.
        """
        return per_channel(levels or self.levels(t), self.n_projected)

    def add_noise(self, x: torch.Tensor, noise: torch.Tensor, levels: Levels) -> torch.Tensor:
        """Add noise to folded channels, (n, c, h, w), up to the given levels."""
        return sampler.add_noise(x, noise, self.per_channel(levels).to(x))

    def decode_labels(self, clean: torch.Tensor, previous: torch.Tensor) -> tuple[Dense, Dense]:
        """Return labels and confidence of projected channels.

        Args:
            clean: Denoised estimate, (n, k, h, w).
            previous: Denoised estimate of the previous step, same shape.
        """
        labels, earlier = (
            self.unfold(self.reconstruct(part.float()))[1] for part in (clean, previous)
        )
        return self.codes.decode(labels.cpu().numpy(), earlier.cpu().numpy())

    def write_labels(self, x: torch.Tensor, labels: Dense) -> torch.Tensor:
        """Return `x` with its label channels replaced by the codes of `labels`."""
        values, _ = self.codes.encode(labels, self.image_shape[1:])
        whitened = torch.from_numpy(values).to(x)
        coded = self.project(self.fold(whitened.new_zeros(len(x), *self.image_shape), whitened))
        n_image = self.n_projected[0]
        return torch.cat([x[:, :n_image], coded[:, n_image:]], dim=1)


def _mix(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return linear combinations of channels, (n, k, h, w); weights: (k, c)."""
    # Same values as einsum in half the time.
    mixed: torch.Tensor = (weights @ x.flatten(2)).unflatten(2, x.shape[2:])
    return mixed
