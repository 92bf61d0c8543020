"""The DSTM pulls images while they are drawn, toward what it is unsure of or fails on.

`entropy W` and `loss W` follow feedback-guided synthesis (Askari Hemmat et al. 2024): before a
step of the sampler the noisy image x moves by W |x| g / |g|, where g is the gradient of the DSTM's
entropy, or of its loss, by the clean image that is expected of x. `real W` follows ActGen (Huang
et al. 2024): x moves toward a photograph on which the DSTM fails, as noisy as x is itself, by W
times a weight that falls to 0 in the middle of the steps.

Everything is computed per image, so an image does not depend on the others of its batch.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from memory.records import PromptSpec, read_pull
from tools.data.samples import Dense, Samples
from tools.models import criteria
from tools.settings import TrainSettings
from tools.tasks import Batch, Model, Task

# ActGen's schedule is written for this many steps, half of its weight being left at MIDDLE.
ACTGEN_STEPS = 40
ACTGEN_MIDDLE = 12.5
# Of photographs whose score is a share, those below the quantile count as failed.
_FAILED_QUANTILE = 0.25


@dataclass(frozen=True)
class Critic:
    """A DSTM whose opinion moves images; failed: photographs that it fails on, worst first.

    sha256: of its weights, on which everything that it pulls depends.
    """

    model: Model
    task: Task
    settings: TrainSettings
    sha256: str
    failed: Samples | None = None

    def criterion(
        self, by: str, images: torch.Tensor, classes: Sequence[int], labels: Dense
    ) -> torch.Tensor:
        """Return the entropy or the loss of images, float 0..1, (n, c, h, w), as (n,).

        classes and labels: what the images show, for the loss.
        """
        outputs = self.model(images)
        if by == "entropy":
            return criteria.entropy(self.task, outputs)
        shown = Samples(
            images=np.zeros(images.shape, np.uint8),
            classes=np.array(classes, np.int64),
            attributes=[{}] * len(images),
            ids=[""] * len(images),
            labels=labels,
        )
        batch = Batch(images, self.task.labels(shown).to(images.device))
        return criteria.loss(self.task, outputs, batch, self.settings)

    def pull(self, prompt: PromptSpec, index: int, class_index: int) -> Pull | None:
        """Return how the `index`-th image of a prompt is pulled; None: not at all."""
        if prompt.pull is None:
            return None
        by, weight = read_pull(prompt.pull)
        photograph = self._photograph(prompt.attributes, index, class_index)
        if by == "real" and photograph is None:
            return None
        return Pull(by, weight, self, class_index, photograph if by == "real" else None)

    def _photograph(
        self, attributes: Mapping[str, str], index: int, class_index: int
    ) -> NDArray[np.uint8] | None:
        """Return one of the failed photographs of a class that share the most attributes."""
        if self.failed is None:
            return None
        rows = [i for i, own in enumerate(self.failed.classes) if own == class_index]
        shared = {
            i: sum(self.failed.attributes[i].get(k) == v for k, v in attributes.items())
            for i in rows
        }
        nearest = [i for i in rows if shared[i] == max(shared.values())]
        return self.failed.images[nearest[index % len(nearest)]] if nearest else None


@dataclass(frozen=True)
class Pull:
    """How one image is pulled; photograph: uint8, (c, h, w), what it goes to, for `real`."""

    by: str
    weight: float
    critic: Critic
    class_index: int
    photograph: NDArray[np.uint8] | None = None


def critic_of(dstm: criteria.Dstm, sha256: str, said: NDArray[Any], feedback: Samples) -> Critic:
    """Return a DSTM, which then learns no more, as a critic; said: what it predicts of feedback."""
    dstm.model.requires_grad_(requires_grad=False)
    failed = failed_photographs(dstm.task.scores(said, feedback), feedback)
    return Critic(dstm.model, dstm.task, dstm.settings, sha256, failed)


def by_gradient(x: torch.Tensor, gradient: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return x moved up the gradient, each image by its weight times its own length.

    x, gradient: (n, ...); weights: (n,). An image whose gradient is 0 stays.
    """
    n = len(x)
    length, steepness = (v.reshape(n, -1).norm(dim=1) for v in (x, gradient))
    scale = weights * length / (steepness + 1e-8)
    moved: torch.Tensor = x + gradient * scale.view(n, *[1] * (x.ndim - 1))
    return moved


def actgen_weight(step: int, n_steps: int) -> float:
    """Return how strongly the photograph pulls before a step, 1..0; steps count from 0."""
    at = step * ACTGEN_STEPS / n_steps
    return 1 - 1 / (1 + math.exp(ACTGEN_MIDDLE - at))


def failed_photographs(scores: NDArray[np.float64], photographs: Samples) -> Samples | None:
    """Return the photographs that a DSTM fails on, worst first, or None.

    Those that are wrong, or, where a score is a share, the quarter with the lowest.
    """
    known = np.isfinite(scores)
    if not known.any():
        return None
    is_wrong = set(scores[known]) <= {0.0, 1.0}
    bound = 0.5 if is_wrong else np.quantile(scores[known], _FAILED_QUANTILE)
    rows = np.flatnonzero(known & (scores <= bound))
    return photographs.take(rows[np.argsort(scores[rows], kind="stable")]) if len(rows) else None
