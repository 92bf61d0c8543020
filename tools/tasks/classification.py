"""The task `classification`: one class per image.

The default model is a small convolutional net; `model` may also be the folder of any image
classifier of transformers, see `tools.models.transformers_folder`.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn.functional import cross_entropy

from eval.delivery import Figure, class_sums
from eval.metrics import classification_metrics
from eval.slices import Scores
from memory.records import Confusion, Estimate
from tools.data.samples import Images, Samples
from tools.models import transformers_folder
from tools.models.efficientnet import Lite0Classifier, load
from tools.models.transformers_folder import TransformersModel
from tools.settings import TrainSettings
from tools.tasks import Minibatch, Model, Task, pixel_batches

_PREDICT_BATCH = 128
_KIND = "an image classifier"


class ConvNet(Model):
    """A small CNN for images of 32 to 128 pixels: a strided stem and strided convolutions.

    The head receives the mean and the maximum of the last feature map.

    Args:
        image_shape: (channels, height, width).
        n_classes: Number of classes.
        channels: Channels of each layer; each layer halves the resolution.
    """

    def __init__(
        self,
        image_shape: Sequence[int],
        n_classes: int,
        channels: Sequence[int] = (16, 32, 64, 96),
    ) -> None:
        super().__init__()
        self.description = {
            "model": "convnet",
            "image_shape": list(image_shape),
            "n_classes": n_classes,
            "channels": list(channels),
        }
        layers = [_convolution(image_shape[0], channels[0], kernel=5, stride=2)]
        for before, width in itertools.pairwise(channels):
            layers.append(_convolution(before, width, stride=2))
        self.body = nn.Sequential(*layers)
        self.head = nn.Sequential(nn.Dropout(0.2), nn.Linear(2 * channels[-1], n_classes))
        # On CPUs training is a quarter faster with channels-last images.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, (n, n_classes)."""
        x = self.body(images - 0.5)
        logits: torch.Tensor = self.head(torch.cat([x.mean((2, 3)), x.amax((2, 3))], dim=1))
        return logits


class TransformersClassifier(TransformersModel):
    """An image classifier of transformers, see `TransformersModel`."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, (n, n_classes)."""
        logits: torch.Tensor = self.run_network(images).logits
        return logits


class Classification(Task):
    """Image classification, see `tools.tasks.Task`; labels are class indices, int64, (n,)."""

    name = "classification"
    needs: tuple[str, ...] = ()
    metric = "balanced_accuracy"

    def build_model(
        self, image_shape: tuple[int, int, int], n_classes: int, settings: TrainSettings
    ) -> Model:
        """Return `convnet`, `efficientnet_lite0` or the transformers classifier in a folder."""
        if settings.model == "convnet":
            return ConvNet(image_shape, n_classes)
        if settings.model == "efficientnet_lite0":
            return Lite0Classifier(n_classes, load().requires_grad_(True))
        folder = transformers_folder.folder_of(
            settings.model, ("convnet", "efficientnet_lite0"), _KIND
        )
        network = transformers_folder.with_new_head(
            _auto_class(), folder, _KIND, num_labels=n_classes
        )
        return TransformersClassifier(network, **transformers_folder.preprocessing(folder, network))

    def restore_model(self, description: Mapping[str, Any]) -> Model:
        """Return an untrained model of the described architecture."""
        parts = dict(description)
        kind = parts.pop("model")
        if kind == "convnet":
            return ConvNet(**parts)
        if kind == "efficientnet_lite0":
            return Lite0Classifier(**parts)
        return TransformersClassifier(
            transformers_folder.untrained(_auto_class(), parts.pop("config")), **parts
        )

    def labels(self, samples: Samples) -> torch.Tensor:
        """Return the class indices, int64, (n,)."""
        return torch.from_numpy(samples.classes)

    def augment(self, batch: Minibatch, generator: torch.Generator) -> Minibatch:
        """Mirror half of the images in each direction of the batch's flips.

        There are no shifts and no jitter, as position and brightness carry meaning: shifts by 4
            pixels with a jitter of 10% cost 0.03 balanced accuracy on the target elpv.
        """
        images = batch.images
        for axis in _mirrored_axes(batch.flips):
            flipped = torch.rand(len(images), 1, 1, 1, generator=generator) < 0.5
            images = torch.where(flipped.to(images.device), images.flip(axis), images)
        return Minibatch(images, batch.labels)

    def loss(
        self, outputs: torch.Tensor, batch: Minibatch, settings: TrainSettings
    ) -> torch.Tensor:
        """Return the cross-entropy of every image, (n,)."""
        return cross_entropy(
            outputs, batch.labels, label_smoothing=settings.label_smoothing, reduction="none"
        )

    @torch.inference_mode()
    def predict(self, model: Model, images: Images) -> NDArray[np.float64]:
        """Return class probabilities, (n, n_classes), averaged over the model's mirrored views."""
        device = next(model.eval().parameters()).device
        parts = []
        for x in pixel_batches(images, _PREDICT_BATCH, device):
            views = [x]
            for axis in _mirrored_axes(model.flips):
                views += [view.flip(axis) for view in views]
            mean = sum(model(view).double().softmax(1) for view in views) / len(views)
            parts.append(mean.cpu().numpy())
        return np.concatenate(parts)

    def scores(self, predictions: NDArray[Any], samples: Samples) -> NDArray[np.float64]:
        """Return 1 for each image whose most probable class is the true one, else 0, (n,)."""
        correct: NDArray[np.bool_] = predictions.argmax(1) == samples.classes
        return correct.astype(np.float64)

    def figures(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Mapping[str, Estimate], Scores]:
        """Return accuracy, balanced accuracy and AUROC, and whether each image is correct."""
        metrics = classification_metrics(samples.classes, predictions)
        return metrics, predictions.argmax(1) == samples.classes

    def tested(
        self, predictions: NDArray[Any], samples: Samples
    ) -> tuple[Scores, NDArray[Any] | None]:
        """Return whether each image is correct, and the probability of its true class."""
        true = predictions[np.arange(len(samples)), samples.classes]
        return predictions.argmax(1) == samples.classes, true

    def main_sums(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[NDArray[np.float64], Figure]:
        """Return per-image sufficient statistics of balanced accuracy, and the metric of sums.

        See `eval.delivery`.
        """
        return class_sums(self.scores(predictions, samples), samples.classes)

    def confusions(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Confusion, ...]:
        """Return the most frequent confusion of each class that has any, by descending rate."""
        n = len(class_names)
        cells = n * samples.classes + predictions.argmax(1)
        counts = np.bincount(cells, minlength=n * n).reshape(n, n)
        totals = counts.sum(1)
        np.fill_diagonal(counts, 0)
        confused = [
            Confusion(
                true=class_names[i],
                predicted=class_names[int(counts[i].argmax())],
                n=int(counts[i].max()),
                n_photographs=int(totals[i]),
            )
            for i in range(n)
            if counts[i].any()
        ]
        return tuple(sorted(confused, key=lambda one: -one.n / one.n_photographs))

    def pictures(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Images, list[str]]:
        """Return the images, with captions "TRUE CLASS as PREDICTED CLASS"."""
        captions = [
            f"{class_names[true]} as {class_names[predicted]}"
            for true, predicted in zip(samples.classes, predictions.argmax(1), strict=True)
        ]
        return samples.images, captions


def load_classifier(folder: Path) -> TransformersClassifier:
    """Load a classifier with its weights from safetensors; raises WeightsError on failure."""
    network = transformers_folder.load_whole(_auto_class(), folder, _KIND)
    return TransformersClassifier(network, **transformers_folder.preprocessing(folder, network))


def build() -> Classification:
    """Build the task."""
    return Classification()


def _mirrored_axes(flips: Sequence[str]) -> list[int]:
    """Return the axes of (n, c, h, w) that the flips reverse."""
    return [axis for axis, name in ((2, "vertical"), (3, "horizontal")) if name in flips]


def _convolution(before: int, after: int, kernel: int = 3, stride: int = 1) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(before, after, kernel, stride, kernel // 2, bias=False),
        nn.BatchNorm2d(after),
        nn.ReLU(inplace=True),
    )


def _auto_class() -> Any:
    import transformers

    return transformers.AutoModelForImageClassification
