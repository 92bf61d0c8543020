"""Channels of the MTDM: images with coded labels, folded, and projected on a basis of patches."""

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
    """A pipeline's channels in two forms, and their noise levels; its arguments: `MTDMPipeline`.

    Folded, (n, c, h, w), they are a pixel-unshuffle of image and labels; projected on the basis of
    patches, (n, k, h, w), they are what the network sees.
    """

    @property
    def image_shape(self) -> tuple[int, int, int]:
        """Shape of one image, (channels, height, width)."""
        size = self.config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        return (self.config.image_channels, height, width)

    @property
    def codes(self) -> LabelCodes:
        """How labels are coded; of no kind for a model that draws images alone."""
        return LabelCodes.model_validate(self.config.label_codes)

    @property
    def noise_shape(self) -> tuple[int, int, int]:
        """Shape of the noise of one image and its labels, (c, height, width), before folding."""
        channels, height, width = self.image_shape
        return (channels + self.codes.n_channels, height, width)

    @property
    def n_image_channels(self) -> int:
        """Number of folded channels that hold the image; those of labels follow."""
        return int(self.config.image_channels * self.config.patch**2)

    @cached_property
    def _basis(self) -> torch.Tensor | None:
        rows = patch_pca.restored(self.config.basis)
        return None if rows is None else torch.from_numpy(rows)

    @cached_property
    def n_projected(self) -> tuple[int, int]:
        """Return the number of projected channels of the image, and of labels."""
        n = self.n_image_channels
        if self._basis is None:
            return n, self.unet.config.in_channels - n
        n_image = int((self._basis[:, :n] != 0).any(1).sum())
        return n_image, len(self._basis) - n_image

    def project(self, x: torch.Tensor) -> torch.Tensor:
        """Return folded channels, (n, c, h, w), projected on the basis, (n, k, h, w)."""
        return x if self._basis is None else _mix(self._basis.to(x), x)

    def reconstruct(self, projected: torch.Tensor) -> torch.Tensor:
        """Invert `project`, but for what is outside of the basis."""
        return projected if self._basis is None else _mix(self._basis.T.to(projected), projected)

    def fold(self, images: torch.Tensor, labels: torch.Tensor | None = None) -> torch.Tensor:
        """Turn pixels and coded labels into folded channels.

        Args:
            images: float in 0..1, (n, c, h, w).
            labels: Whitened channels of `codes`, (n, c, h, w); None: a model without labels.
        """
        whitened = (images - self.config.mean) / self.config.std
        if labels is not None:
            whitened = torch.cat([whitened, labels], dim=1)
        return pixel_unshuffle(whitened, self.config.patch)

    def unfold(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Invert `fold`: pixels, not clipped, and whitened channels of labels."""
        channels = self.config.image_channels
        flat = pixel_shuffle(x, self.config.patch)
        return flat[:, :channels] * self.config.std + self.config.mean, flat[:, channels:]

    def fold_unlabelled(self, pixels: torch.Tensor) -> torch.Tensor:
        """Fold images without labels: the mean, 0, takes their place."""
        n_labels = self.codes.n_channels
        if not n_labels:
            return self.fold(pixels)
        return self.fold(pixels, pixels.new_zeros(len(pixels), n_labels, *pixels.shape[2:]))

    def levels(self, t: torch.Tensor) -> Levels:
        """Return the signal power of image and labels at times, see `sampler.levels_at`."""
        alphas = self.scheduler.alphas_cumprod
        return sampler.levels_at(alphas, t, self.config.label_noise_offset)

    def per_channel(self, levels: Levels) -> torch.Tensor:
        """Return the levels of every folded channel, (n, c, 1, 1)."""
        n_labels = self.codes.n_channels * self.config.patch**2
        return per_channel(levels, (self.n_image_channels, n_labels))

    def projected_levels(self, t: torch.Tensor, levels: Levels | None = None) -> torch.Tensor:
        """Return the levels of every projected channel at times, (n, k, 1, 1), or those given."""
        return per_channel(levels or self.levels(t), self.n_projected)

    def add_noise(self, x: torch.Tensor, noise: torch.Tensor, levels: Levels) -> torch.Tensor:
        """Return folded channels, (n, c, h, w), with noise as the levels say."""
        return sampler.add_noise(x, noise, self.per_channel(levels).to(x))

    def decode_labels(self, clean: torch.Tensor, previous: torch.Tensor) -> tuple[Dense, Dense]:
        """Return labels and confidence; previous: the estimate of one step earlier."""
        labels, earlier = (
            self.unfold(self.reconstruct(part.float()))[1] for part in (clean, previous)
        )
        return self.codes.decode(labels.cpu().numpy(), earlier.cpu().numpy())

    def write_labels(self, x: torch.Tensor, labels: Dense) -> torch.Tensor:
        """Return projected channels whose label channels hold the codes of `labels`."""
        values, _ = self.codes.encode(labels, self.image_shape[1:])
        whitened = torch.from_numpy(values).to(x)
        coded = self.project(self.fold(whitened.new_zeros(len(x), *self.image_shape), whitened))
        n_image = self.n_projected[0]
        return torch.cat([x[:, :n_image], coded[:, n_image:]], dim=1)


def _mix(weights: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
    """Return channels (k) that are sums of channels (c), (n, k, h, w); weights: (k, c)."""
    # The same numbers as einsum's, in half of the time.
    mixed: torch.Tensor = (weights @ x.flatten(2)).unflatten(2, x.shape[2:])
    return mixed
