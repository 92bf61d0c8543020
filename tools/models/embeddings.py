"""Image embeddings for discovery: of the DSTM, of the MTDM's denoiser, or of an ImageNet model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from eval.clusters import side_by_side
from memory.errors import SettingsError
from tools.data.samples import Images
from tools.tasks import Model

if TYPE_CHECKING:
    from tools.diffusion.pipeline import MTDMPipeline

Embed = Callable[[Images], NDArray[np.float64]]
"""Turns uint8 images, (n, c, h, w), into vectors, (n, d)."""

_BATCH = 64
# Diffusion step of 1,000 at which the denoiser looks at an image: little noise, but some.
_STEP = 50


def embed_by_dstm(model: Model) -> Embed:
    """Return the embedding by a DSTM: the input of its last layer, or its deepest activations.

    A model that labels pixels works at full resolution in its last layer, so of the U-Net the
    middle is taken; activations of maps are averaged over the image.
    """
    seen: list[torch.Tensor] = []
    middle = getattr(model, "middle", None)
    device = next(model.parameters()).device

    def look(pixels: torch.Tensor) -> torch.Tensor:
        if isinstance(middle, nn.Module):
            handle = middle.register_forward_hook(lambda _, __, output: seen.append(output))
        else:
            layer = last_layer(model)
            handle = layer.register_forward_hook(lambda _, inputs, __: seen.append(inputs[0]))
        try:
            model.eval()(pixels.to(device))
        finally:
            handle.remove()
        features = seen.pop()
        return features.mean((2, 3)) if features.ndim == 4 else features.flatten(1)

    return lambda images: _in_batches(images, look)


def embed_by_mtdm(pipeline: MTDMPipeline) -> Embed:
    """Return the embedding by an MTDM: its denoiser's lowest activations of a slightly noisy image.

    The prompt is empty and the noise the same for every image; mean and spread over the image.
    """
    noise = torch.randn(1, *pipeline.noise_shape, generator=torch.Generator().manual_seed(0))

    def look(pixels: torch.Tensor) -> torch.Tensor:
        seen: list[torch.Tensor] = []
        middle = pipeline.unet.mid_block
        handle = middle.register_forward_hook(lambda _, __, output: seen.append(output))
        try:
            pipeline.look(pixels, noise, _STEP)
        finally:
            handle.remove()
        features = seen.pop().float()
        return torch.cat([features.mean((2, 3)), features.std((2, 3))], dim=1)

    return lambda images: _in_batches(images, look)


def embed_by_imagenet(device: str = "cpu") -> Embed:
    """Return the embedding by the packaged EfficientNet-Lite0; raises WeightsError without it."""
    from tools.models.efficientnet import load

    network = load().to(device)
    return lambda images: _in_batches(images, lambda pixels: network(pixels.to(device)))


def embed_by_several(embeds: Sequence[Embed]) -> Embed:
    """Return several embeddings as one, to which each adds the same variance."""
    return lambda images: side_by_side([embed(images) for embed in embeds])


def last_layer(model: nn.Module) -> nn.Linear | nn.Conv2d:
    """Return the last linear layer or 1x1 convolution of a model; raises SettingsError for none."""
    found: Any = None
    for module in model.modules():
        if isinstance(module, nn.Linear) or (
            isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1
        ):
            found = module
    if found is None:
        raise SettingsError(
            f"{type(model).__name__} has neither a linear layer nor a 1x1 convolution to look at. "
            "Set feedback.embedding to imagenet or mtdm."
        )
    layer: nn.Linear | nn.Conv2d = found
    return layer


@torch.inference_mode()
def _in_batches(
    images: Images, look: Callable[[torch.Tensor], torch.Tensor]
) -> NDArray[np.float64]:
    parts = []
    for start in range(0, len(images), _BATCH):
        pixels = torch.from_numpy(images[start : start + _BATCH]).float() / 255
        parts.append(look(pixels).double().cpu().numpy())
    return np.concatenate(parts)
