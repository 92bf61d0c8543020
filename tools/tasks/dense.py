"""What the tasks that label every pixel share: models, augmentation, batches, pictures.

The model `unet` is our own; `model` may also be the folder of a transformers model that labels
pixels, see `tools.tasks._transformers`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import interpolate

from eval.slices import failing_slices
from memory.errors import DataError
from memory.records import Failure
from tools.data.samples import Images, Samples
from tools.models.transformers_folder import load_whole
from tools.tasks import Batch, Model, Task
from tools.tasks._transformers import (
    TransformersModel,
    folder_of,
    untrained,
    wishes,
    with_new_head,
)
from tools.tasks._unet import UNet

if TYPE_CHECKING:
    from tools.settings import TrainSettings

Head = Literal["semantic segmentation", "depth estimation"]

_PREDICT_BATCH = 64
# What a depth estimator says is at least this.
LEAST_M = 1e-3


@runtime_checkable
class DenseTask(Task, Protocol):
    """A task whose labels belong to pixels, and that can share a model with others of its kind.

    n_outputs: numbers per pixel that the model says, and that a label has; None: logits of
    classes, and one class id.
    """

    n_outputs: int | None

    def decode(self, outputs: torch.Tensor) -> NDArray[Any]:
        """Return what `predict` returns, of a model's outputs, (n, n_outputs, h, w)."""
        ...


class FailuresByScore(ABC):
    """Gives a task of pixels its failures: the slices with a lower mean score than the rest."""

    @abstractmethod
    def scores(self, predictions: NDArray[Any], samples: Samples) -> NDArray[np.float64]:
        """Return each image's score, (n,), NaN where it has none."""

    def failures(
        self,
        predictions: NDArray[Any],
        samples: Samples,
        by: Sequence[tuple[str, ...]],
        n_min: int,
        alpha: float,
    ) -> tuple[Failure, ...]:
        """Return the slices whose mean score is lower than that of the rest."""
        scores = self.scores(predictions, samples)
        return failing_slices(scores, samples.attributes, samples.ids, by, n_min, alpha)


class DenseTransformer(TransformersModel):
    """A model of transformers that labels pixels, see `TransformersModel`.

    head: its kind. Outputs are scaled to the size of the images. What a depth estimator says is
    read as metres.
    """

    def __init__(
        self,
        network: nn.Module,
        head: Head,
        size: Sequence[int] | None,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__(network, size, mean, std)
        self.description["head"] = head
        self._of_depth = head == "depth estimation"

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, (n, n_outputs, h, w), or the logarithms of metres, (n, 1, h, w)."""
        found = self.see(images)
        outputs: torch.Tensor
        if self._of_depth:
            outputs = found.predicted_depth[:, None].clamp(min=LEAST_M).log()
        else:
            outputs = found.logits
        return interpolate(outputs, images.shape[2:], mode="bilinear", align_corners=False)


def build_model(
    image_shape: tuple[int, int, int], n_outputs: int, settings: TrainSettings, head: Head
) -> Model:
    """Return the net `unet` or the transformers model in the folder that `settings.model` names."""
    if settings.model == "unet":
        return UNet(image_shape[0], n_outputs)
    kind = f"a model for {head}"
    folder = folder_of(settings.model, "unet", kind)
    labels = {} if head == "depth estimation" else {"num_labels": n_outputs}
    network = with_new_head(_auto_class(head), folder, kind, **labels)
    return DenseTransformer(network, head, **wishes(folder, network))


def restore_model(description: Mapping[str, Any]) -> Model:
    """Return an untrained model of the described architecture."""
    parts = dict(description)
    if parts.pop("model") == "unet":
        return UNet(**parts)
    network = untrained(_auto_class(parts["head"]), parts.pop("config"))
    return DenseTransformer(network, **parts)


def labels_of(samples: Samples, kind: str) -> torch.Tensor:
    """Return one kind of the samples' labels; raises DataError when they have none of it."""
    if kind not in samples.labels:
        raise DataError(
            f"The images have no labels {kind!r} (there are: "
            f"{', '.join(samples.labels) or 'none'}). Choose a target and a generator that have "
            "them, or another task."
        )
    return torch.from_numpy(samples.labels[kind])


def augment(
    batch: Batch, generator: torch.Generator, mirror: Callable[[torch.Tensor], torch.Tensor]
) -> Batch:
    """Mirror half of the images left to right; change brightness, contrast and noise of all.

    mirror: does the same to labels. Brightness and contrast change by up to 20%; the noise has a
    standard deviation of up to 0.02. Labels stay sharp: nothing is turned, scaled or shifted.
    """
    images, labels = batch.images, batch.labels

    def uniform(low: float, high: float) -> torch.Tensor:
        drawn = torch.rand(len(images), 1, 1, 1, generator=generator)
        return (low + (high - low) * drawn).to(images.device)

    mirrored = uniform(0, 1) < 0.5
    images = torch.where(mirrored, images.flip(-1), images)
    labels = torch.where(mirrored.view(-1, *[1] * (labels.ndim - 1)), mirror(labels), labels)
    middle = images.mean((1, 2, 3), keepdim=True)
    images = (middle + (images - middle) * uniform(0.8, 1.2)) * uniform(0.8, 1.2)
    noise = torch.randn(images.shape, generator=generator).to(images.device)
    return Batch((images + noise * uniform(0, 0.02)).clamp(0, 1), labels)


def mean_over_known(values: torch.Tensor, known: torch.Tensor) -> torch.Tensor:
    """Return each image's mean over its known pixels, (n,), 0 where none is known.

    values: (n, h, w), finite everywhere; known: bool, of the same shape.
    """
    return (values * known).sum((1, 2)) / known.sum((1, 2)).clamp(min=1)


@torch.inference_mode()
def outputs_of(model: Model, images: Images) -> Iterator[torch.Tensor]:
    """Yield the outputs for uint8 images batch by batch; one empty batch if there is no image."""
    model.eval()
    device = next(model.parameters()).device
    for start in range(0, max(1, len(images)), _PREDICT_BATCH):
        pixels = torch.from_numpy(images[start : start + _PREDICT_BATCH]).to(device)
        yield model(pixels.float() / 255)


def load_trained(folder: Path, head: Head) -> DenseTransformer:
    """Load a model with all of its weights, from safetensors; raises WeightsError otherwise."""
    network = load_whole(
        _auto_class(head),
        folder,
        unusable=lambda error: (
            f"{folder} holds no model for {head} that transformers can load ({error}). Give a "
            "folder with the config.json and the model.safetensors of one."
        ),
        partial=lambda n, first: (
            f"{folder} lacks {n} weights of a model for {head}, e.g. {first}. Give the folder of a "
            "model that was trained for it."
        ),
    )
    return DenseTransformer(network, head, **wishes(folder, network))


def _auto_class(head: Head) -> Any:
    import transformers

    if head == "depth estimation":
        return transformers.AutoModelForDepthEstimation
    return transformers.AutoModelForSemanticSegmentation
