"""Data-parallel training on several devices of one machine with torch.distributed.

Every process samples the same batches, computes the gradients of its share of each and steps along
the average of all gradients, so that all processes hold the same model; the first one saves it and
reports progress. When a process fails, torch ends the others. Batch normalisation uses the
statistics of each process's share.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import distributed, multiprocessing
from torch.multiprocessing.spawn import ProcessException, start_processes

from memory.errors import SettingsError, ShapingError
from tools import tasks
from tools.data.stored_images import StoredImages
from tools.models.dstm_file import load_model, save_model
from tools.settings import TrainSettings
from tools.tasks import Minibatch, Model
from tools.train_dstm import Callbacks, Trainer, train_model

_POLL_S = 0.1
# Batch normalisation needs at least two images.
_MIN_SHARE = 2


class DataParallelTrainer(Trainer):
    """Trains in several processes.

    Args:
        n_processes: Number of processes, one per GPU or all on the CPU.
        device: Torch device.
        batch_size: Batch size of the training, a multiple of `n_processes`.

    Raises:
        SettingsError: There are fewer GPUs, or a batch cannot be divided evenly.
    """

    def __init__(self, n_processes: int, device: str, batch_size: int) -> None:
        n_devices = torch.cuda.device_count()
        if device.startswith("cuda") and n_processes > n_devices:
            raise SettingsError(
                f"compute.train_processes is {n_processes}, but this machine has {n_devices} GPUs. "
                "Set one process for each GPU at most."
            )
        if batch_size % n_processes or batch_size < _MIN_SHARE * n_processes:
            raise SettingsError(
                f"compute.train_processes is {n_processes}, which do not share a batch of "
                f"{batch_size} images (dstm.batch_size) evenly, {_MIN_SHARE} or more for each. "
                "Choose a batch size that is a multiple."
            )
        super().__init__(device, n_processes)

    def train(
        self,
        shards: Sequence[Path],
        n_classes: int,
        settings: TrainSettings,
        callbacks: Callbacks | None = None,
        real: Sequence[Path] = (),
    ) -> tuple[Model, float]:
        """See `tools.train_dstm.Trainer`; errors of processes are raised here."""
        messages = multiprocessing.get_context("spawn").SimpleQueue()
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            work = (shards, n_classes, settings, real)
            processes = start_processes(
                _train_share,
                (self.n_processes, self.device, folder, messages, work),
                self.n_processes,
                join=False,
            )
            try:
                self._watch(processes, messages, callbacks or Callbacks())
            finally:
                for process in processes.processes:
                    process.terminate()
                    process.join()
            model, meta = load_model(folder, self.device)
            return model, meta["loss"]

    def _watch(self, processes: Any, messages: Any, callbacks: Callbacks) -> None:
        """Forward the messages of the processes until all have ended or one has failed."""
        failure: ProcessException | None = None
        is_over = False
        while not is_over:
            try:
                is_over = processes.join(timeout=_POLL_S)
            except ProcessException as error:
                failure, is_over = error, True
            while not messages.empty():
                message = messages.get()
                if isinstance(message, ShapingError):
                    raise message
                getattr(callbacks, message[0])(*message[1:])
        if failure:
            raise ShapingError(
                "The processes of the training ended without a result. Run the same command "
                f"again, or set compute.train_processes=1. {failure}"
            ) from failure


class _ProcessSync:
    """`GradientSync` of one process."""

    def __init__(self, rank: int, n_processes: int) -> None:
        self._rank, self._n_processes = rank, n_processes

    def share(self, batch: Minibatch) -> Minibatch:
        """See `GradientSync`."""
        share = slice(self._rank, None, self._n_processes)
        weights = None if batch.weights is None else batch.weights[share]
        return Minibatch(batch.images[share], batch.labels[share], weights)

    def mean(self, model: Model, loss: float) -> float:
        """See `GradientSync`; a single all-reduce covers all gradients and the loss."""
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        parts = [*(g.flatten() for g in gradients), gradients[0].new_tensor([loss])]
        mean = torch.cat(parts)
        distributed.all_reduce(mean)
        mean /= self._n_processes
        for gradient, part in zip(gradients, mean.split([len(p) for p in parts]), strict=False):
            gradient.copy_(part.view_as(gradient))
        return float(mean[-1])


def _train_share(
    rank: int,
    n_processes: int,
    device: str,
    folder: Path,
    messages: Any,
    work: tuple[Sequence[Path], int, TrainSettings, Sequence[Path]],
) -> None:
    """Train in one process; the first process reports progress and saves the model."""
    # Ctrl-C at a terminal must reach only the session, which ends these processes.
    os.setsid()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(1)
    backend = "gloo"
    if device.startswith("cuda"):
        backend, device = "nccl", f"cuda:{rank}"
        torch.cuda.set_device(device)
    shards, n_classes, settings, real = work
    is_first = rank == 0

    def report(*message: Any) -> None:
        if is_first:
            messages.put(message)

    distributed.init_process_group(
        backend, f"file://{folder}/rendezvous", rank=rank, world_size=n_processes
    )
    task, samples = tasks.build(settings.task), StoredImages(shards, real)
    try:
        model, loss = train_model(
            samples,
            task,
            n_classes,
            settings,
            device,
            lambda done, total: report("progress", done, total),
            lambda kind, message: report("warn", kind, message),
            _ProcessSync(rank, n_processes),
            samples.is_real,
        )
    except ShapingError as error:
        messages.put(error)
        raise
    if is_first:
        save_model(folder, model, {"task": settings.task, "loss": loss})
    distributed.barrier()
    distributed.destroy_process_group()
