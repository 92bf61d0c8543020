"""The task `halves`: segmentation whose loss counts every pixel alike."""

from __future__ import annotations

import torch
from torch.nn import functional

from tools.data.samples import VOID
from tools.settings import TrainSettings
from tools.tasks import Minibatch
from tools.tasks.segmentation import Segmentation


class Halves(Segmentation):
    name = "halves"

    def loss(
        self, outputs: torch.Tensor, batch: Minibatch, settings: TrainSettings
    ) -> torch.Tensor:
        by_pixel = functional.cross_entropy(
            outputs, batch.labels.long(), ignore_index=VOID, reduction="none"
        )
        return by_pixel.mean((1, 2))


def build() -> Halves:
    return Halves()
