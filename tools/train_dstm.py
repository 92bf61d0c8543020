"""The tool train_dstm: one training loop for all tasks, linear from top to bottom.

The same samples, settings and seed give the same weights, to the last bit on one CPU.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import torch
import torch.utils.deterministic

from memory.errors import DataError, ShapingError
from memory.records import Selection, Training, digest
from tools import tasks
from tools.data.jobs import job_id, round_folder, run_once
from tools.data.samples import Pool
from tools.data.selected import choices, read_choice
from tools.data.stored_images import StoredImages, contents
from tools.models.dstm_file import reproducible, save_model
from tools.settings import TrainSettings
from tools.tasks import Batch, Model, Task

Progress = Callable[[int, int], None]
"""Called with the steps done and the steps in all."""

Warn = Callable[[str, str], None]
"""Called with a problem that the training recovered from: its kind and a sentence."""

# How often a training returns to its last good weights, and the factor of its learning rate then.
MAX_RETURNS = 2
SLOWER = 0.3
_N_SNAPSHOTS = 20


class Callbacks(NamedTuple):
    """What is called while a DSTM trains."""

    progress: Progress = lambda done, total: None
    warn: Warn = lambda kind, message: None


class GradientSync(Protocol):
    """What processes that train one model together do at each step; each has the same batch."""

    def share(self, batch: Batch) -> Batch:
        """Return this process's part of a batch, as large as that of the others."""
        ...

    def mean(self, model: Model, loss: float) -> float:
        """Average the gradients over all processes; return the mean of their losses."""
        ...


class Trainer(Protocol):
    """Trains on stored images, in this process or in several.

    Attributes:
        n_processes: That share the training.
    """

    n_processes: int

    def train(
        self,
        shards: Sequence[Path],
        n_classes: int,
        settings: TrainSettings,
        callbacks: Callbacks | None = None,
    ) -> tuple[Model, float, int]:
        """Return the model, on the trainer's device, its loss and the steps, see `train_model`."""
        ...


@dataclass(frozen=True)
class LocalTrainer:
    """Trains in this process, on a torch device."""

    device: str = "cpu"
    n_processes = 1

    def train(
        self,
        shards: Sequence[Path],
        n_classes: int,
        settings: TrainSettings,
        callbacks: Callbacks | None = None,
    ) -> tuple[Model, float, int]:
        """See `Trainer`."""
        task, samples = tasks.build(settings.task), StoredImages(shards)
        progress, warn = callbacks or Callbacks()
        return train_model(samples, task, n_classes, settings, self.device, progress, warn)


def train_dstm(
    round: int,  # noqa: A002 (the name of the record's field)
    session_folder: Path,
    shards: Sequence[Path],
    class_names: Sequence[str],
    settings: TrainSettings,
    trainer: Trainer | None = None,
    selection: Selection | None = None,
    callbacks: Callbacks | None = None,
) -> Training:
    """Train the DSTM of a round on the shards of all rounds so far, once.

    The model is in rounds/NNN of the session. Called again, the stored result is returned; after a
    kill the training starts over.

    Args:
        round: Number of the round.
        session_folder: Of the session.
        shards: Relative to the session folder, or absolute. Images that a round left out are not
            used.
        class_names: Of the labels that the task learns.
        settings: Of the training.
        trainer: Does the work; None: `LocalTrainer` on the CPU.
        selection: How this round's images were chosen.
        callbacks: Progress and warnings; None: none.

    Raises:
        DataError: A shard is missing or damaged.
    """
    trainer = trainer or LocalTrainer()
    paths = [session_folder / shard for shard in shards]
    arguments: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "class_names": list(class_names),
        # A digest, so that the stored job does not grow with the rounds.
        "shards": digest([[path.name, contents(path).sha256] for path in paths]),
    }
    if chosen := choices(paths):
        arguments["chosen"] = digest([read_choice(path).sha256 for path in chosen])
    if trainer.n_processes > 1:
        arguments["processes"] = trainer.n_processes
    job = job_id(session_folder.name, round, "train_dstm", arguments)
    job_folder, model_folder = session_folder / "jobs" / job, round_folder(session_folder, round)

    def work() -> dict[str, Any]:
        n_images = len(StoredImages(paths))
        model, final_loss, n_steps = trainer.train(paths, len(class_names), settings, callbacks)
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
            n_images=n_images,
            n_steps=n_steps,
            final_loss=final_loss,
            sha256=save_model(model_folder, model, meta),
            selection=selection,
        )
        return training.to_json()

    if not (model_folder / "model.json").exists():
        (job_folder / "result.json").unlink(missing_ok=True)
    return Training.model_validate(run_once(job_folder, arguments, work))


def train_model(
    samples: Pool,
    task: Task,
    n_classes: int,
    settings: TrainSettings,
    device: str = "cpu",
    progress: Progress = lambda done, total: None,
    warn: Warn = lambda kind, message: None,
    sync: GradientSync | None = None,
) -> tuple[Model, float, int]:
    """Train a new model.

    AdamW under a one-cycle schedule (Smith and Topin 2019). Images are sampled in proportion to
    their weight, classes equally often if `balance_classes`. A non-finite loss returns the training
    to its last good weights, at a lower rate; a batch for which the device has no memory passes
    through the model in parts. torch's global generators are left as they were.

    Args:
        samples: Images to train on.
        task: What is learnt.
        n_classes: Of the task's labels.
        settings: Of the training.
        device: A torch device.
        progress: Gets the steps done and the steps in all.
        warn: See `Warn`.
        sync: With processes that train the same model, see `tools.compute.data_parallel`.

    Returns:
        The model, the mean loss of the last tenth of the steps, and the number of steps.

    Raises:
        DataError: No image has a weight above 0.
        ShapingError: The loss diverges more than `MAX_RETURNS` times.
    """
    chances = sampling_chances(samples, settings.balance_classes)
    generator = torch.Generator().manual_seed(settings.seed)
    with reproducible(settings.seed, device):
        model = task.build_model(samples.image_shape, n_classes, settings).to(device).train()
        decayed = [p for p in model.parameters() if p.ndim > 1]
        others = [p for p in model.parameters() if p.ndim <= 1]
        groups: list[dict[str, Any]] = [
            {"params": decayed},
            {"params": others, "weight_decay": 0.0},
        ]
        optimizer = torch.optim.AdamW(
            groups, lr=settings.learning_rate, weight_decay=settings.weight_decay
        )
        n_returns = 0
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: SLOWER**n_returns * _one_cycle(step / settings.steps)
        )
        snapshot: tuple[Any, Any] = ({}, {})
        losses: list[float] = []
        n_parts = 1
        for step in range(settings.steps):
            rows = torch.multinomial(
                chances, settings.batch_size, replacement=True, generator=generator
            )
            part = samples.take(rows.numpy())
            images = torch.from_numpy(part.images).to(device).float() / 255
            batch = Batch(images, task.labels(part).to(device))
            if settings.augment:
                batch = task.augment(batch, generator)
            if sync:
                batch = sync.share(batch)
            loss, n_parts = _backward(model, task, batch, settings, n_parts, warn)
            if sync:
                loss = sync.mean(model, loss)
            if math.isfinite(loss):
                losses.append(loss)
                if step % max(1, settings.steps // _N_SNAPSHOTS) == 0:
                    snapshot = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
                optimizer.step()
            else:
                n_returns += 1
                where = f"the loss is {loss} at step {step + 1} of {settings.steps}"
                if n_returns > MAX_RETURNS or not losses:
                    raise ShapingError(
                        f"The training diverged: {where}. Lower the learning rate "
                        f"({settings.learning_rate:g})."
                    )
                model.load_state_dict(snapshot[0])
                optimizer.load_state_dict(snapshot[1])
                warn("diverged", f"In the training {where}: back to good weights, slower.")
            schedule.step()
            progress(step + 1, settings.steps)
    last = losses[-max(1, settings.steps // 10) :]
    return model.eval(), sum(last) / len(last), settings.steps


def _backward(
    model: Model, task: Task, batch: Batch, settings: TrainSettings, n_parts: int, warn: Warn
) -> tuple[float, int]:
    """Compute the gradient of a batch's mean loss, in `n_parts` parts.

    Whenever the device has no memory for one, there are twice as many parts.

    Returns:
        The loss, and the number of parts that sufficed.
    """
    n = len(batch.images)
    is_short = settings.precision == "bfloat16"
    while True:
        model.zero_grad(set_to_none=True)
        total = 0.0
        try:
            for images, labels in zip(
                batch.images.chunk(n_parts), batch.labels.chunk(n_parts), strict=True
            ):
                part = Batch(images, labels)
                with torch.autocast(images.device.type, torch.bfloat16, enabled=is_short):
                    outputs = model(images).float()
                loss = task.loss(outputs, part, settings).mean() * (len(images) / n)
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


def sampling_chances(samples: Pool, balance_classes: bool) -> torch.Tensor:
    """Return the sampling weight of each image, float64, (n,), proportional to its own weight.

    Args:
        samples: n images.
        balance_classes: Whether classes with a weight above 0 are sampled equally often.

    Raises:
        DataError: No image has a weight above 0.
    """
    chances = torch.from_numpy(samples.weights).double().clone()
    if not chances.sum() > 0:
        raise DataError(
            f"None of {len(samples)} images has a weight above 0, so there is nothing to train "
            "on. Generate more images, or lower the threshold of the audit."
        )
    if balance_classes:
        totals = torch.bincount(torch.from_numpy(samples.classes), weights=chances)
        chances /= totals.clamp(min=1e-12)[torch.from_numpy(samples.classes)]
    return chances


def _one_cycle(progress: float, warmup: float = 0.15) -> float:
    """Return the learning rate as a share of the highest, at `progress`, 0..1, of the training."""
    if progress < warmup:
        return 0.04 + 0.96 * progress / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (progress - warmup) / (1 - warmup))
