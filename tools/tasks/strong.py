"""Strong augmentation in the style of RandAugment (Cubuk et al. 2020), in plain torch.

All changes are sampled independently for each image.
"""

from __future__ import annotations

import math

import torch
from torch.nn.functional import affine_grid, grid_sample

from tools.tasks import Minibatch

# Maximum change of each kind: degrees, share of the size, factor, standard deviation, side.
ROTATION, SHIFT, SCALE = 15.0, 0.1, 0.15
BRIGHTNESS, CONTRAST, NOISE = 0.4, 0.4, 0.05
ERASED = 0.35


def augment(batch: Minibatch, generator: torch.Generator, moves: bool) -> Minibatch:
    """Change brightness, contrast and noise of images; optionally move, turn, scale and erase.

    Args:
        batch: Images with labels, which are not changed.
        generator: Random generator on the CPU.
        moves: Whether to also move and erase, which is not valid for pixel labels.
    """
    images = batch.images
    n, _, height, width = images.shape

    def uniform(most: float, middle: float = 0.0) -> torch.Tensor:
        values = torch.rand(n, 1, 1, 1, generator=generator) * 2 - 1
        return (middle + most * values).to(images.device)

    if moves:
        angle, scale = uniform(ROTATION * math.pi / 180), uniform(SCALE, 1)
        cosine, sine = angle.cos() * scale, angle.sin() * scale
        across, down = uniform(2 * SHIFT), uniform(2 * SHIFT)
        rows = [torch.cat([cosine, -sine, across], 3), torch.cat([sine, cosine, down], 3)]
        grid = affine_grid(torch.cat(rows, 2)[:, 0], list(images.shape), align_corners=False)
        images = grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    middle = images.mean((1, 2, 3), keepdim=True)
    images = (middle + (images - middle) * uniform(CONTRAST, 1)) * uniform(BRIGHTNESS, 1)
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    images = images + noise * uniform(NOISE).abs()
    if moves:
        y = torch.linspace(-1, 1, height, device=images.device).view(1, 1, -1, 1)
        x = torch.linspace(-1, 1, width, device=images.device).view(1, 1, 1, -1)
        inside = [
            (axis_values - uniform(1)).abs() < uniform(ERASED).abs() for axis_values in (y, x)
        ]
        images = torch.where(inside[0] & inside[1], middle, images)
    return Minibatch(images.clamp(0, 1), batch.labels, batch.weights)
