"""The tool train_dstm: one training loop for all tasks, linear from top to bottom.

The same samples, settings and seed give the same weights, to the last bit on one CPU.
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
"""Called with the steps done and the steps in all."""

Warn = Callable[[str, str], None]
"""Called with a problem that the training recovered from: its kind and a sentence."""

# How often a training returns to its last good weights, and the factor of its learning rate then.
MAX_RETURNS = 2
SLOWER = 0.3
_N_SNAPSHOTS = 20
_WARMUP = 0.15


class Callbacks(NamedTuple):
    """What is called while a DSTM trains."""

    progress: Progress = lambda done, total: None
    warn: Warn = lambda kind, message: None


class GradientSync(Protocol):
    """What processes that train one model together do at each step; each has the same batch."""

    def share(self, batch: Minibatch) -> Minibatch:
        """Return this process's part of a batch, as large as that of the others."""

    def mean(self, model: Model, loss: float) -> float:
        """Average the gradients over all processes; return the mean of their losses."""


@dataclass(frozen=True)
class Trainer:
    """Trains on stored images, in this process; subclasses train in several.

    Attributes:
        device: A torch device.
        n_processes: That share the training.
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
        """Return the model, on the trainer's device, and its loss, see `train_model`.

        real: shards of photographs.
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
    """Train the DSTM of a round on the shards of all rounds so far and on photographs, once.

    The model is in rounds/NNN of the session, or in a folder `part` there. Called again, the stored
    result is returned; after a kill the training starts over.

    Args:
        round: Number of the round; 0 for photographs alone.
        session_folder: Of the session.
        shards: Of generated images, relative to the session folder, or absolute. Images that a
            round left out are not used.
        class_names: Of the labels that the task learns.
        settings: Of the training.
        trainer: Does the work; None: `Trainer` on the CPU.
        selection: How this round's images were chosen.
        callbacks: Progress and warnings; None: none.
        real: Shards of photographs, see `tools.data.shards`.
        part: Name of a further model of the round, which judges a part of the photographs.

    Raises:
        DataError: A shard is missing or damaged, or there is none.
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
    """Return the settings that have an effect on a training, as plain JSON.

    Those of mixing photographs and generated images are left out where there is nothing to mix, so
    that jobs of earlier versions keep their ids.
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
    """Return the effective number of images; None for the rule of earlier versions."""
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

    AdamW under a one-cycle schedule (Smith and Topin 2019). Images are sampled as
    `tools.data.sampling` says. With `logit_adjustment` tau the loss is that of the outputs plus
    tau log(pi), where pi are the frequencies of the classes (Menon et al. 2021, eq. 10); the model
    itself returns the outputs. With `freeze`, or in the steps of `real_finish` with
    `finish_layers`, the new layers alone are trained; with `freeze` the features before a last
    layer are computed once. A non-finite loss returns the training to its last good weights, at a
    lower rate; a batch for which the device has no memory passes through the model in parts.
    torch's global generators are left as they were.

    Args:
        samples: Images to train on.
        task: What is learnt.
        n_classes: Of the task's labels.
        settings: Of the training.
        device: A torch device.
        progress: Gets the steps done and the steps in all.
        warn: See `Warn`.
        sync: With processes that train the same model, see `tools.compute.data_parallel`.
        is_real: Which samples are photographs, (n,), with `DstmSettings`; None: none.

    Returns:
        The model, and the mean loss of the last tenth of the steps.

    Raises:
        DataError: No image has a weight above 0.
        ShapingError: The loss diverges more than `MAX_RETURNS` times.
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
    """Return samples as a batch on a device, augmented as the settings say."""
    images = torch.from_numpy(samples.images).to(device).float() / 255
    batch = Minibatch(images, task.labels(samples).to(device), flips=flips)
    if settings.augment:
        batch = task.augment(batch, generator)
    if settings.augment == "strong":
        batch = strong.augment(batch, generator, moves=not task.needs)
    return batch


class _GoodWeights:
    """The last good weights of a training, with the state of its optimizer.

    Attributes:
        n_returns: How often the training has returned to them.
    """

    def __init__(self, model: Model, optimizer: torch.optim.Optimizer) -> None:
        self.n_returns = 0
        self._parts: Sequence[Any] = (model, optimizer)
        self._states: list[Any] = []

    def keep(self) -> None:
        """Copy the weights as they are."""
        self._states = [copy.deepcopy(part.state_dict()) for part in self._parts]

    def restore(self) -> bool:
        """Return to them; False where that was done `MAX_RETURNS` times, or there are none."""
        self.n_returns += 1
        if self.n_returns > MAX_RETURNS or not self._states:
            return False
        for part, state in zip(self._parts, self._states, strict=True):
            part.load_state_dict(state)
        return True


def _trained_part(
    model: Model, task: Task, settings: TrainSettings
) -> tuple[torch.nn.Module, FrozenFeatures | None]:
    """Freeze what the settings say; return what is trained, and what computes its input."""
    if not isinstance(settings, DstmSettings) or settings.freeze == "none":
        return model, None
    head = freeze(model)
    # Where every batch holds new images, there is nothing to keep.
    is_kept = not task.needs and settings.augment != "strong"
    return (head, FrozenFeatures(model)) if is_kept else (model, None)


def _groups(model: Model, settings: TrainSettings) -> list[dict[str, Any]]:
    """Return the parameters that are trained, by their rates; vectors are not decayed."""
    rate = settings.backbone_rate if isinstance(settings, DstmSettings) else 1.0
    own = {id(p) for p in new_layers(model).parameters()} if rate != 1 else set()
    groups: list[dict[str, Any]] = []
    for of_head in (False, True) if own else (False,):
        lr = {} if of_head or rate == 1 else {"lr": settings.learning_rate * rate}
        part = [p for p in model.parameters() if p.requires_grad and (id(p) in own) == of_head]
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

    Whenever the device has no memory for one, there are twice as many parts. The adjustment,
    (n_classes,), is added to the outputs.

    Returns:
        The loss, and the number of parts that sufficed.
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
            # Batch normalisation needs two images.
            if n < 4 * n_parts:
                raise ShapingError(
                    f"The device has no memory to train on {n // n_parts} images: {error} End "
                    "other programs on it, choose a smaller model, or set device=cpu."
                ) from error
            n_parts *= 2
            torch.cuda.empty_cache()
            warn("out of memory in training", f"Batches pass in {n_parts} parts from now on.")


def _one_cycle(progress: float) -> float:
    """Return the learning rate as a share of the highest, at `progress`, 0..1, of the training."""
    if progress < _WARMUP:
        return 0.04 + 0.96 * progress / _WARMUP
    return 0.5 + 0.5 * math.cos(math.pi * (progress - _WARMUP) / (1 - _WARMUP))
