"""Last-layer gradients of a DSTM: which images change it as the failing photographs would.

The gradient of an image's loss by the weights of the last layer is the outer product of the
layer's input and of the loss's derivative by its output, for softmax p - y (used as a cheap
influence by TracIn, Pruthi et al. 2020).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from eval.credit import head_gradients
from tools.data.samples import Pool, Samples, parts_of
from tools.data.stored_images import StoredImages
from tools.models import criteria
from tools.models.criteria import Dstm
from tools.models.embeddings import last_layer, recorded
from tools.settings import TrainSettings
from tools.tasks import Batch, Model, Task

_BATCH = 64


@dataclass(frozen=True)
class Gradients:
    """Gradients of a model's loss.

    Attributes:
        prompts: Mean on the generated images of each prompt, (n, d).
        prompt_ids: Of these, (n,).
        photographs: On real ones, (m, d).
    """

    prompts: NDArray[np.float64]
    prompt_ids: Sequence[str]
    photographs: NDArray[np.float64]


def measure_gradients(dstm: Dstm, shards: Sequence[Path], photographs: Samples) -> Gradients:
    """Return the gradients of a model on the images of shards and on photographs."""
    model, task, settings = dstm.model, dstm.task, dstm.settings
    generated = StoredImages(shards, chosen=False)
    n_images, sums = Counter(generated.prompt_ids), dict[str, Any]()
    owners = iter(generated.prompt_ids)
    for part in parts_of(generated, _BATCH):
        owner = np.array(list(islice(owners, len(part))))
        gradients = sample_gradients(model, task, part, settings)
        for name in dict.fromkeys(owner.tolist()):
            sums[name] = sums.get(name, 0) + gradients[owner == name].sum(0)
    return Gradients(
        prompts=np.stack([total / n_images[name] for name, total in sums.items()]),
        prompt_ids=list(sums),
        photographs=sample_gradients(model, task, photographs, settings),
    )


def sample_gradients(
    model: Model, task: Task, samples: Pool, settings: TrainSettings
) -> NDArray[np.float64]:
    """Return the gradient of each image's loss by the last layer's weights and offsets, (n, d).

    The loss is the task's without label smoothing and without balancing of classes, so that an
    image's gradient does not depend on the others.
    """
    layer = last_layer(model.eval())
    device = next(model.parameters()).device
    parts = []
    with recorded([layer], inputs=True) as inputs, recorded([layer]) as outputs:
        for part in parts_of(samples, _BATCH):
            images = torch.from_numpy(part.images).to(device).float() / 255
            batch = Batch(images, task.labels(part).to(device))
            loss = criteria.loss(task, model(images), batch, settings).sum()
            features, output = inputs.pop(), outputs.pop()
            (residuals,) = torch.autograd.grad(loss, output)
            arrays = (part.detach().double().cpu().numpy() for part in (features, residuals))
            parts.append(head_gradients(*arrays))
    return np.concatenate(parts)
