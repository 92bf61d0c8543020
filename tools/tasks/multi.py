"""Several tasks that label pixels, learned by one model with a head for each.

The task `multi` is segmentation, depth and normals; `segmentation+depth` names its parts. The
model is `unet`, or the folder of a transformers model for semantic segmentation.
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
    """Labels and predictions are those of the parts, stacked.

    Both are float32, (n, c, h, w), in the order of the parts, where a class id and metres are one
    channel and a normal is three. An image's score is the mean of its scores in the parts.
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
        """Return a model whose outputs are those of the parts' models, stacked."""
        n_outputs = sum(part.n_outputs or n_classes for part in self.parts)
        return super().build_model(image_shape, n_outputs, settings)

    def labels(self, samples: Samples) -> torch.Tensor:
        """Return the parts' labels, stacked, NaN or VOID where unknown.

        Raises:
            DataError: The samples have none of a kind.
        """
        return torch.cat([_with_channels(part.labels(samples)) for part in self.parts], dim=1)

    def mirror(self, labels: torch.Tensor) -> torch.Tensor:
        """Return labels mirrored left to right: x of normals changes its sign."""
        signs = [s for name in self.needs for s in ((-1, 1, 1) if name == "normals" else (1,))]
        factors = torch.tensor(signs, dtype=torch.float32, device=labels.device)
        return labels.flip(-1) * factors.view(-1, 1, 1)

    def loss(
        self, outputs: torch.Tensor, batch: Minibatch, settings: TrainSettings
    ) -> torch.Tensor:
        """Return the sum of the parts' losses, (n,), to which unknown labels add nothing."""
        losses = [
            part.loss(predicted, Minibatch(batch.images, true), settings)
            for part, predicted, true in zip(
                self.parts, self.split_outputs(outputs), self._split(batch.labels), strict=True
            )
        ]
        return torch.stack(losses).sum(0)

    def decode(self, outputs: torch.Tensor) -> NDArray[Any]:
        """Return the parts' predictions, stacked, float32, (n, c, h, w), of a model's outputs."""
        decoded = [
            _with_channels(torch.from_numpy(part.decode(part_outputs)))
            for part, part_outputs in zip(self.parts, self.split_outputs(outputs), strict=True)
        ]
        return torch.cat(decoded, dim=1).numpy()

    def split_outputs(self, outputs: torch.Tensor) -> Sequence[torch.Tensor]:
        """Return the outputs of each part, (n, its outputs, h, w)."""
        others = sum(part.n_outputs or 0 for part in self.parts)
        sizes = [part.n_outputs or outputs.shape[1] - others for part in self.parts]
        return torch.split(outputs, sizes, dim=1)

    def figures(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Mapping[str, Estimate], NDArray[np.float64]]:
        """Return mean_score and the figures of every part, and each image's mean score."""
        scores = self.scores(predictions, samples)
        metrics = {"mean_score": mean_score(scores[~np.isnan(scores)])}
        for part, values in self.predictions(predictions):
            metrics |= part.figures(values, samples, class_names)[0]
        return metrics, scores

    def pictures(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Images, list[str]]:
        """Return the pictures of the parts below one another, and their captions in a row."""
        shown = [
            part.pictures(values, samples, class_names)
            for part, values in self.predictions(predictions)
        ]
        captions = zip(*(lines for _, lines in shown), strict=True)
        return np.concatenate([p for p, _ in shown], axis=2), ["; ".join(c) for c in captions]

    def scores(self, predictions: NDArray[Any], samples: Samples) -> NDArray[np.float64]:
        """Return the mean of each image's known scores, (n,), NaN where none is known."""
        scores = np.array([part.scores(v, samples) for part, v in self.predictions(predictions)])
        known = ~np.isnan(scores)
        total = np.where(known, scores, 0).sum(0)
        return np.where(known.any(0), total / np.maximum(known.sum(0), 1), np.nan)

    def predictions(self, stacked: NDArray[Any]) -> list[tuple[DenseTask, NDArray[Any]]]:
        """Return each part with its predictions, in its own form, of those of all parts."""
        values = [x.numpy() for x in self._split(torch.from_numpy(stacked))]
        return [
            (part, v.astype(np.uint8) if part.n_outputs is None else v)
            for part, v in zip(self.parts, values, strict=True)
        ]

    def _split(self, stacked: torch.Tensor) -> list[torch.Tensor]:
        """Return the channels of each part, without a dimension for one alone."""
        pieces = stacked.split([part.n_outputs or 1 for part in self.parts], dim=1)
        return [piece[:, 0] if piece.shape[1] == 1 else piece for piece in pieces]


def build() -> Multi:
    """Build the task of all kinds of labels."""
    return Multi(KINDS)


def _part(name: str) -> DenseTask:
    if name not in KINDS:
        raise SettingsError(
            f"{name!r} cannot be learned together with other tasks; these can: {', '.join(KINDS)}."
        )
    return cast(DenseTask, tasks.build(name))


def _with_channels(x: torch.Tensor) -> torch.Tensor:
    return (x if x.ndim == 4 else x[:, None]).float()
