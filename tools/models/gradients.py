"""Last-layer gradients of a DSTM: which images change it as the failing photographs would.

The gradient of an image's loss by the weights of the last layer is the outer product of the
layer's input and of the loss's derivative by its output, for softmax p - y (used as a cheap
influence by TracIn, Pruthi et al. 2020).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from eval.credit import head_gradients
from tools.data.samples import Samples
from tools.data.shards import read_shards
from tools.models import criteria
from tools.models.criteria import Dstm
from tools.models.embeddings import last_layer, recorded
from tools.settings import TrainSettings
from tools.tasks import Batch, Model, Task, pixel_batches

_BATCH = 64


@dataclass(frozen=True)
class Gradients:
    """Gradients of a model's loss.

    Attributes:
        images: On generated images, (n, d).
        prompt_ids: Of these, (n,).
        photographs: On real ones, (m, d).
    """

    images: NDArray[np.float64]
    prompt_ids: Sequence[str]
    photographs: NDArray[np.float64]


def measure_gradients(dstm: Dstm, shards: Sequence[Path], photographs: Samples) -> Gradients:
    """Return the gradients of a model on the images of shards and on photographs."""
    model, task, settings = dstm.model, dstm.task, dstm.settings
    generated = read_shards(shards)
    return Gradients(
        images=sample_gradients(model, task, generated.samples, settings),
        prompt_ids=generated.prompt_ids,
        photographs=sample_gradients(model, task, photographs, settings),
    )


def sample_gradients(
    model: Model, task: Task, samples: Samples, settings: TrainSettings
) -> NDArray[np.float64]:
    """Return the gradient of each image's loss by the last layer's weights and offsets, (n, d).

    The loss is the task's without label smoothing and without balancing of classes, so that an
    image's gradient does not depend on the others.
    """
    layer, labels = last_layer(model.eval()), task.labels(samples)
    device = next(model.parameters()).device
    parts = []
    with recorded([layer], inputs=True) as inputs, recorded([layer]) as outputs:
        batches = pixel_batches(samples.images, _BATCH, device)
        for images, true in zip(batches, labels.split(_BATCH), strict=True):
            batch = Batch(images, true.to(device))
            loss = criteria.loss(task, model(images), batch, settings).sum()
            features, output = inputs.pop(), outputs.pop()
            (residuals,) = torch.autograd.grad(loss, output)
            arrays = (part.detach().double().cpu().numpy() for part in (features, residuals))
            parts.append(head_gradients(*arrays))
    return np.concatenate(parts)
