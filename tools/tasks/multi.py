"""Multi-task learning of pixel labels by one model with a head per task.

The task `multi` is segmentation, depth and normals; names like `segmentation+depth` select parts.
The model is `unet`, or the folder of a transformers model for semantic segmentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray

from eval.slices import mean_score
from memory.errors import SettingsError
from memory.records import Estimate
from tools import tasks
from tools.data.samples import KINDS, Images, Samples
from tools.settings import TrainSettings
from tools.tasks import Minibatch, Model
from tools.tasks.dense import DenseTask


class Multi(DenseTask):
    """Stacks the labels and predictions of its parts.

    Both are float32, (n, c, h, w), in the order of the parts; a class id and metres have one
    channel, a normal has three. The score of an image is the mean of its scores in the parts.
    """

    metric = "mean_score"
    n_outputs: int | None = 0

    def __init__(self, names: Sequence[str]) -> None:
        self.parts = [_part(name) for name in names]
        self.name = "multi" if tuple(names) == KINDS else "+".join(names)
        self.needs = tuple(kind for part in self.parts for kind in part.needs)

    def build_model(
        self, image_shape: tuple[int, int, int], n_classes: int, settings: TrainSettings
    ) -> Model:
        """Return a model whose outputs are the stacked outputs of the parts' models."""
        n_outputs = sum(part.n_outputs or n_classes for part in self.parts)
        return super().build_model(image_shape, n_outputs, settings)

    def labels(self, samples: Samples) -> torch.Tensor:
        """Return the stacked labels of the parts, NaN or VOID where unknown.

        Raises:
            DataError: The samples lack a kind of labels.
        """
        return torch.cat([_with_channels(part.labels(samples)) for part in self.parts], dim=1)

    def mirror(self, labels: torch.Tensor) -> torch.Tensor:
        """Return labels mirrored left to right; the x component of normals changes sign."""
        signs = [s for name in self.needs for s in ((-1, 1, 1) if name == "normals" else (1,))]
        factors = torch.tensor(signs, dtype=torch.float32, device=labels.device)
        return labels.flip(-1) * factors.view(-1, 1, 1)

    def loss(
        self, outputs: torch.Tensor, batch: Minibatch, settings: TrainSettings
    ) -> torch.Tensor:
        """Return the sum of the parts' losses, (n,); unknown labels contribute 0."""
        losses = [
            part.loss(predicted, Minibatch(batch.images, true), settings)
            for part, predicted, true in zip(
                self.parts, self.split_outputs(outputs), self._split(batch.labels), strict=True
            )
        ]
        return torch.stack(losses).sum(0)

    def decode(self, outputs: torch.Tensor) -> NDArray[Any]:
        """Return the stacked predictions of the parts, float32, (n, c, h, w)."""
        decoded = [
            _with_channels(torch.from_numpy(part.decode(part_outputs)))
            for part, part_outputs in zip(self.parts, self.split_outputs(outputs), strict=True)
        ]
        return torch.cat(decoded, dim=1).numpy()

    def split_outputs(self, outputs: torch.Tensor) -> Sequence[torch.Tensor]:
        """Split a model's outputs into those of each part, (n, outputs of the part, h, w)."""
        others = sum(part.n_outputs or 0 for part in self.parts)
        sizes = [part.n_outputs or outputs.shape[1] - others for part in self.parts]
        return torch.split(outputs, sizes, dim=1)

    def figures(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Mapping[str, Estimate], NDArray[np.float64]]:
        """Return mean_score and the metrics of every part, and the mean score of each image."""
        scores = self.scores(predictions, samples)
        metrics = {"mean_score": mean_score(scores[~np.isnan(scores)])}
        for part, values in self.predictions(predictions):
            metrics |= part.figures(values, samples, class_names)[0]
        return metrics, scores

    def pictures(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Images, list[str]]:
        """Return the pictures of the parts below one another, and their joined captions."""
        shown = [
            part.pictures(values, samples, class_names)
            for part, values in self.predictions(predictions)
        ]
        captions = zip(*(lines for _, lines in shown), strict=True)
        return np.concatenate([p for p, _ in shown], axis=2), ["; ".join(c) for c in captions]

    def scores(self, predictions: NDArray[Any], samples: Samples) -> NDArray[np.float64]:
        """Return the mean of each image's known scores, (n,), NaN if none is known."""
        scores = np.array([part.scores(v, samples) for part, v in self.predictions(predictions)])
        known = ~np.isnan(scores)
        total = np.where(known, scores, 0).sum(0)
        return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)

    def predictions(self, stacked: NDArray[Any]) -> list[tuple[DenseTask, NDArray[Any]]]:
        """Split stacked predictions; return each part with its predictions in its own format."""
        values = [x.numpy() for x in self._split(torch.from_numpy(stacked))]
        return [
            (part, v.astype(np.uint8) if part.n_outputs is None else v)
            for part, v in zip(self.parts, values, strict=True)
        ]

    def _split(self, stacked: torch.Tensor) -> list[torch.Tensor]:
        """Return the channels of each part; single channels have no channel dimension."""
        pieces = stacked.split([part.n_outputs or 1 for part in self.parts], dim=1)
        return [piece[:, 0] if piece.shape[1] == 1 else piece for piece in pieces]


def build() -> Multi:
    """Build the task with all kinds of labels."""
    return Multi(KINDS)


def _part(name: str) -> DenseTask:
    if name not in KINDS:
        raise SettingsError(
            f"{name!r} cannot be learned together with other tasks; these can: {', '.join(KINDS)}."
        )
    return cast(DenseTask, tasks.build(name))


def _with_channels(x: torch.Tensor) -> torch.Tensor:
    return (x if x.ndim == 4 else x[:, None]).float()
