"""What a DSTM learns. One file per task; `build` finds them by name.

A task is stateless: it says how a model is built, what it is compared with and how it predicts.
The training loop in `tools.train_dstm` is the same for all tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from memory.records import Failure, Report
from tools.data.samples import Images, Samples

if TYPE_CHECKING:
    from tools.settings import TrainSettings


@dataclass(frozen=True)
class Batch:
    """What one training step sees.

    images: float32, (n, channels, height, width), 0..1; labels: the task's own, (n, ...).
    """

    images: torch.Tensor
    labels: torch.Tensor


class Model(torch.nn.Module):
    """A DSTM: images as in `Batch` in, the task's outputs out.

    description: plain JSON from which the task's `restore_model` builds the same architecture.
    """

    description: dict[str, Any]


@runtime_checkable
class Task(Protocol):
    """A kind of downstream task. A task file has a function `build() -> Task`.

    needs: kinds of labels (`Samples.labels`) that it learns from, none for image classes; metric:
    its main figure, higher is better.
    """

    name: str
    needs: tuple[str, ...]
    metric: str

    def build_model(
        self, image_shape: tuple[int, int, int], n_classes: int, settings: TrainSettings
    ) -> Model:
        """Return a new model named by `settings.model`; draws from torch's global generator."""
        ...

    def restore_model(self, description: Mapping[str, Any]) -> Model:
        """Return a model of a described architecture, its weights not yet loaded."""
        ...

    def labels(self, samples: Samples) -> torch.Tensor:
        """Return what the loss compares the outputs with, (n, ...)."""
        ...

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return a random variant of every image together with its labels."""
        ...

    def loss(self, outputs: torch.Tensor, batch: Batch, settings: TrainSettings) -> torch.Tensor:
        """Return the loss of every image, (n,)."""
        ...

    def predict(self, model: Model, images: Images) -> NDArray[Any]:
        """Return what the model says of uint8 images, (n, ...), computed on its device.

        Class probabilities of images; ids, metres or unit vectors of pixels, see `Samples`.
        """
        ...

    def scores(self, predictions: NDArray[Any], samples: Samples) -> NDArray[np.float64]:
        """Return the score of each image, 0..1, (n,), NaN where nothing of it is known."""
        ...

    def report(
        self,
        predictions: NDArray[Any],
        samples: Samples,
        class_names: Sequence[str],
        round: int,  # noqa: A002 (the name of the record's field)
        split: str,
        by: Sequence[tuple[str, ...]],
        n_min: int,
    ) -> Report:
        """Return the task's figures on a split, overall and by slices of `n_min` images."""
        ...

    def failures(
        self,
        predictions: NDArray[Any],
        samples: Samples,
        by: Sequence[tuple[str, ...]],
        n_min: int,
        alpha: float,
    ) -> tuple[Failure, ...]:
        """Return the slices that are worse than the rest, significant ones first."""
        ...

    def pictures(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Images, list[str]]:
        """Return a picture and a caption of each sample: what is true, what was predicted."""
        ...


def build(name: str) -> Task:
    """Build the task `name`, or the one at the dotted path `package.module:build`.

    Names joined by "+" are learned together by one model, see `tools.tasks.multi`.
    """
    from tools.plugins import load

    if "+" in name:
        several: Task = load("tools.tasks", "multi", "Multi")(name.split("+"))
        return several
    task: Task = load("tools.tasks", name)()
    return task
