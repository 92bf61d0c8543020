"""Labels of pixels as channels at the resolution of a VAE's latents, and back.

The channels of `label_codes` are folded by a pixel-unshuffle. Marigold (Ke et al. 2024) and LDM3D
(Stan et al. 2023) send labels through the VAE, as pictures; folding needs no picture of them, costs
nothing, and is exact, also for thin things, class ids and pixels of unknown labels.
"""

from __future__ import annotations

from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import interpolate, pixel_shuffle, pixel_unshuffle

from memory.records import Record
from tools.data.samples import Dense
from tools.diffusion.label_codes import LabelCodes


class LabelGrid(Record):
    """How labels lie on latents.

    codes: of the labels; label_size: height and width, pixels, of labels as in `Samples`; grid:
    height and width of the latents; patch: side of the square of pixels that lies on one of them.
    """

    codes: LabelCodes
    label_size: tuple[int, int]
    grid: tuple[int, int]
    patch: int

    @classmethod
    def of(
        cls, codes: LabelCodes, label_size: tuple[int, int], size: tuple[int, int], scale: int
    ) -> Self:
        """Return the coarsest grid that holds every pixel of the labels.

        size: height and width, pixels, of the pictures; scale: of their pixels on a latent's side.
        Labels that are finer than the picture are taken at the picture's pixels.
        """
        height, width = size[0] // scale, size[1] // scale
        needed = max(-(-label_size[0] // height), -(-label_size[1] // width))
        return cls(
            codes=codes, label_size=label_size, grid=(height, width), patch=min(needed, scale)
        )

    @property
    def n_channels(self) -> int:
        """Return the number of channels of all labels together."""
        return int(self.codes.n_channels * self.patch**2)

    def encode(self, labels: Dense) -> tuple[torch.Tensor, torch.Tensor]:
        """Return channels of about unit variance, (n, c, *grid), and 1 where known, else 0.

        labels: as in `Samples`, a kind that is missing is unknown. Raises DataError for class ids
        beyond the names.
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

        channels: (n, c, *grid); before: the same, one step of denoising earlier.
        """
        last, earlier = (
            interpolate(pixel_shuffle(x, self.patch), self.label_size, mode="nearest-exact")
            for x in (channels.float().cpu(), before.float().cpu())
        )
        return self.codes.decode(last.numpy(), earlier.numpy())
