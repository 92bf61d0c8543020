"""The tool train_dstm: one training loop for all tasks.

The same samples, settings and seed give the same weights, bit for bit on one CPU.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import torch.utils.deterministic
from numpy.typing import NDArray

from memory.errors import ShapingError
from memory.records import Selection, Training, digest
from tools import tasks
from tools.data.jobs import job_id, round_folder, run_once
from tools.data.samples import Pool, Samples
from tools.data.sampling import Mix, effective_size, sampling_chances
from tools.data.selected import choices, read_choice
from tools.data.stored_images import StoredImages, contents
from tools.models.dstm_file import reproducible, save_model
from tools.models.embeddings import new_layers
from tools.models.frozen import FrozenFeatures, freeze
from tools.models.processor import has_bfloat16, in_bfloat16
from tools.settings import BOTH_FLIPS, DstmSettings, TrainSettings
from tools.tasks import Minibatch, Model, Task, strong

Progress = Callable[[int, int], None]
"""Called with the number of finished steps and the total."""

Warn = Callable[[str, str], None]
"""Called with the kind and the description of a problem that the training recovered from."""

# Maximum number of returns to the last good weights, and the learning-rate factor of each.
MAX_RETURNS = 2
SLOWER = 0.3
_N_SNAPSHOTS = 20
_WARMUP = 0.15


class Callbacks(NamedTuple):
    """Callbacks of a DSTM training."""

    progress: Progress = lambda done, total: None
    warn: Warn = lambda kind, message: None


class GradientSync(Protocol):
    """Synchronisation of processes that train one model together, all with the same batches."""

    def share(self, batch: Minibatch) -> Minibatch:
        """Return this process's part of a batch; the parts are equally large."""

    def mean(self, model: Model, loss: float) -> float:
        """Average the gradients over all processes; return the mean of their losses."""


@dataclass(frozen=True)
class Trainer:
    """Trains on stored images in this process; subclasses use several processes.

    Attributes:
        device: Torch device.
        n_processes: Number of processes that share the training.
    """

    device: str = "cpu"
    n_processes: int = 1

    def train(
        self,
        shards: Sequence[Path],
        n_classes: int,
        settings: TrainSettings,
        callbacks: Callbacks | None = None,
        real: Sequence[Path] = (),
    ) -> tuple[Model, float]:
        """Train a model, see `train_model`; return it, on the trainer's device, and its loss.

        Args:
            shards: Shards of generated images.
            n_classes: Number of classes of the task.
            settings: Settings of the training.
            callbacks: Progress and warnings; None: none.
            real: Shards of photographs.
        """
        samples = StoredImages(shards, real)
        return train_model(
            samples,
            tasks.build(settings.task),
            n_classes,
            settings,
            self.device,
            *(callbacks or Callbacks()),
            is_real=samples.is_real,
        )


def train_dstm(
    round: int,  # noqa: A002 (the name of the record's field)
    session_folder: Path,
    shards: Sequence[Path],
    class_names: Sequence[str],
    settings: TrainSettings,
    trainer: Trainer | None = None,
    selection: Selection | None = None,
    callbacks: Callbacks | None = None,
    real: Sequence[Path] = (),
    part: str = "",
) -> Training:
    """Train the DSTM of a round on photographs and the generated images of all rounds so far.

    The model is written to rounds/NNN of the session, or to its subfolder `part`. A repeated call
    returns the stored result; an interrupted training starts over.

    Args:
        round: Round number; 0 for photographs alone.
        session_folder: Folder of the session.
        shards: Shards of generated images, relative to the session folder or absolute. Images that
            the selection of a round left out are not used.
        class_names: Class names of the task's labels.
        settings: Settings of the training.
        trainer: Runs the training; None: a `Trainer` on the CPU.
        selection: Record of the selection of this round's images.
        callbacks: Progress and warnings; None: none.
        real: Shards of photographs, see `tools.data.shards`.
        part: Name of a further model of the round, used for cross-fitting.

    Raises:
        DataError: A shard is missing or damaged, or there are no shards.
    """
    trainer = trainer or Trainer()
    paths = [session_folder / shard for shard in shards]
    arguments: dict[str, Any] = {
        "settings": _effective(settings, bool(real)),
        "class_names": list(class_names),
        # A digest, so that the stored job does not grow with the rounds.
        "shards": digest([[path.name, contents(path).sha256] for path in paths]),
    }
    if chosen := choices(paths):
        arguments["chosen"] = digest([read_choice(path).sha256 for path in chosen])
    if real:
        arguments["real"] = digest([contents(path).sha256 for path in real])
    if part:
        arguments["part"] = part
    if trainer.n_processes > 1:
        arguments["processes"] = trainer.n_processes
    job = job_id(session_folder.name, round, "train_dstm", arguments)
    job_folder = session_folder / "jobs" / job
    model_folder = round_folder(session_folder, round) / part

    def work() -> dict[str, Any]:
        images = StoredImages(paths, real)
        n_real = int(images.is_real.sum())
        model, final_loss = trainer.train(paths, len(class_names), settings, callbacks, real)
        meta = {
            "task": settings.task,
            "class_names": list(class_names),
            "settings": arguments["settings"],
            "job_id": job,
        }
        training = Training(
            round=round,
            job_id=job,
            model=model_folder.relative_to(session_folder).as_posix(),
            n_images=len(images) - n_real,
            n_real=n_real or None,
            effective_size=_effective_size(images, settings),
            n_steps=settings.steps,
            final_loss=final_loss,
            sha256=save_model(model_folder, model, meta),
            selection=selection,
        )
        return training.to_json()

    if not (model_folder / "model.json").exists():
        (job_folder / "result.json").unlink(missing_ok=True)
    return Training.model_validate(run_once(job_folder, arguments, work))


def _effective(settings: TrainSettings, with_real: bool) -> dict[str, Any]:
    """Return the settings that affect a training, as JSON values.

    Settings of mixing photographs and generated images are omitted where there is nothing to mix,
    which keeps the job ids of earlier versions.
    """
    values = settings.model_dump(mode="json")
    if with_real:
        return values
    added = DstmSettings.model_fields.keys() - TrainSettings.model_fields.keys()
    neutral = {
        "min_class_weight": 0.0,
        "logit_adjustment": 0.0,
        "freeze": "none",
        "backbone_rate": 1.0,
    }
    return {k: v for k, v in values.items() if k not in added or v != neutral.get(k, v)}


def _effective_size(images: StoredImages, settings: TrainSettings) -> float | None:
    """Return the effective number of images; None where earlier versions recorded none."""
    if not isinstance(settings, DstmSettings):
        return None
    if not images.is_real.any() and not settings.min_class_weight:
        return None
    return effective_size(sampling_chances(images, settings, images.is_real))


def train_model(
    samples: Pool,
    task: Task,
    n_classes: int,
    settings: TrainSettings,
    device: str = "cpu",
    progress: Progress = lambda done, total: None,
    warn: Warn = lambda kind, message: None,
    sync: GradientSync | None = None,
    is_real: NDArray[np.bool_] | None = None,
) -> tuple[Model, float]:
    """Train a new model.

    AdamW with a one-cycle schedule (Smith and Topin 2019). `tools.data.sampling` defines the
    sampling of images. With `logit_adjustment` tau, the loss is computed on the outputs plus
    tau log(pi), where pi are the class frequencies (Menon et al. 2021, eq. 10); the model itself
    returns the outputs. With `freeze`, or during the `real_finish` steps with `finish_layers`, only
    the new layers are trained; with `freeze`, the features before a last layer are computed once.
    After a non-finite loss, training resumes from its last good weights at a lower rate; a batch
    that exceeds the device's memory is processed in parts. The state of torch's global generators
    is restored.

    Args:
        samples: Images to train on.
        task: Task to learn.
        n_classes: Number of classes of the task.
        settings: Settings of the training.
        device: Torch device.
        progress: Called with the number of finished steps and the total.
        warn: See `Warn`.
        sync: Synchronises processes that train the same model, see `tools.compute.data_parallel`.
        is_real: Mask of the photographs, (n,), used with `DstmSettings`; None: no photographs.

    Returns:
        The model, and the mean loss of the last tenth of the steps.

    Raises:
        DataError: No image has a weight above 0.
        ShapingError: The loss diverges more than `MAX_RETURNS` times, or a batch does not fit into
            the device's memory even in parts.
    """
    _warn_of_slow_precision(settings, device, warn)
    mix = Mix(samples, n_classes, settings, is_real)
    generator = torch.Generator().manual_seed(settings.seed)
    flips = BOTH_FLIPS if settings.flips is None else settings.flips
    with reproducible(settings.seed, device):
        model = task.build_model(samples.image_shape, n_classes, settings).to(device).train()
        model.flips = flips if settings.augment else ()
        trained, features = _trained_part(model, task, settings)
        optimizer = torch.optim.AdamW(
            _groups(model, settings), lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        good = _GoodWeights(model, optimizer)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: SLOWER**good.n_returns * _one_cycle(step / settings.steps)
        )
        losses: list[float] = []
        n_parts = 1
        for step in range(settings.steps):
            if step == mix.finish and mix.finish_freezes:
                freeze(model)
            rows = torch.multinomial(
                mix.chances(step), settings.batch_size, replacement=True, generator=generator
            )
            batch = _batch(samples.take(rows.numpy()), task, settings, flips, generator, device)
            if (weights := mix.weights(step)) is not None:
                batch = replace(batch, weights=weights[rows].to(device))
            if sync:
                batch = sync.share(batch)
            if features:
                batch = replace(batch, images=features(batch.images))
            added = mix.adjustment(step)
            loss, n_parts = _backward(trained, task, batch, settings, n_parts, warn, added)
            if sync:
                loss = sync.mean(model, loss)
            if math.isfinite(loss):
                losses.append(loss)
                if step % max(1, settings.steps // _N_SNAPSHOTS) == 0:
                    good.keep()
                optimizer.step()
            else:
                where = f"the loss is {loss} at step {step + 1} of {settings.steps}"
                if not good.restore():
                    raise ShapingError(
                        f"The training diverged: {where}. Lower the learning rate "
                        f"({settings.learning_rate:g})."
                    )
                warn("diverged", f"In the training {where}: back to good weights, slower.")
            schedule.step()
            progress(step + 1, settings.steps)
    last = losses[-max(1, settings.steps // 10) :]
    return model.eval(), sum(last) / len(last)


def _warn_of_slow_precision(settings: TrainSettings, device: str, warn: Warn) -> None:
    if settings.precision == "bfloat16" and not has_bfloat16(device):
        warn(
            "slow precision",
            f"The device {device!r} has no instructions for bfloat16, so that this training takes "
            "many times as long as in float32. Set precision=auto.",
        )


def _batch(
    samples: Samples,
    task: Task,
    settings: TrainSettings,
    flips: tuple[str, ...],
    generator: torch.Generator,
    device: str,
) -> Minibatch:
    """Return samples as a batch on a device, augmented according to the settings."""
    images = torch.from_numpy(samples.images).to(device).float() / 255
    batch = Minibatch(images, task.labels(samples).to(device), flips=flips)
    if settings.augment:
        batch = task.augment(batch, generator)
    if settings.augment == "strong":
        batch = strong.augment(batch, generator, moves=not task.needs)
    return batch


class _GoodWeights:
    """Snapshot of the last good weights of a training and its optimizer state.

    Attributes:
        n_returns: Number of attempts to restore them.
    """

    def __init__(self, model: Model, optimizer: torch.optim.Optimizer) -> None:
        self.n_returns = 0
        self._parts: Sequence[Any] = (model, optimizer)
        self._states: list[Any] = []

    def keep(self) -> None:
        """Store a copy of the current weights."""
        self._states = [copy.deepcopy(part.state_dict()) for part in self._parts]

    def restore(self) -> bool:
        """Restore the snapshot; return False after `MAX_RETURNS` times, or without a snapshot."""
        self.n_returns += 1
        if self.n_returns > MAX_RETURNS or not self._states:
            return False
        for part, state in zip(self._parts, self._states, strict=True):
            part.load_state_dict(state)
        return True


def _trained_part(
    model: Model, task: Task, settings: TrainSettings
) -> tuple[torch.nn.Module, FrozenFeatures | None]:
    """Freeze layers according to the settings; return the trained module and its input features.

    The features are None where the module is the whole model.
    """
    if not isinstance(settings, DstmSettings) or settings.freeze == "none":
        return model, None
    head = freeze(model)
    # Features are not cached where augmentation makes the images of every batch new.
    is_kept = not task.needs and settings.augment != "strong"
    return (head, FrozenFeatures(model)) if is_kept else (model, None)


def _groups(model: Model, settings: TrainSettings) -> list[dict[str, Any]]:
    """Return the optimizer's parameter groups by learning rate; vectors have no weight decay."""
    rate = settings.backbone_rate if isinstance(settings, DstmSettings) else 1.0
    head_ids = {id(p) for p in new_layers(model).parameters()} if rate != 1 else set()
    groups: list[dict[str, Any]] = []
    for in_head in (False, True) if head_ids else (False,):
        lr = {} if in_head or rate == 1 else {"lr": settings.learning_rate * rate}
        part = [p for p in model.parameters() if p.requires_grad and (id(p) in head_ids) == in_head]
        groups.append({"params": [p for p in part if p.ndim > 1], **lr})
        groups.append({"params": [p for p in part if p.ndim <= 1], "weight_decay": 0.0, **lr})
    return groups


def _backward(
    model: torch.nn.Module,
    task: Task,
    batch: Minibatch,
    settings: TrainSettings,
    n_parts: int,
    warn: Warn,
    adjustment: torch.Tensor | None = None,
) -> tuple[float, int]:
    """Compute the gradient of a batch's mean loss, in `n_parts` parts.

    The number of parts doubles whenever the device runs out of memory. The adjustment,
    (n_classes,), is added to the outputs.

    Returns:
        The loss, and the number of parts used.
    """
    n = len(batch.images)
    is_short = in_bfloat16(settings.precision, batch.images.device.type)
    while True:
        model.zero_grad(set_to_none=True)
        total = 0.0
        try:
            for rows in torch.arange(n).chunk(n_parts):
                part = Minibatch(batch.images[rows], batch.labels[rows])
                with torch.autocast(part.images.device.type, torch.bfloat16, enabled=is_short):
                    outputs = model(part.images).float()
                if adjustment is not None:
                    outputs = outputs + adjustment.to(outputs.device)
                losses = task.loss(outputs, part, settings)
                if batch.weights is not None:
                    losses = losses * batch.weights[rows]
                loss = losses.mean() * (len(rows) / n)
                total += loss.item()
                loss.backward()
            return total, n_parts
        except torch.OutOfMemoryError as error:
            # Batch normalisation needs at least two images per part.
            if n < 4 * n_parts:
                raise ShapingError(
                    f"The device has no memory to train on {n // n_parts} images: {error} End "
                    "other programs on it, choose a smaller model, or set device=cpu."
                ) from error
            n_parts *= 2
            torch.cuda.empty_cache()
            warn("out of memory in training", f"Batches pass in {n_parts} parts from now on.")


def _one_cycle(progress: float) -> float:
    """Return the learning rate as a fraction of its maximum, for a training progress in 0..1."""
    if progress < _WARMUP:
        return 0.04 + 0.96 * progress / _WARMUP
    return 0.5 + 0.5 * math.cos(math.pi * (progress - _WARMUP) / (1 - _WARMUP))
