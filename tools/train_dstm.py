"""Training of the DSTM: one loop for all tasks, linear from top to bottom.

The same samples, settings and seed give the same weights, to the last bit on one CPU.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

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

Tell = Callable[[str, str], None]
"""Called with what went wrong in a training that went on, in short and in a sentence."""


class Sharing(Protocol):
    """What several processes that train one model do at each step; each has the same batch."""

    def share(self, batch: Batch) -> Batch:
        """Return this process's part of a batch, as large as that of the others."""
        ...

    def mean(self, model: Model, loss: float) -> float:
        """Make the gradients those of the whole batch; return the mean of all losses."""
        ...


class Trainer(Protocol):
    """Trains on stored images in several processes, as `train_model` does in this one."""

    n_processes: int

    def train(
        self,
        shards: Sequence[Path],
        n_classes: int,
        settings: TrainSettings,
        device: str,
        progress: Progress = lambda done, total: None,
        tell: Tell = lambda what, told: None,
    ) -> tuple[Model, float, int]:
        """Return the model, on `device`, its loss and the steps, see `train_model`."""
        ...


# How often a training goes back to weights that were good, and how much slower it learns then.
MAX_RETURNS = 2
SLOWER = 0.3
_SAVES = 20


def train_model(
    samples: Pool,
    task: Task,
    n_classes: int,
    settings: TrainSettings,
    device: str = "cpu",
    progress: Progress = lambda done, total: None,
    tell: Tell = lambda what, told: None,
    sharing: Sharing | None = None,
) -> tuple[Model, float, int]:
    """Train a new model; return it, the mean loss of the last tenth of the steps, and the steps.

    AdamW under a one-cycle schedule (Smith and Topin 2019). An image is drawn as often as its
    weight says, classes equally often if `balance_classes`. torch's global generators are left as
    they were. A loss that is no number sends the training back to its last good weights, at a
    lower rate; a batch for which the device has no memory is passed through the model in parts.
    sharing: with processes that train the same model beside this one, see
    `tools.compute.data_parallel`. Raises DataError when no image has a weight, ShapingError when
    the loss diverges again and again.
    """
    chances = sampling_chances(samples, settings.balance_classes)
    generator = torch.Generator().manual_seed(settings.seed)
    with reproducible(settings.seed, device):
        model = task.build_model(samples.image_shape, n_classes, settings).to(device).train()
        decayed = [p for p in model.parameters() if p.ndim > 1]
        plain = [p for p in model.parameters() if p.ndim <= 1]
        optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": settings.weight_decay},
                {"params": plain, "weight_decay": 0.0},
            ],
            lr=settings.learning_rate,
        )
        n_returns = 0
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimizer, lambda step: SLOWER**n_returns * _one_cycle(step / settings.steps)
        )
        good: tuple[Any, Any] = ({}, {})
        losses: list[float] = []
        n_parts = 1
        for step in range(settings.steps):
            chosen = torch.multinomial(
                chances, settings.batch_size, replacement=True, generator=generator
            )
            drawn = samples.take(chosen.numpy())
            images = torch.from_numpy(drawn.images).to(device).float() / 255
            batch = Batch(images, task.labels(drawn).to(device))
            if settings.augment:
                batch = task.augment(batch, generator)
            if sharing:
                batch = sharing.share(batch)
            loss, n_parts = _backward(model, task, batch, settings, n_parts, tell)
            if sharing:
                loss = sharing.mean(model, loss)
            if math.isfinite(loss):
                losses.append(loss)
                if step % max(1, settings.steps // _SAVES) == 0:
                    # Good, since this loss comes from them.
                    good = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
                optimizer.step()
            else:
                n_returns += 1
                where = f"the loss is {loss} at step {step + 1} of {settings.steps}"
                if n_returns > MAX_RETURNS or not losses:
                    raise ShapingError(
                        f"The training diverged: {where}. Lower the learning rate "
                        f"({settings.learning_rate:g})."
                    )
                model.load_state_dict(good[0])
                optimizer.load_state_dict(good[1])
                tell("diverged", f"In the training {where}: back to good weights, slower.")
            schedule.step()
            progress(step + 1, settings.steps)
    last = losses[-max(1, settings.steps // 10) :]
    return model.eval(), sum(last) / len(last), settings.steps


def _backward(
    model: Model, task: Task, batch: Batch, settings: TrainSettings, n_parts: int, tell: Tell
) -> tuple[float, int]:
    """Leave the gradient of the mean loss of a batch in the model; return the loss.

    The batch passes in `n_parts` parts, twice as many whenever the device has no memory for one;
    returns the number that sufficed, too.
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
                    said = model(images).float()
                loss = task.loss(said, part, settings).mean() * (len(images) / n)
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
            tell("out of memory in training", f"Batches pass in {n_parts} parts from now on.")


def sampling_chances(samples: Pool, balance_classes: bool) -> torch.Tensor:
    """Return how often to draw each image, float64, (n,), in proportion to its weight.

    If `balance_classes`, the classes that have weight at all share the draws equally. Raises
    DataError when no image has a weight above 0.
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


def train_dstm(
    round: int,  # noqa: A002 (the name of the record's field)
    session_folder: Path,
    shards: Sequence[Path],
    class_names: Sequence[str],
    settings: TrainSettings,
    device: str = "cpu",
    progress: Progress = lambda done, total: None,
    tell: Tell = lambda what, told: None,
    selection: Selection | None = None,
    trainer: Trainer | None = None,
) -> Training:
    """Train the DSTM of a round on the shards of all rounds so far, once.

    selection: how this round's images were chosen; images that a round left out are not used.
    trainer: trains in several processes; None: in this one. shards: relative to the session folder,
    or absolute. The model is in rounds/NNN of the session; run again, the stored result is
    returned, after a kill the training starts over. Raises DataError for a shard that is missing or
    damaged.
    """
    paths = [session_folder / shard for shard in shards]
    arguments: dict[str, Any] = {
        "settings": settings.model_dump(mode="json"),
        "class_names": list(class_names),
        # Not the list, so that what is stored of a job does not grow with the rounds.
        "shards": digest([[path.name, contents(path).sha256] for path in paths]),
    }
    if chosen := choices(paths):
        arguments["chosen"] = digest([read_choice(path).sha256 for path in chosen])
    if trainer:
        arguments["processes"] = trainer.n_processes
    name = job_id(session_folder.name, round, "train_dstm", arguments)
    job_folder, model_folder = session_folder / "jobs" / name, round_folder(session_folder, round)

    def work() -> dict[str, Any]:
        samples = StoredImages(paths)
        n_classes = len(class_names)
        if trainer:
            found = trainer.train(paths, n_classes, settings, device, progress, tell)
        else:
            task = tasks.build(settings.task)
            found = train_model(samples, task, n_classes, settings, device, progress, tell)
        model, final_loss, n_steps = found
        meta = {
            "task": settings.task,
            "class_names": list(class_names),
            "settings": arguments["settings"],
            "job_id": name,
        }
        training = Training(
            round=round,
            job_id=name,
            model=model_folder.relative_to(session_folder).as_posix(),
            n_images=len(samples),
            n_steps=n_steps,
            final_loss=final_loss,
            sha256=save_model(model_folder, model, meta),
            selection=selection,
        )
        return training.to_json()

    if not (model_folder / "model.json").exists():
        (job_folder / "result.json").unlink(missing_ok=True)
    return Training.model_validate(run_once(job_folder, arguments, work))


def _one_cycle(part: float, warmup: float = 0.15) -> float:
    """Return the share of the highest learning rate at `part`, 0..1, of the training."""
    if part < warmup:
        return 0.04 + 0.96 * part / warmup
    return 0.5 + 0.5 * math.cos(math.pi * (part - warmup) / (1 - warmup))
