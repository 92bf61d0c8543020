"""Feedback guidance: during sampling, the DSTM moves images toward its own failures.

`entropy W` and `loss W` follow feedback-guided synthesis (Askari Hemmat et al. 2024): before a
step of the sampler the noisy image x moves by W |x| g / |g|, where g is the gradient of the DSTM's
entropy or loss with respect to the denoised estimate of x. `real W` follows ActGen (Huang et al.
2024): x moves toward a photograph on which the DSTM fails, noised to the level of x, by W times a
weight that decays to 0 by the middle of sampling. These photographs are training data, never of
the feedback split, which must stay unseen for evaluation. A DSTM trained on them makes hardly any
errors, so its failures are then the photographs with the highest loss in each class.

Everything is computed per image, so an image does not depend on the others in its batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from memory.records import PromptSpec, read_pull
from tools.data.samples import Dense, Samples
from tools.models import criteria
from tools.tasks import Minibatch, pixel_batches

# Number of steps of ActGen's schedule, and the step at which its weight is 0.5.
ACTGEN_STEPS = 40
ACTGEN_MIDDLE = 12.5
# Share of the photographs that count as failed where failure is a matter of degree.
_FAILED_QUANTILE = 0.25
_BATCH = 64


@dataclass(frozen=True)
class Critic:
    """A DSTM that guides images.

    Attributes:
        dstm: The trained DSTM.
        sha256: Digest of its weights, which affect every guided image.
        failed: Photographs on which it fails, worst first; None: there are none.
    """

    dstm: criteria.Dstm
    sha256: str
    failed: Samples | None = None

    def criterion(
        self, by: str, images: torch.Tensor, classes: Sequence[int], labels: Dense
    ) -> torch.Tensor:
        """Return the entropy or the loss of each image, (n,), differentiable.

        Args:
            by: "entropy" or "loss".
            images: float 0..1, (n, c, h, w).
            classes: Class indices of the images, used by the loss.
            labels: Labels of their pixels, used by the loss.
        """
        task, outputs = self.dstm.task, self.dstm.model(images)
        if by == "entropy":
            return criteria.entropy(task, outputs)
        shown = Samples(
            images=np.zeros(images.shape, np.uint8),
            classes=np.array(classes, np.int64),
            attributes=[{}] * len(images),
            ids=[""] * len(images),
            labels=labels,
        )
        batch = Minibatch(images, task.labels(shown).to(images.device))
        return criteria.loss(task, outputs, batch, self.dstm.settings)

    def guidance(self, prompt: PromptSpec, index: int, class_index: int) -> FeedbackGuidance | None:
        """Return the guidance of the `index`-th image of a prompt; None: it is not guided."""
        if prompt.pull is None:
            return None
        by, weight = read_pull(prompt.pull)
        photograph = self._photograph(prompt.attributes, index, class_index)
        if by == "real" and photograph is None:
            return None
        return FeedbackGuidance(by, weight, self, class_index, photograph if by == "real" else None)

    def _photograph(
        self, attributes: Mapping[str, str], index: int, class_index: int
    ) -> NDArray[np.uint8] | None:
        """Return a failed photograph of the class, among those that share the most attributes."""
        if self.failed is None:
            return None
        rows = np.flatnonzero(self.failed.classes == class_index).tolist()
        shared = {
            i: sum(self.failed.attributes[i].get(k) == v for k, v in attributes.items())
            for i in rows
        }
        nearest = [i for i in rows if shared[i] == max(shared.values())]
        return self.failed.images[nearest[index % len(nearest)]] if nearest else None


@dataclass(frozen=True)
class FeedbackGuidance:
    """Guidance of one image.

    Attributes:
        by: Criterion: "entropy", "loss" or "real".
        weight: Strength, above 0, at most 1.
        critic: The DSTM that guides.
        class_index: Class of the image.
        photograph: For "real", the photograph to move toward, uint8, (c, h, w).
    """

    by: str
    weight: float
    critic: Critic
    class_index: int
    photograph: NDArray[np.uint8] | None = None


def critic_of(
    dstm: criteria.Dstm, sha256: str, photographs: Samples | None = None, *, learnt: bool = False
) -> Critic:
    """Freeze the weights of a DSTM and return it as a critic.

    Args:
        dstm: A trained DSTM.
        sha256: Digest of its weights.
        photographs: Training photographs for the criterion "real"; None: it is not used.
        learnt: Whether the DSTM was trained on these photographs.
    """
    dstm.model.requires_grad_(requires_grad=False)
    failed = None
    if photographs is not None and learnt:
        failed = highest_losses(dstm, photographs)
    elif photographs is not None:
        predictions = dstm.task.predict(dstm.model, photographs.images)
        failed = failed_photographs(dstm.task.scores(predictions, photographs), photographs)
    return Critic(dstm, sha256, failed)


def along_gradient(x: torch.Tensor, gradient: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Move each image along its gradient by its weight times its own norm.

    Args:
        x: Images or channels, (n, ...).
        gradient: Same shape; images with a gradient of 0 do not move.
        weights: One per image, (n,).
    """
    n = len(x)
    length, steepness = (v.reshape(n, -1).norm(dim=1) for v in (x, gradient))
    scale = weights * length / (steepness + 1e-8)
    moved: torch.Tensor = x + gradient * scale.view(n, *[1] * (x.ndim - 1))
    return moved


def actgen_weight(step: int, n_steps: int) -> float:
    """Return the weight of the photograph before a step, counted from 0; it falls from 1 to 0."""
    position = step * ACTGEN_STEPS / n_steps
    return 1 - 1 / (1 + math.exp(ACTGEN_MIDDLE - position))


@torch.inference_mode()
def highest_losses(dstm: criteria.Dstm, photographs: Samples) -> Samples:
    """Return the quarter of each class's photographs with the highest loss, highest first."""
    device = next(dstm.model.parameters()).device
    losses, start = np.zeros(len(photographs)), 0
    for images in pixel_batches(photographs.images, _BATCH, device):
        rows = np.arange(start, start + len(images))
        labels = dstm.task.labels(photographs.take(rows)).to(device)
        outputs = dstm.model(images).float()
        batch = Minibatch(images, labels)
        losses[rows] = criteria.loss(dstm.task, outputs, batch, dstm.settings).cpu().numpy()
        start += len(images)
    chosen: list[int] = []
    for number in np.unique(photographs.classes):
        rows = np.flatnonzero(photographs.classes == number)
        rows = rows[np.argsort(-losses[rows], kind="stable")]
        chosen += rows[: max(1, round(_FAILED_QUANTILE * len(rows)))].tolist()
    return photographs.take(sorted(chosen, key=lambda row: -losses[row]))


def failed_photographs(scores: NDArray[np.float64], photographs: Samples) -> Samples | None:
    """Return the photographs on which a DSTM fails, worst first; None: there are none.

    Args:
        scores: Scores of the photographs, (n,), NaN where unknown. If all are 0 or 1, those of 0
            are failures, otherwise the lowest quarter.
        photographs: n samples.
    """
    known = np.isfinite(scores)
    if not known.any():
        return None
    is_wrong = set(scores[known]) <= {0.0, 1.0}
    bound = 0.5 if is_wrong else np.quantile(scores[known], _FAILED_QUANTILE)
    rows = np.flatnonzero(known & (scores <= bound))
    return photographs.take(rows[np.argsort(scores[rows], kind="stable")]) if len(rows) else None
