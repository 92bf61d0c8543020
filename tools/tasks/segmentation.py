"""The task `segmentation`: the class of every pixel.

The model is `unet`, `efficientnet_lite0` or the folder of a transformers model for semantic
segmentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from eval.colours import segmentation_rgb, side_by_side
from eval.delivery import Figure
from eval.dense import class_ious, confusions, segmentation_metrics, segmentation_scores
from memory.records import Estimate
from tools.data.samples import VOID, Images, Samples
from tools.settings import TrainSettings
from tools.tasks import Minibatch
from tools.tasks.dense import DenseTask, mean_over_known


class Segmentation(DenseTask):
    """Semantic segmentation: class ids, uint8, (n, h, w), VOID where unknown."""

    name = "segmentation"
    needs = ("segmentation",)
    metric = "miou"
    n_outputs: int | None = None

    def loss(
        self, outputs: torch.Tensor, batch: Minibatch, settings: TrainSettings
    ) -> torch.Tensor:
        """Return the mean cross-entropy over each image's known pixels, (n,).

        With `balance_classes`, a pixel's weight is the inverse root of its class's share of the
        batch, normalised to a mean of 1: 0.36 instead of 0.28 mIoU after 200 steps of 8 images, of
        200 streets.
        """
        ids = batch.labels.long()
        known = ids != VOID
        losses = cross_entropy(
            outputs,
            ids,
            ignore_index=VOID,
            label_smoothing=settings.label_smoothing,
            reduction="none",
        )
        if settings.balance_classes:
            n_pixels = torch.bincount(ids[known], minlength=VOID + 1).float()
            weights = n_pixels.clamp(min=1).rsqrt()
            weights *= n_pixels.sum() / (n_pixels * weights).sum().clamp(min=1e-12)
            losses = losses * weights[ids]
        return mean_over_known(losses, known)

    def decode(self, outputs: torch.Tensor) -> NDArray[Any]:
        """Return the class ids with the highest logits, uint8, (n, h, w)."""
        return outputs.argmax(1).byte().cpu().numpy()

    def scores(self, predictions: NDArray[Any], samples: Samples) -> NDArray[np.float64]:
        """Return each image's mean IoU, (n,), NaN if no pixel is known."""
        truth = samples.labels["segmentation"]
        highest = max(truth[truth != VOID].max(initial=0), predictions.max(initial=0))
        return segmentation_scores(confusions(truth, predictions, int(highest) + 1))

    def figures(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Mapping[str, Estimate], NDArray[np.float64]]:
        """Return mIoU, pixel accuracy and the IoU of every class, and the mean IoU per image."""
        counts = confusions(samples.labels["segmentation"], predictions, len(class_names))
        return segmentation_metrics(counts, class_names), segmentation_scores(counts)

    def main_sums(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[NDArray[np.float64], Figure]:
        """Return per-image sufficient statistics of mIoU, and the metric computed from their sums.

        See `eval.delivery`.
        """
        n = len(class_names)
        counts = confusions(samples.labels["segmentation"], predictions, n)
        return counts.reshape(len(counts), n * n).astype(
            np.float64
        ), lambda sums: segmentation_scores(sums.reshape(*sums.shape[:-1], n, n))

    def pictures(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Images, list[str]]:
        """Return image, truth and prediction side by side, with the mean and lowest IoU."""
        truth = samples.labels["segmentation"]
        pictures = side_by_side(
            samples.images,
            segmentation_rgb(truth, class_names),
            segmentation_rgb(predictions, class_names),
        )
        counts = confusions(truth, predictions, len(class_names))
        ious = class_ious(counts)
        captions = [
            f"IoU {score:.2f}, least: {class_names[least]} {values[least]:.2f}"
            for score, values, least in zip(
                segmentation_scores(counts), ious, np.nan_to_num(ious, nan=2).argmin(1), strict=True
            )
        ]
        return pictures, captions


def build() -> Segmentation:
    """Build the task."""
    return Segmentation()
