"""Differentiable criteria of a DSTM for images: entropy, margin, loss."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import torch

from memory.errors import SettingsError
from tools import tasks
from tools.models.dstm_file import load_model
from tools.settings import DstmSettings, TrainSettings
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
    return Dstm(model, tasks.build(meta["task"]), DstmSettings.model_validate(meta["settings"]))


def predicts_classes(task: Task) -> bool:
    """Return whether a task's outputs are logits of classes, of images or of pixels."""
    return not task.needs or getattr(task, "n_outputs", 0) is None


def entropy(task: Task, outputs: torch.Tensor) -> torch.Tensor:
    """Return the normalised entropy of each image's prediction, 0..1, (n,).

    Args:
        task: Of the model.
        outputs: Logits, (n, classes, ...); of pixels the mean is taken.

    Raises:
        SettingsError: The task has no class probabilities.
    """
    log_p = _log_probabilities(task, outputs)
    return _per_image(-(log_p.exp() * log_p).sum(1) / math.log(log_p.shape[1]))


def margin(task: Task, outputs: torch.Tensor) -> torch.Tensor:
    """Return the margin of each image's likeliest class over the second, 0..1, (n,).

    See `entropy` for arguments and errors.
    """
    first, second = _log_probabilities(task, outputs).exp().topk(2, dim=1).values.unbind(1)
    return _per_image(first - second)


def loss(task: Task, outputs: torch.Tensor, batch: Batch, settings: TrainSettings) -> torch.Tensor:
    """Return the task's loss of each image, without smoothing of labels, (n,)."""
    plain = settings.model_copy(update={"label_smoothing": 0.0, "balance_classes": False})
    return task.loss(outputs, batch, plain)


def require_classes(task: Task) -> None:
    """Raise SettingsError for a task without class probabilities, which entropy needs."""
    if not predicts_classes(task):
        raise SettingsError(
            f"The task {task.name!r} predicts no probabilities of classes, so entropy and margin "
            "are undefined. Set pull to loss or real; select by core_set, vog, audit or random."
        )


def _log_probabilities(task: Task, outputs: torch.Tensor) -> torch.Tensor:
    require_classes(task)
    return outputs.log_softmax(1)


def _per_image(values: torch.Tensor) -> torch.Tensor:
    return values.flatten(1).mean(1) if values.ndim > 1 else values
