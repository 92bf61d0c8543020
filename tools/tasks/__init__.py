"""Tasks of a DSTM, one file each; `build` finds them by name.

A task is stateless: it builds a model, defines labels and loss, and decodes predictions. The
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
    """Batch of a training step.

    Attributes:
        images: float32, (n, channels, height, width), 0..1.
        labels: Labels in the format of the task, (n, ...).
        weights: Loss weights of the images, (n,); None: all 1.
        flips: Directions in which images may be mirrored.
    """

    images: torch.Tensor
    labels: torch.Tensor
    weights: torch.Tensor | None = None
    flips: Sequence[str] = BOTH_FLIPS


@dataclass(frozen=True)
class Slicing:
    """Definition of the slices to measure.

    Attributes:
        by: Tuples of attributes whose value combinations are slices.
        n_min: Minimum number of images of a slice, at least 1.
        alpha: False discovery rate of failures, in 0..1.
    """

    by: Sequence[tuple[str, ...]] = ()
    n_min: int = 1
    alpha: float = 0.05


class Model(torch.nn.Module):
    """A DSTM, which maps images as in `Minibatch` to the outputs of its task.

    Attributes:
        description: JSON values from which the task's `restore_model` builds the same architecture.
        flips: Directions of the mirrored images it was trained on, over which `Task.predict` may
            average; both for models of earlier versions.
        caveat: Assumption made when building the model that its user should check; "" for none.
    """

    description: dict[str, Any]
    caveat: str = ""
    flips: tuple[str, ...] = BOTH_FLIPS


@runtime_checkable
class Task(Protocol):
    """A kind of downstream task. A task file has a function `build() -> Task`.

    Subclasses implement the methods without a body; reports and failures are derived from them.

    Attributes:
        name: Name of the file.
        needs: Kinds of pixel labels (`Samples.labels`) to learn from; () for image classes.
        metric: Name of its main metric; higher is better.
    """

    name: str
    needs: tuple[str, ...]
    metric: str

    def build_model(
        self, image_shape: tuple[int, int, int], n_classes: int, settings: TrainSettings
    ) -> Model:
        """Return a new model named by `settings.model`, initialised by torch's global generator."""

    def restore_model(self, description: Mapping[str, Any]) -> Model:
        """Return a model of a described architecture, without loading weights."""

    def labels(self, samples: Samples) -> torch.Tensor:
        """Return the targets of the loss, (n, ...)."""

    def augment(self, batch: Minibatch, generator: torch.Generator) -> Minibatch:
        """Return a randomly augmented batch, images together with their labels."""

    def loss(
        self, outputs: torch.Tensor, batch: Minibatch, settings: TrainSettings
    ) -> torch.Tensor:
        """Return the loss of every image, (n,)."""

    def predict(self, model: Model, images: Images) -> NDArray[Any]:
        """Return the predictions for uint8 images, (n, ...), computed on the model's device.

        Class probabilities of images; or class ids, metres or unit vectors of pixels, see
        `Samples`.
        """

    def scores(self, predictions: NDArray[Any], samples: Samples) -> NDArray[np.float64]:
        """Return the score of each image, 0..1, (n,), NaN if it has no known labels."""

    def figures(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Mapping[str, Estimate], Scores]:
        """Return the metrics of a report by name, and the score per image, see `eval.slices`."""

    def tested(
        self, predictions: NDArray[Any], samples: Samples
    ) -> tuple[Scores, NDArray[Any] | None]:
        """Return the scores that slices are tested by, and a sort key of examples; None: scores."""
        return self.scores(predictions, samples), None

    def confusions(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Confusion, ...]:
        """Return the most frequent confusion of each class."""
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
        """Return the task's metrics on a split, overall and by slice."""
        metrics, scores = self.figures(predictions, samples, class_names)
        by, n_min = slicing.by, slicing.n_min
        report = slice_report(metrics, scores, samples.attributes, by, n_min, round, split)
        confusions = self.confusions(predictions, samples, class_names)
        return report.model_copy(update={"confusions": confusions})

    def failures(
        self, predictions: NDArray[Any], samples: Samples, slicing: Slicing
    ) -> tuple[Failure, ...]:
        """Return the slices with lower scores than the rest, significant ones first."""
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
        """Return a picture and a caption of each sample that show the truth and the prediction."""


def pixel_batches(images: Images, size: int, device: Any = "cpu") -> Iterator[torch.Tensor]:
    """Yield uint8 images as float32 in 0..1, `size` at a time; one empty batch for none."""
    for start in range(0, max(1, len(images)), size):
        # A copy: decoded images may be read-only, for which from_numpy warns.
        yield torch.tensor(images[start : start + size]).to(device).float() / 255


def build(name: str) -> Task:
    """Build the task `name`, or the one at the dotted path `package.module:build`.

    Names joined by "+" build one multi-task model, see `tools.tasks.multi`.
    """
    from tools.plugins import load

    if "+" in name:
        joined: Task = load("tools.tasks", "multi", "Multi")(name.split("+"))
        return joined
    task: Task = load("tools.tasks", name)()
    return task
