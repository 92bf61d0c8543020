"""What the tasks that label every pixel share: models, augmentation, batches, pictures.

The model `unet` is our own; `model` may also be the folder of a transformers model that labels
pixels: with model.safetensors it starts from these weights, with config.json alone from random
ones. Code inside such a folder is never run.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import interpolate

from eval.dense import dense_failures
from memory.errors import DataError, SettingsError, WeightsError, unknown
from memory.records import Failure
from tools.samples import Images, Samples
from tools.tasks import Batch, Model, Task
from tools.tasks._unet import UNet
from tools.transformers_folder import load_whole

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
        return dense_failures(scores, samples.attributes, samples.ids, by, n_min, alpha)


class DenseTransformer(Model):
    """A model of transformers that labels pixels, behind the interface of a DSTM.

    network: the model; head: its kind; size: height and width that it wants, None for any; mean,
    std: per channel, of pixels in 0..1. Gray images are repeated to the network's channels, and
    outputs are scaled to the size of the images. What a depth estimator says is read as metres.
    """

    def __init__(
        self,
        network: nn.Module,
        head: Head,
        size: Sequence[int] | None,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.network = network
        config: Any = network.config
        self.description = {
            "model": "transformers",
            "head": head,
            "config": json.loads(config.to_json_string(use_diff=False)),
            "size": None if size is None else list(size),
            "mean": list(mean),
            "std": list(std),
        }
        self._of_depth = head == "depth estimation"
        self._n_channels = getattr(config, "num_channels", 3)
        self._size = None if size is None else tuple(size)
        self._mean: torch.Tensor
        self._std: torch.Tensor
        self.register_buffer("_mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, (n, n_outputs, h, w), or the logarithms of metres, (n, 1, h, w)."""
        x = images
        if self._size is not None and images.shape[2:] != self._size:
            x = interpolate(x, self._size, mode="bilinear", antialias=True)
        if x.shape[1] == 1:
            x = x.expand(-1, self._n_channels, -1, -1)
        found = self.network((x - self._mean) / self._std)
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
    folder = Path(settings.model).expanduser()
    if not (folder / "config.json").is_file():
        raise SettingsError(
            unknown("model", settings.model, ["unet"]) + " A folder with the config.json of a "
            f"transformers model for {head} can be given too."
        )
    return _load_transformers(folder, n_outputs, head)


def restore_model(description: Mapping[str, Any]) -> Model:
    """Return an untrained model of the described architecture."""
    parts = dict(description)
    if parts.pop("model") == "unet":
        return UNet(**parts)
    from transformers import AutoConfig

    config = AutoConfig.for_model(**parts.pop("config"))
    return DenseTransformer(_untrained(config, parts["head"]), **parts)


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
    return _with_processor(folder, network, head)


def _load_transformers(folder: Path, n_outputs: int, head: Head) -> DenseTransformer:
    from transformers import AutoConfig

    options: dict[str, Any] = {"local_files_only": True, "trust_remote_code": False}
    labels = {} if head == "depth estimation" else {"num_labels": n_outputs}
    try:
        config = AutoConfig.from_pretrained(folder, **labels, **options)
        if (folder / "model.safetensors").is_file():
            network = _auto_class(head).from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # the head has the classes of another task
                dtype=torch.float32,
                **options,
            )
        else:
            network = _untrained(config, head)
    except Exception as error:  # transformers and safetensors raise many types for a bad folder
        raise WeightsError(
            f"{folder} holds no model for {head} that transformers can load ({error}). Give a "
            "folder with a config.json and, for trained weights, a model.safetensors."
        ) from error
    return _with_processor(folder, network, head)


def _with_processor(folder: Path, network: Any, head: Head) -> DenseTransformer:
    """Return a network with the size and the normalisation that its folder asks for."""
    config = network.config
    path = folder / "preprocessor_config.json"
    processor = json.loads(path.read_bytes()) if path.is_file() else {}
    n_channels = getattr(config, "num_channels", 3)
    return DenseTransformer(
        network,
        head,
        _wanted_size(getattr(config, "image_size", None) or processor.get("size")),
        mean=processor.get("image_mean", [0.5] * n_channels),
        std=processor.get("image_std", [0.5] * n_channels),
    )


def _untrained(config: Any, head: Head) -> Any:
    return _auto_class(head).from_config(config, trust_remote_code=False)


def _auto_class(head: Head) -> Any:
    import transformers

    if head == "depth estimation":
        return transformers.AutoModelForDepthEstimation
    return transformers.AutoModelForSemanticSegmentation


def _wanted_size(size: Any) -> Sequence[int] | None:
    """Read the forms in which transformers writes a size; None when there is none."""
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        size = [edge, edge] if edge else [size["height"], size["width"]]
    return [size, size] if isinstance(size, int) else size
