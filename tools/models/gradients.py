"""Last-layer gradients of a DSTM: which images pull it where the failing photographs do.

The gradient of an image's loss by the weights of the last layer is the outer product of the
layer's input and of the loss's derivative by its output, for softmax p - y (Pruthi et al. 2020 use
it as a cheap influence).
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
from tools.models.embeddings import last_layer
from tools.settings import TrainSettings
from tools.tasks import Batch, Model, Task

_BATCH = 64


@dataclass(frozen=True)
class Gradients:
    """Gradients of a model's loss: on generated images, by prompt, and on photographs.

    images: (n, d); prompt_ids: whose they are, (n,); photographs: (m, d).
    """

    images: NDArray[np.float64]
    prompt_ids: Sequence[str]
    photographs: NDArray[np.float64]


def measure_gradients(dstm: Dstm, shards: Sequence[Path], photographs: Samples) -> Gradients:
    """Return the gradients of a model on the images of shards and on photographs."""
    model, task, settings = dstm.model, dstm.task, dstm.settings
    made = read_shards(shards)
    return Gradients(
        images=sample_gradients(model, task, made.samples, settings),
        prompt_ids=made.prompt_ids,
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
    seen: list[torch.Tensor] = []
    handle = layer.register_forward_hook(lambda _, inputs, out: seen.extend((inputs[0], out)))
    parts = []
    try:
        for start in range(0, len(samples), _BATCH):
            rows = slice(start, start + _BATCH)
            images = torch.from_numpy(samples.images[rows]).to(device).float() / 255
            batch = Batch(images, labels[rows].to(device))
            loss = criteria.loss(task, model(images), batch, settings).sum()
            features, outputs = seen[-2:]
            seen.clear()
            (residuals,) = torch.autograd.grad(loss, outputs)
            arrays = (part.detach().double().cpu().numpy() for part in (features, residuals))
            parts.append(head_gradients(*arrays))
    finally:
        handle.remove()
    return np.concatenate(parts)
