"""The task `normals`: the surface normal of every pixel.

The model is `unet`, `efficientnet_lite0` or the folder of a transformers model for semantic
segmentation, whose head then has three outputs instead of classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cosine_similarity, normalize

from eval.colours import normals_rgb, side_by_side
from eval.dense import angle_counts, normals_metrics, normals_scores
from memory.records import Estimate
from tools.data.samples import Images, Samples
from tools.settings import TrainSettings
from tools.tasks import Minibatch
from tools.tasks.dense import DenseTask, mean_over_known


class Normals(DenseTask):
    """Normal estimation: unit vectors, float32, (n, 3, h, w), NaN where unknown."""

    name = "normals"
    needs = ("normals",)
    metric = "within_11"
    n_outputs: int | None = 3

    def mirror(self, labels: torch.Tensor) -> torch.Tensor:
        """Return normals mirrored left to right; the x component changes sign."""
        signs = torch.tensor([-1.0, 1, 1], device=labels.device).view(3, 1, 1)
        return labels.flip(-1) * signs

    def loss(
        self, outputs: torch.Tensor, batch: Minibatch, settings: TrainSettings
    ) -> torch.Tensor:
        """Return the mean of 1 - cosine over each image's known pixels, (n,).

        The loss of Eigen and Fergus 2015.
        """
        known = batch.labels.isfinite().all(1)
        cosine = cosine_similarity(outputs, batch.labels.nan_to_num(0.0), dim=1)
        return mean_over_known(1 - cosine, known)

    def decode(self, outputs: torch.Tensor) -> NDArray[Any]:
        """Return unit vectors, float32, (n, 3, h, w)."""
        return normalize(outputs.float(), dim=1).cpu().numpy()

    def scores(self, predictions: NDArray[Any], samples: Samples) -> NDArray[np.float64]:
        """Return each image's share of pixels within 11.25 degrees, (n,), NaN if none is known."""
        return normals_scores(angle_counts(samples.labels["normals"], predictions))

    def figures(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Mapping[str, Estimate], NDArray[np.float64]]:
        """Return the share within 11.25 degrees, mean and median angle, and the share per image."""
        counts = angle_counts(samples.labels["normals"], predictions)
        return normals_metrics(counts), normals_scores(counts)

    def pictures(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Images, list[str]]:
        """Return image, truth and prediction side by side, and the share within 11.25 degrees."""
        truth = samples.labels["normals"]
        pictures = side_by_side(samples.images, normals_rgb(truth), normals_rgb(predictions))
        captions = [f"within 11.25 degrees: {s:.2f}" for s in self.scores(predictions, samples)]
        return pictures, captions


def build() -> Normals:
    """Build the task."""
    return Normals()
