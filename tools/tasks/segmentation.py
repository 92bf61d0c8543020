"""The task `segmentation`: the class of every pixel.

The model is `unet`, or the folder of a transformers model for semantic segmentation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cross_entropy

from eval.colours import segmentation_rgb, side_by_side
from eval.dense import (
    class_ious,
    confusions,
    segmentation_metrics,
    segmentation_scores,
)
from eval.slices import slice_report
from memory.records import Report
from tools.data.samples import VOID, Images, Samples
from tools.tasks import Batch, Model, dense

if TYPE_CHECKING:
    from tools.settings import TrainSettings


class Segmentation(dense.FailuresByScore):
    """See `tools.tasks.Task`; labels and predictions are class ids, uint8, (n, h, w)."""

    name = "segmentation"
    needs: tuple[str, ...] = ("segmentation",)
    metric = "miou"
    n_outputs: int | None = None

    def build_model(
        self, image_shape: tuple[int, int, int], n_classes: int, settings: TrainSettings
    ) -> Model:
        """Return a model whose outputs are logits, (n, n_classes, h, w)."""
        return dense.build_model(image_shape, n_classes, settings, "semantic segmentation")

    def restore_model(self, description: Mapping[str, Any]) -> Model:
        """Return an untrained model of the described architecture."""
        return dense.restore_model(description)

    def labels(self, samples: Samples) -> torch.Tensor:
        """Return the class ids, uint8, (n, h, w); raises DataError without any."""
        return dense.labels_of(samples, self.needs[0])

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return mirrored, brighter, darker and noisier variants."""
        return dense.augment(batch, generator, lambda ids: ids.flip(-1))

    def loss(self, outputs: torch.Tensor, batch: Batch, settings: TrainSettings) -> torch.Tensor:
        """Return the mean cross-entropy over each image's known pixels, (n,).

        If `balance_classes`, a pixel weighs as the inverse root of its class's share of the batch,
        1 in the mean: on 200 streets and 200 steps of 8 images, 0.36 mIoU instead of 0.28.
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
        return dense.mean_over_known(losses, known)

    def predict(self, model: Model, images: Images) -> NDArray[Any]:
        """Return class ids, uint8, (n, h, w)."""
        outputs = dense.outputs_of(model, images)
        return np.concatenate([self.decode(part) for part in outputs])

    def decode(self, outputs: torch.Tensor) -> NDArray[Any]:
        """Return the ids of the highest logits, uint8, (n, h, w)."""
        ids: NDArray[np.uint8] = outputs.argmax(1).byte().cpu().numpy()
        return ids

    def scores(self, predictions: NDArray[Any], samples: Samples) -> NDArray[np.float64]:
        """Return each image's mean IoU, (n,), NaN where nothing of it is known."""
        return segmentation_scores(_confusions(predictions, samples))

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
        """Return mIoU, pixel accuracy, the IoU of every class, and every slice's mean score."""
        confusion = confusions(samples.labels[self.needs[0]], predictions, len(class_names))
        return slice_report(
            segmentation_metrics(confusion, class_names),
            segmentation_scores(confusion),
            samples.attributes,
            by,
            n_min,
            round,
            split,
        )

    def pictures(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Images, list[str]]:
        """Return image, truth and prediction side by side, and the image's mean and least IoU."""
        truth = samples.labels["segmentation"]
        pictures = side_by_side(
            samples.images,
            segmentation_rgb(truth, class_names),
            segmentation_rgb(predictions, class_names),
        )
        confusion = confusions(truth, predictions, len(class_names))
        captions = [
            f"IoU {score:.2f}, least: {class_names[least]} {ious[least]:.2f}"
            for score, ious, least in zip(
                segmentation_scores(confusion),
                class_ious(confusion),
                np.nan_to_num(class_ious(confusion), nan=2).argmin(1),
                strict=True,
            )
        ]
        return pictures, captions


def build() -> Segmentation:
    """Build the task."""
    return Segmentation()


def _confusions(predictions: NDArray[Any], samples: Samples) -> NDArray[np.int64]:
    """Count pixels by as many classes as the labels and predictions name."""
    truth = samples.labels["segmentation"]
    highest = max(truth[truth != VOID].max(initial=0), predictions.max(initial=0))
    return confusions(truth, predictions, int(highest) + 1)
