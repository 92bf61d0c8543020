"""What a DSTM learns. One file per task; `build` finds them by name.

A task is stateless: it builds a model, gives its labels and loss, and reads its predictions. The
training loop in `tools.train_dstm` is the same for all tasks.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray

from eval.slices import Scores, failing_slices, slice_report
from memory.records import Confusion, Estimate, Failure, Report
from tools.data.samples import Images, Samples
from tools.settings import BOTH_FLIPS, TrainSettings


@dataclass(frozen=True)
class Minibatch:
    """What one training step sees.

    Attributes:
        images: float32, (n, channels, height, width), 0..1.
        labels: The task's own, (n, ...).
        weights: Of the images in the loss, (n,); None: all 1.
        flips: Directions in which an image may be mirrored.
    """

    images: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor | None = None
    flips: Sequence[str] = BOTH_FLIPS


@dataclass(frozen=True)
class Slicing:
    """Which slices are measured.

    Attributes:
        by: Attributes whose combinations are slices.
        n_min: Images that a slice needs, at least 1.
        alpha: False discovery rate of failures, 0..1.
    """

    by: Sequence[tuple[str, ...]] = ()
    n_min: int = 1
    alpha: float = 0.05


class Model(torch.nn.Module):
    """A DSTM: images as in `Minibatch` in, the task's outputs out.

    Attributes:
        description: Plain JSON from which the task's `restore_model` builds the same architecture.
        flips: Directions in which it was trained on mirrored images, over which `Task.predict` may
            average; of models of earlier versions, both.
        caveat: What was assumed to build it and may be wrong, for its user; "" for nothing.
    """

    description: dict[str, Any]
    caveat: str = ""
    flips: tuple[str, ...] = BOTH_FLIPS


@runtime_checkable
class Task(Protocol):
    """A kind of downstream task. A task file has a function `build() -> Task`.

    Subclasses define what has no body here; reports and failures follow from figures and scores.

    Attributes:
        name: Of the file.
        needs: Kinds of labels (`Samples.labels`) that it learns from, none for image classes.
        metric: Its main figure, higher is better.
    """

    name: str
    needs: tuple[str, ...]
    metric: str

    def build_model(
        self, image_shape: tuple[int, int, int], n_classes: int, settings: TrainSettings
    ) -> Model:
        """Return a new model named by `settings.model`; draws from torch's global generator."""

    def restore_model(self, description: Mapping[str, Any]) -> Model:
        """Return a model of a described architecture, its weights not yet loaded."""

    def labels(self, samples: Samples) -> torch.Tensor:
        """Return what the loss compares the outputs with, (n, ...)."""

    def augment(self, batch: Minibatch, generator: torch.Generator) -> Minibatch:
        """Return a random variant of every image together with its labels."""

    def loss(
        self, outputs: torch.Tensor, batch: Minibatch, settings: TrainSettings
    ) -> torch.Tensor:
        """Return the loss of every image, (n,)."""

    def predict(self, model: Model, images: Images) -> NDArray[Any]:
        """Return the predictions for uint8 images, (n, ...), computed on the model's device.

        Class probabilities of images; ids, metres or unit vectors of pixels, see `Samples`.
        """

    def scores(self, predictions: NDArray[Any], samples: Samples) -> NDArray[np.float64]:
        """Return the score of each image, 0..1, (n,), NaN where nothing of it is known."""

    def figures(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Mapping[str, Estimate], Scores]:
        """Return the figures of a report by name, and each image's score, see `eval.slices`."""

    def tested(
        self, predictions: NDArray[Any], samples: Samples
    ) -> tuple[Scores, NDArray[Any] | None]:
        """Return the scores that slices are tested by, and what examples are sorted by, if else."""
        return self.scores(predictions, samples), None

    def confusions(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Confusion, ...]:
        """Return what the photographs of each class are most often taken for."""
        return ()

    def report(
        self,
        predictions: NDArray[Any],
        samples: Samples,
        class_names: Sequence[str],
        round: int,  # noqa: A002 (the name of the record's field)
        split: str,
        slicing: Slicing,
    ) -> Report:
        """Return the task's figures on a split, overall and by slices."""
        metrics, scores = self.figures(predictions, samples, class_names)
        by, n_min = slicing.by, slicing.n_min
        report = slice_report(metrics, scores, samples.attributes, by, n_min, round, split)
        confusions = self.confusions(predictions, samples, class_names)
        return report.model_copy(update={"confusions": confusions})

    def failures(
        self, predictions: NDArray[Any], samples: Samples, slicing: Slicing
    ) -> tuple[Failure, ...]:
        """Return the slices that are worse than the rest, significant ones first."""
        scores, confidence = self.tested(predictions, samples)
        return failing_slices(
            scores,
            samples.attributes,
            samples.ids,
            slicing.by,
            slicing.n_min,
            slicing.alpha,
            confidence=confidence,
            groups=samples.groups or None,
        )

    def pictures(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Images, list[str]]:
        """Return a picture and a caption of each sample: the truth and the prediction."""


def pixel_batches(images: Images, size: int, device: Any = "cpu") -> Iterator[torch.Tensor]:
    """Yield uint8 images as float32 in 0..1, `size` at a time; one empty batch for no image."""
    for start in range(0, max(1, len(images)), size):
        # A copy: an image that was just decoded cannot be written, of which from_numpy warns.
        yield torch.tensor(images[start : start + size]).to(device).float() / 255


def build(name: str) -> Task:
    """Build the task `name`, or the one at the dotted path `package.module:build`.

    Names joined by "+" are learned together by one model, see `tools.tasks.multi`.
    """
    from tools.plugins import load

    if "+" in name:
        joined: Task = load("tools.tasks", "multi", "Multi")(name.split("+"))
        return joined
    task: Task = load("tools.tasks", name)()
    return task
