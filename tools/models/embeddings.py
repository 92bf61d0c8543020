"""Image embeddings for discovery, by the DSTM or by an ImageNet model."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from eval.clusters import join_embeddings
from memory.errors import SettingsError
from tools.data.samples import Images
from tools.tasks import Model, pixel_batches

Embed = Callable[[Images], NDArray[np.float64]]
"""Maps uint8 images, (n, c, h, w), to vectors, (n, d)."""

_BATCH = 64


@contextmanager
def recorded(layers: Iterable[nn.Module], inputs: bool = False) -> Iterator[list[torch.Tensor]]:
    """Collect the outputs, or first inputs, of layers in all calls within the context."""
    tensors: list[torch.Tensor] = []

    def record(_: nn.Module, given: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        tensors.append(given[0] if inputs else output)

    handles = [layer.register_forward_hook(record) for layer in layers]
    try:
        yield tensors
    finally:
        for handle in handles:
            handle.remove()


def embed_by_dstm(model: Model) -> Embed:
    """Return the embedding by a DSTM: the input of its last layer, or its deepest activations.

    The last layer of a U-Net has full resolution, so its deepest block is used instead. Feature
    maps are averaged over the image.
    """
    middle = getattr(model, "middle", None)
    is_unet = isinstance(middle, nn.Module)
    device = next(model.parameters()).device

    def features_of(pixels: torch.Tensor) -> torch.Tensor:
        layer = middle if isinstance(middle, nn.Module) else last_layer(model)
        with recorded([layer], inputs=not is_unet) as tensors:
            model.eval()(pixels.to(device))
        features = tensors.pop()
        return features.mean((2, 3)) if features.ndim == 4 else features.flatten(1)

    return lambda images: _in_batches(images, features_of)


def embed_by_imagenet(device: str = "cpu") -> Embed:
    """Return the embedding by the packaged EfficientNet-Lite0; raise WeightsError if missing."""
    from tools.models.efficientnet import load

    network = load().to(device)
    return lambda images: _in_batches(images, lambda pixels: network(pixels.to(device)))


def embed_by_several(embeds: Sequence[Embed]) -> Embed:
    """Return the concatenation of several embeddings, scaled to equal variance."""
    return lambda images: join_embeddings([embed(images) for embed in embeds])


def last_layer(model: nn.Module) -> nn.Linear | nn.Conv2d:
    """Return the last linear layer or 1x1 convolution of a model; raise SettingsError if none."""
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.Linear)
        or (isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1) and module.groups == 1)
    ]
    if not layers:
        raise SettingsError(
            f"{type(model).__name__} has neither a linear layer nor a 1x1 convolution. Set "
            "feedback.embedding=imagenet."
        )
    return layers[-1]


def new_layers(model: Model) -> nn.Module:
    """Return the part of a model without pretrained weights: its decoder, else its last layer."""
    decoder = getattr(model, "decoder", None)
    return decoder if isinstance(decoder, nn.Module) else last_layer(model)


@torch.inference_mode()
def _in_batches(
    images: Images, features_of: Callable[[torch.Tensor], torch.Tensor]
) -> NDArray[np.float64]:
    parts = [features_of(pixels).double() for pixels in pixel_batches(images, _BATCH)]
    return np.concatenate([part.cpu().numpy() for part in parts])
