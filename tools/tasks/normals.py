"""The task `normals`: the direction of the surface at every pixel.

The model is `unet`, or the folder of a transformers model for semantic segmentation, whose head
then has three outputs instead of classes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import cosine_similarity, normalize

from eval.colours import normals_rgb, side_by_side
from eval.dense import angle_counts, normals_metrics, normals_scores
from eval.slices import slice_report
from memory.records import Report
from tools.data.samples import Images, Samples
from tools.tasks import Batch, Model, dense

if TYPE_CHECKING:
    from tools.settings import TrainSettings


class Normals(dense.FailuresByScore):
    """See `tools.tasks.Task`; labels and predictions are unit vectors, float32, (n, 3, h, w)."""

    name = "normals"
    needs: tuple[str, ...] = ("normals",)
    metric = "within_11"
    n_outputs: int | None = 3

    def build_model(
        self, image_shape: tuple[int, int, int], n_classes: int, settings: TrainSettings
    ) -> Model:
        """Return a model whose outputs are vectors of any length, (n, 3, h, w); no classes."""
        return dense.build_model(image_shape, 3, settings, "semantic segmentation")

    def restore_model(self, description: Mapping[str, Any]) -> Model:
        """Return an untrained model of the described architecture."""
        return dense.restore_model(description)

    def labels(self, samples: Samples) -> torch.Tensor:
        """Return unit vectors, float32, (n, 3, h, w), NaN where unknown.

        Raises DataError when the samples have none.
        """
        return dense.labels_of(samples, self.needs[0])

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return mirrored, brighter, darker and noisier variants."""
        return dense.augment(batch, generator, _mirror)

    def loss(self, outputs: torch.Tensor, batch: Batch, settings: TrainSettings) -> torch.Tensor:
        """Return the mean of 1 - cosine over each image's known pixels, (n,).

        The loss of Eigen and Fergus 2015.
        """
        known = batch.labels.isfinite().all(1)
        cosine = cosine_similarity(outputs, batch.labels.nan_to_num(0.0), dim=1)
        return dense.mean_over_known(1 - cosine, known)

    def predict(self, model: Model, images: Images) -> NDArray[Any]:
        """Return unit vectors, float32, (n, 3, h, w)."""
        outputs = dense.outputs_of(model, images)
        return np.concatenate([self.decode(part) for part in outputs])

    def decode(self, outputs: torch.Tensor) -> NDArray[Any]:
        """Return vectors of length 1, float32, (n, 3, h, w)."""
        vectors: NDArray[np.float32] = normalize(outputs.float(), dim=1).cpu().numpy()
        return vectors

    def scores(self, predictions: NDArray[Any], samples: Samples) -> NDArray[np.float64]:
        """Return each image's share within 11.25 degrees, (n,), NaN where nothing is known."""
        return normals_scores(angle_counts(samples.labels["normals"], predictions))

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
        """Return the share within 11.25 degrees, mean and median angle, and every slice's share."""
        counts = angle_counts(samples.labels["normals"], predictions)
        scores, attributes = normals_scores(counts), samples.attributes
        return slice_report(normals_metrics(counts), scores, attributes, by, n_min, round, split)

    def pictures(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Images, list[str]]:
        """Return image, truth and prediction side by side, and the share within 11.25 degrees."""
        truth = samples.labels["normals"]
        pictures = side_by_side(samples.images, normals_rgb(truth), normals_rgb(predictions))
        scores = normals_scores(angle_counts(truth, predictions))
        return pictures, [f"within 11.25 degrees: {score:.2f}" for score in scores]


def build() -> Normals:
    """Build the task."""
    return Normals()


def _mirror(normals: torch.Tensor) -> torch.Tensor:
    """Mirror left and right, which turns x around."""
    signs = torch.tensor([-1.0, 1, 1], device=normals.device).view(3, 1, 1)
    return normals.flip(-1) * signs
