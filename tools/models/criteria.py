"""Differentiable criteria of a DSTM for images: entropy, margin, loss, and last-layer gradients."""

from __future__ import annotations

import math
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
from memory.errors import SettingsError
from tools import tasks
from tools.data.samples import Pool, Samples, parts_of
from tools.data.stored_images import StoredImages
from tools.models.dstm_file import load_model
from tools.models.embeddings import last_layer, recorded
from tools.settings import DstmSettings, TrainSettings
from tools.tasks import Minibatch, Model, Task

_BATCH = 64


@dataclass(frozen=True)
class Dstm:
    """A trained DSTM with its task and the settings of its training."""

    model: Model
    task: Task
    settings: TrainSettings


def load_dstm(folder: Path, device: str = "cpu") -> Dstm:
    """Return a saved DSTM, ready to predict; raise WeightsError if it cannot be used."""
    model, meta = load_model(folder, device)
    # Training settings that no longer exist do not affect the trained model.
    known = {k: v for k, v in meta["settings"].items() if k in DstmSettings.model_fields}
    return Dstm(model, tasks.build(meta["task"]), DstmSettings.model_validate(known))


def entropy(task: Task, outputs: torch.Tensor) -> torch.Tensor:
    """Return the normalised entropy of each image's prediction, 0..1, (n,).

    Args:
        task: Task of the model.
        outputs: Logits, (n, classes, ...); values of pixels are averaged.

    Raises:
        SettingsError: The task has no class probabilities.
    """
    log_p = _log_probabilities(task, outputs)
    return _per_image(-(log_p.exp() * log_p).sum(1) / math.log(log_p.shape[1]))


def margin(task: Task, outputs: torch.Tensor) -> torch.Tensor:
    """Return the margin between each image's two most probable classes, 0..1, (n,).

    See `entropy` for arguments and errors.
    """
    first, second = _log_probabilities(task, outputs).exp().topk(2, dim=1).values.unbind(1)
    return _per_image(first - second)


def loss(
    task: Task, outputs: torch.Tensor, batch: Minibatch, settings: TrainSettings
) -> torch.Tensor:
    """Return the task's loss of each image, without label smoothing and class balancing, (n,)."""
    plain = settings.model_copy(update={"label_smoothing": 0.0, "balance_classes": False})
    return task.loss(outputs, batch, plain)


def require_classes(task: Task) -> None:
    """Raise SettingsError for a task without class probabilities, which entropy requires."""
    # Outputs of these tasks are not logits of classes, neither of images nor of pixels.
    if task.needs and getattr(task, "n_outputs", 0) is not None:
        raise SettingsError(
            f"The task {task.name!r} predicts no probabilities of classes, so entropy and margin "
            "are undefined. Set pull to loss or real; select by core_set, vog, audit or random."
        )


def _log_probabilities(task: Task, outputs: torch.Tensor) -> torch.Tensor:
    require_classes(task)
    return outputs.log_softmax(1)


def _per_image(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).mean(1) if values.ndim > 1 else values


@dataclass(frozen=True)
class Gradients:
    """Gradients of a model's loss with respect to the weights of its last layer.

    They estimate which images change the model as the failing photographs would (TracIn, Pruthi et
    al. 2020).

    Attributes:
        prompts: Mean gradient of the generated images of each prompt, (n, d).
        prompt_ids: Ids of these prompts, (n,).
        photographs: Gradients of the photographs, (m, d).
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
    """Return the gradient of each image's loss for the last layer's weights and biases, (n, d).

    It is the outer product of the layer's input and the derivative of the loss with respect to its
    output. The loss is the task's without label smoothing and class balancing, so that an image's
    gradient does not depend on the other images.
    """
    layer = last_layer(model.eval())
    device = next(model.parameters()).device
    parts = []
    with recorded([layer], inputs=True) as inputs, recorded([layer]) as outputs:
        for part in parts_of(samples, _BATCH):
            images = torch.from_numpy(part.images).to(device).float() / 255
            batch = Minibatch(images, task.labels(part).to(device))
            total = loss(task, model(images), batch, settings).sum()
            features, output = inputs.pop(), outputs.pop()
            (residuals,) = torch.autograd.grad(total, output)
            arrays = (part.detach().double().cpu().numpy() for part in (features, residuals))
            parts.append(head_gradients(*arrays))
    return np.concatenate(parts)
