"""The default model of tasks that label every pixel: a small U-Net."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

import torch
from torch import nn
from torch.nn.functional import interpolate

from tools.tasks import Model

_GROUP = 8


class UNet(Model):
    """A U-Net (Ronneberger et al. 2015) of about half a million parameters, for images of any size.

    GroupNorm, so that batches may be as small as one image.

    Args:
        channels: Of the images.
        n_outputs: Numbers per pixel.
        widths: Channels at full, half, quarter and eighth resolution, multiples of 8.
    """

    def __init__(
        self, channels: int, n_outputs: int, widths: Sequence[int] = (16, 32, 64, 128)
    ) -> None:
        super().__init__()
        self.description = {
            "model": "unet",
            "channels": channels,
            "n_outputs": n_outputs,
            "widths": list(widths),
        }
        self.stem = _convolution(channels, widths[0])
        self.down = nn.ModuleList(
            nn.Sequential(_convolution(before, after, stride=2), _convolution(after, after))
            for before, after in itertools.pairwise(widths)
        )
        self.middle = _convolution(widths[-1], widths[-1])
        upwards = list(itertools.pairwise(reversed(widths)))
        self.narrow = nn.ModuleList(nn.Conv2d(below, width, 1) for below, width in upwards)
        self.up = nn.ModuleList(_convolution(2 * width, width) for _, width in upwards)
        self.head = nn.Conv2d(widths[0], n_outputs, 1)
        # On CPUs a training is a quarter faster over channels-last images.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the outputs, (n, n_outputs, h, w)."""
        x = self.stem(2 * images - 1)
        skips = []
        for down in self.down:
            skips.append(x)
            x = down(x)
        x = self.middle(x)
        for narrow, up in zip(self.narrow, self.up, strict=True):
            skip = skips.pop()
            wide = interpolate(narrow(x), skip.shape[2:], mode="nearest")
            x = up(torch.cat([wide, skip], dim=1))
        outputs: torch.Tensor = self.head(x)
        return outputs


def _convolution(before: int, after: int, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, 3, stride, 1, bias=False),
        nn.GroupNorm(after // _GROUP, after),
        nn.SiLU(inplace=True),
    )
