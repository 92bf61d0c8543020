"""The task `depth`: the distance of every pixel along the optical axis, in metres.

The model is `unet`, or the folder of a transformers model for depth estimation.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from eval.colours import depth_rgb, side_by_side
from eval.dense import depth_metrics, depth_scores, depth_sums
from eval.slices import slice_report
from memory.records import Report
from tools.data.samples import Images, Samples
from tools.tasks import Batch, Model, dense
from tools.tasks._unet import UNet

if TYPE_CHECKING:
    from tools.settings import TrainSettings

_START_M = 10.0


class Depth(dense.FailuresByScore):
    """See `tools.tasks.Task`; labels and predictions are metres, float32, (n, h, w)."""

    name = "depth"
    needs: tuple[str, ...] = ("depth",)
    metric = "delta1"
    n_outputs: int | None = 1

    def build_model(
        self, image_shape: tuple[int, int, int], n_classes: int, settings: TrainSettings
    ) -> Model:
        """Return a model whose outputs are logarithms of metres, (n, 1, h, w); no classes."""
        model = dense.build_model(image_shape, 1, settings, "depth estimation")
        if isinstance(model, UNet):
            torch.nn.init.constant_(model.head.bias, math.log(_START_M))  # type: ignore[arg-type]
        return model

    def restore_model(self, description: Mapping[str, Any]) -> Model:
        """Return an untrained model of the described architecture."""
        return dense.restore_model(description)

    def labels(self, samples: Samples) -> torch.Tensor:
        """Return metres, float32, (n, h, w), NaN where unknown; raises DataError without any."""
        return dense.labels_of(samples, self.needs[0])

    def augment(self, batch: Batch, generator: torch.Generator) -> Batch:
        """Return mirrored, brighter, darker and noisier variants."""
        return dense.augment(batch, generator, lambda metres: metres.flip(-1))

    def loss(self, outputs: torch.Tensor, batch: Batch, settings: TrainSettings) -> torch.Tensor:
        """Return the mean of |log predicted - log true| over each image's known pixels, (n,).

        Logarithms, so that errors count relative to the distance (Eigen et al. 2014). Their
        scale-invariant square forgives a wrong scale and was worse here: delta1 0.63 against 0.66
        after 250 steps of 16 images, of 200 streets.
        """
        metres = batch.labels
        known = metres.isfinite() & (metres > 0)
        error = (outputs[:, 0] - metres.where(known, 1.0).log()).abs()
        return dense.mean_over_known(error, known)

    def predict(self, model: Model, images: Images) -> NDArray[Any]:
        """Return metres, float32, (n, h, w)."""
        outputs = dense.outputs_of(model, images)
        return np.concatenate([self.decode(part) for part in outputs])

    def decode(self, outputs: torch.Tensor) -> NDArray[Any]:
        """Return metres, float32, (n, h, w), of logarithms, (n, 1, h, w)."""
        metres: NDArray[np.float32] = outputs[:, 0].float().exp().cpu().numpy()
        return metres

    def scores(self, predictions: NDArray[Any], samples: Samples) -> NDArray[np.float64]:
        """Return each image's delta1, (n,), NaN where nothing of it is known."""
        return depth_scores(depth_sums(samples.labels["depth"], predictions))

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
        """Return delta1, absolute relative error and RMSE, and every slice's mean delta1."""
        sums = depth_sums(samples.labels["depth"], predictions)
        scores, attributes = depth_scores(sums), samples.attributes
        return slice_report(depth_metrics(sums), scores, attributes, by, n_min, round, split)

    def pictures(
        self, predictions: NDArray[Any], samples: Samples, class_names: Sequence[str]
    ) -> tuple[Images, list[str]]:
        """Return image, truth and prediction side by side, and delta1 and the relative error.

        One scale holds for all pictures of a call.
        """
        truth = samples.labels["depth"]
        metres = np.concatenate([truth, predictions], axis=None)
        near_m, far_m = np.nanquantile(metres[metres > 0], (0.01, 0.99))
        pictures = side_by_side(
            samples.images,
            depth_rgb(truth, near_m, far_m),
            depth_rgb(predictions, near_m, far_m),
        )
        sums = depth_sums(truth, predictions)
        captions = [
            f"delta1 {score:.2f}, relative error {error / max(n, 1):.2f}"
            for score, n, error in zip(depth_scores(sums), sums[:, 0], sums[:, 2], strict=True)
        ]
        return pictures, captions


def build() -> Depth:
    """Build the task."""
    return Depth()
