"""Shared parts of the pixel-wise tasks: models, augmentation, prediction.

The model `unet` is this package's own, `efficientnet_lite0` a U-Net with ImageNet weights; `model`
may also be the folder of a pixel-wise transformers model, see `tools.models.transformers_folder`.
"""

from __future__ import annotations

import itertools
from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import interpolate

from memory.errors import DataError
from tools.data.samples import Images, Samples
from tools.models import transformers_folder
from tools.models.efficientnet import Lite0UNet, load
from tools.models.transformers_folder import TransformersModel
from tools.settings import TrainSettings
from tools.tasks import Minibatch, Model, Task, pixel_batches

Head = Literal["semantic segmentation", "depth estimation"]

# Models selected by name; others are folders.
OWN_MODELS = ("unet", "efficientnet_lite0")
_PREDICT_BATCH = 64
# Minimum output of a depth estimator.
LEAST_M = 1e-3
# Channels per group of the U-Net's GroupNorm.
_GROUP = 8


class UNet(Model):
    """A U-Net (Ronneberger et al. 2015) of about half a million parameters, for images of any size.

    GroupNorm allows batches of a single image.

    Args:
        channels: Channels of the images.
        n_outputs: Number of outputs per pixel.
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
        # On CPUs training is a quarter faster with channels-last images.
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


class DenseTask(Task):
    """Base class of pixel-wise tasks; see `tools.tasks.Task`.

    Attributes:
        name: Name of the task and, if it has one kind of labels, of that kind.
        n_outputs: Number of outputs and of label values per pixel; None: class logits, and one
            class id; 0: determined by several parts.
        head: Kind of transformers model that the task uses.
    """

    name: str
    needs: tuple[str, ...]
    metric: str
    n_outputs: int | None
    head: Head = "semantic segmentation"

    def build_model(
        self, image_shape: tuple[int, int, int], n_classes: int, settings: TrainSettings
    ) -> Model:
        """Return `unet`, `efficientnet_lite0` or the transformers model in a folder.

        Its outputs are (n, n_outputs or n_classes, h, w).
        """
        n_outputs = self.n_outputs or n_classes
        if settings.model == "unet":
            return UNet(image_shape[0], n_outputs)
        if settings.model == "efficientnet_lite0":
            return Lite0UNet(n_outputs, load().requires_grad_(True))
        kind = f"a model for {self.head}"
        folder = transformers_folder.folder_of(settings.model, OWN_MODELS, kind)
        labels = {} if self.head == "depth estimation" else {"num_labels": n_outputs}
        network = transformers_folder.with_new_head(_auto_class(self.head), folder, kind, **labels)
        return DenseTransformer(
            network, self.head, **transformers_folder.preprocessing(folder, network)
        )

    def restore_model(self, description: Mapping[str, Any]) -> Model:
        """Return an untrained model of the described architecture."""
        parts = dict(description)
        kind = parts.pop("model")
        if kind == "unet":
            return UNet(**parts)
        if kind == "efficientnet_lite0":
            return Lite0UNet(**parts)
        network = transformers_folder.untrained(_auto_class(parts["head"]), parts.pop("config"))
        return DenseTransformer(network, **parts)

    def labels(self, samples: Samples) -> torch.Tensor:
        """Return the labels as in `Samples`; raises DataError if the samples have none."""
        kind = self.needs[0]
        if kind not in samples.labels:
            raise DataError(
                f"The images have no labels {kind!r} (there are: "
                f"{', '.join(samples.labels) or 'none'}). Choose a target and a generator that "
                "have them, or another task."
            )
        return torch.from_numpy(samples.labels[kind])

    def mirror(self, labels: torch.Tensor) -> torch.Tensor:
        """Return labels mirrored left to right."""
        return labels.flip(-1)

    def augment(self, batch: Minibatch, generator: torch.Generator) -> Minibatch:
        """Mirror half of the images left to right; change brightness, contrast and noise of all.

        Images are mirrored only if the batch's flips contain "horizontal". Brightness and contrast
        change by up to 20%; the noise has a standard deviation of up to 0.02. There is no rotation,
        scaling or shift, which would blur labels.
        """
        images, labels = batch.images, batch.labels

        def uniform(low: float, high: float) -> torch.Tensor:
            values = torch.rand(len(images), 1, 1, 1, generator=generator)
            return (low + (high - low) * values).to(images.device)

        flipped = (uniform(0, 1) < 0.5) & ("horizontal" in batch.flips)
        images = torch.where(flipped, images.flip(-1), images)
        which = flipped.view(-1, *[1] * (labels.ndim - 1))
        labels = torch.where(which, self.mirror(labels), labels)
        middle = images.mean((1, 2, 3), keepdim=True)
        images = (middle + (images - middle) * uniform(0.8, 1.2)) * uniform(0.8, 1.2)
        noise = torch.randn(images.shape, generator=generator).to(images.device)
        return Minibatch((images + noise * uniform(0, 0.02)).clamp(0, 1), labels)

    def predict(self, model: Model, images: Images) -> NDArray[Any]:
        """Return the decoded predictions for uint8 images, (n, ...)."""
        return np.concatenate([self.decode(part) for part in outputs_of(model, images)])

    @abstractmethod
    def decode(self, outputs: torch.Tensor) -> NDArray[Any]:
        """Convert a model's outputs, (n, n_outputs, h, w), to labels as in `Samples`."""


class DenseTransformer(TransformersModel):
    """A pixel-wise transformers model, see `TransformersModel`.

    Outputs are scaled to the size of the images; those of a depth estimator are taken as metres.

    Args:
        network: The model.
        head: Kind of the model.
        **preprocessing: See `TransformersModel`.
    """

    def __init__(self, network: nn.Module, head: Head, **preprocessing: Any) -> None:
        super().__init__(network, **preprocessing)
        self.description["head"] = head
        self._is_depth = head == "depth estimation"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, (n, n_outputs, h, w), or the logarithms of metres, (n, 1, h, w)."""
        result = self.run_network(images)
        outputs: torch.Tensor
        if self._is_depth:
            outputs = result.predicted_depth[:, None].clamp(min=LEAST_M).log()
        else:
            outputs = result.logits
        return interpolate(outputs, images.shape[2:], mode="bilinear", align_corners=False)


def load_trained(folder: Path, head: Head) -> DenseTransformer:
    """Load a model with all of its weights from safetensors; raises WeightsError on failure."""
    network = transformers_folder.load_whole(_auto_class(head), folder, f"a model for {head}")
    return DenseTransformer(network, head, **transformers_folder.preprocessing(folder, network))


def mean_over_known(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return each image's mean over its known pixels, (n,), 0 if none is known.

    Args:
        values: (n, h, w), finite everywhere.
        known: Mask of known pixels, of the same shape.
    """
    return (values * known).sum((1, 2)) / known.sum((1, 2)).clamp(min=1)


@torch.inference_mode()
def outputs_of(model: Model, images: Images) -> Iterator[torch.Tensor]:
    """Yield the outputs for uint8 images in batches; one empty batch if there are none."""
    device = next(model.eval().parameters()).device
    for pixels in pixel_batches(images, _PREDICT_BATCH, device):
        yield model(pixels)


def _auto_class(head: Head) -> Any:
    import transformers

    if head == "depth estimation":
        return transformers.AutoModelForDepthEstimation
    return transformers.AutoModelForSemanticSegmentation
