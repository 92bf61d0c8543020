"""What a saved DSTM thinks of images, as torch sees it: entropy, margin, loss; differentiable."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from memory.errors import SettingsError
from tools import tasks
from tools.models.dstm_file import load_model
from tools.settings import TrainSettings
from tools.tasks import Batch, Model, Task


@dataclass(frozen=True)
class Dstm:
    """A trained DSTM with its task and the settings of its training."""

    model: Model
    task: Task
    settings: TrainSettings


def load_dstm(folder: Path, device: str = "cpu") -> Dstm:
    """Return a saved DSTM, ready to predict; raises WeightsError when it cannot be used."""
    model, meta = load_model(folder, device)
    return Dstm(model, tasks.build(meta["task"]), TrainSettings.model_validate(meta["settings"]))


def says_classes(task: Task) -> bool:
    """Tell whether a task's outputs are logits of classes, of images or of pixels."""
    return not task.needs or getattr(task, "n_outputs", 0) is None


def entropy(task: Task, outputs: torch.Tensor) -> torch.Tensor:
    """Return the entropy of each image's prediction, 0..1 of the highest possible, (n,).

    outputs: logits, (n, classes, ...), where pixels have classes their mean. Raises SettingsError
    for a task without class probabilities.
    """
    log_p = _log_probabilities(task, outputs)
    return _per_image(-(log_p.exp() * log_p).sum(1) / math.log(log_p.shape[1]))


def margin(task: Task, outputs: torch.Tensor) -> torch.Tensor:
    """Return the lead of each image's likeliest class over the second, 0..1, (n,).

    See `entropy` for outputs and errors.
    """
    first, second = _log_probabilities(task, outputs).exp().topk(2, dim=1).values.unbind(1)
    return _per_image(first - second)


def loss(task: Task, outputs: torch.Tensor, batch: Batch, settings: TrainSettings) -> torch.Tensor:
    """Return the task's loss of each image, without smoothing of labels, (n,)."""
    plain = settings.model_copy(update={"label_smoothing": 0.0, "balance_classes": False})
    return task.loss(outputs, batch, plain)


def require_classes(task: Task) -> None:
    """Raise SettingsError for a task without class probabilities, which entropy needs."""
    if not says_classes(task):
        raise SettingsError(
            f"The task {task.name!r} says no probabilities of classes, so entropy and margin are "
            "not known. Pull by loss or real; select by core_set, vog, audit or random."
        )


def _log_probabilities(task: Task, outputs: torch.Tensor) -> torch.Tensor:
    require_classes(task)
    return outputs.log_softmax(1)


def _per_image(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).mean(1) if values.ndim > 1 else values
