"""Data-parallel training on several devices of this machine, through Accelerate.

Every process samples the same batches, passes its share of each through the model and steps along
the mean of all gradients, so that all hold the same model; the first one writes it and reports
progress. torchrun starts the processes and ends all when one fails. Normalisation over a batch is
over a process's own share.

    python -m torch.distributed.run --standalone --nproc-per-node N -m tools.compute.data_parallel
    FOLDER
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from memory import errors
from memory.errors import SettingsError, ShapingError
from memory.files import write_json
from tools import tasks
from tools.data.stored_images import StoredImages
from tools.models.dstm_file import load_model, save_model
from tools.settings import DstmSettings, TrainSettings
from tools.tasks import Batch, Model
from tools.train_dstm import Callbacks, train_model

_POLL_S = 0.1
_SPEC, _MESSAGES, _FAILED, _LOG = "spec.json", "messages.jsonl", "failed.json", "log.txt"
# Batch normalisation needs two images.
_MIN_SHARE = 2


class DataParallelTrainer:
    """Trains in several processes; a `tools.train_dstm.Trainer`.

    Args:
        n_processes: Each on a GPU of its own, or all on the CPU.
        device: A torch device.
        batch_size: Of the training, a multiple of `n_processes`.

    Raises:
        SettingsError: There are fewer GPUs, or a batch cannot be shared evenly.
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
        self.n_processes, self._device = n_processes, device

    def train(
        self,
        shards: Sequence[Path],
        n_classes: int,
        settings: TrainSettings,
        callbacks: Callbacks | None = None,
        real: Sequence[Path] = (),
    ) -> tuple[Model, float, int]:
        """See `tools.train_dstm.Trainer`; an error of a process is raised here."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            spec = {
                "shards": [str(path.absolute()) for path in shards],
                "real": [str(path.absolute()) for path in real],
                "is_dstm": isinstance(settings, DstmSettings),
                "n_classes": n_classes,
                "settings": settings.model_dump(mode="json"),
                "device": self._device,
                "parent": os.getpid(),
            }
            write_json(folder / _SPEC, spec)
            with self._started(folder) as process:
                n_read = 0
                while True:
                    is_over = process.poll() is not None
                    n_read = _forward(folder / _MESSAGES, n_read, callbacks or Callbacks())
                    if is_over:
                        break
                    time.sleep(_POLL_S)
            if process.returncode:
                raise _error_of(folder)
            model, meta = load_model(folder, self._device)
            return model, meta["loss"], meta["n_steps"]

    @contextmanager
    def _started(self, folder: Path) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
        command += [
            "--nproc-per-node",
            str(self.n_processes),
            "-m",
            "tools.compute.data_parallel",
            str(folder),
        ]
        with (folder / _LOG).open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        try:
            yield process
        finally:
            if process.poll() is None:
                # torchrun ends its processes, which are in sessions of their own.
                process.send_signal(signal.SIGTERM)
                process.wait()


def _forward(path: Path, n_read: int, callbacks: Callbacks) -> int:
    """Forward the messages of the first process after `n_read` bytes; return the bytes read."""
    with path.open("rb") if path.exists() else open(os.devnull, "rb") as file:
        file.seek(n_read)
        whole = file.read().rpartition(b"\n")[0]
    for line in whole.splitlines():
        message = json.loads(line)
        if "done" in message:
            callbacks.progress(message["done"], message["total"])
        else:
            callbacks.warn(message["kind"], message["text"])
    return n_read + len(whole) + bool(whole)


def _error_of(folder: Path) -> ShapingError:
    """Return the error that a process wrote, or one with the last lines of the log."""
    if (folder / _FAILED).exists():
        failed = json.loads((folder / _FAILED).read_bytes())
        kind: type[ShapingError] = getattr(errors, failed["kind"])
        return kind(failed["message"])
    last = "\n".join((folder / _LOG).read_text("utf-8", "replace").splitlines()[-20:])
    return ShapingError(
        f"The processes of the training ended without a result. Run the same command again, or "
        f"set compute.train_processes=1. Their last lines of output:\n{last}"
    )


class _ProcessSync:
    """The `GradientSync` of one of the processes."""

    def __init__(self, device: str) -> None:
        self._accelerator = Accelerator(cpu=device == "cpu")
        self.device = str(self._accelerator.device)
        self.is_first = self._accelerator.is_main_process

    def share(self, batch: Batch) -> Batch:
        """See `GradientSync`."""
        share = slice(self._accelerator.process_index, None, self._accelerator.num_processes)
        weights = None if batch.weights is None else batch.weights[share]
        return Batch(batch.images[share], batch.labels[share], weights)

    def mean(self, model: Model, loss: float) -> float:
        """See `GradientSync`; one message for all gradients and the loss."""
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        parts = [*(g.flatten() for g in gradients), torch.tensor([loss], device=self.device)]
        mean: Any = self._accelerator.reduce(torch.cat(parts), "mean")
        for gradient, part in zip(gradients, mean.split([len(p) for p in parts]), strict=False):
            gradient.copy_(part.view_as(gradient))
        return float(mean[-1])

    def close(self) -> None:
        """Wait for the others."""
        self._accelerator.wait_for_everyone()
        self._accelerator.end_training()


class _Reporter:
    """Writes messages of the first process for the parent; the others write none."""

    def __init__(self, path: Path, is_first: bool, parent: int) -> None:
        self._path, self._is_first, self._parent = path, is_first, parent

    def progress(self, done: int, total: int) -> None:
        """Report the steps done; ends this process when the parent is gone."""
        try:
            os.kill(self._parent, 0)
        except ProcessLookupError as error:
            raise SystemExit(1) from error
        self._write({"done": done, "total": total})

    def warn(self, kind: str, message: str) -> None:
        """Report a problem that the training recovered from."""
        self._write({"kind": kind, "text": message})

    def _write(self, message: dict[str, Any]) -> None:
        if self._is_first:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(message) + "\n")


def main() -> None:
    """Train as one of the processes that torchrun has started."""
    folder = Path(sys.argv[1])
    spec = json.loads((folder / _SPEC).read_bytes())
    sync = _ProcessSync(spec["device"])
    reporter = _Reporter(folder / _MESSAGES, sync.is_first, spec["parent"])
    kind = DstmSettings if spec["is_dstm"] else TrainSettings
    settings = kind.model_validate(spec["settings"])
    task, n_classes = tasks.build(settings.task), spec["n_classes"]
    callbacks = reporter.progress, reporter.warn
    try:
        shards, real = ([Path(name) for name in spec[part]] for part in ("shards", "real"))
        samples = StoredImages(shards, real)
        model, loss, n_steps = train_model(
            samples, task, n_classes, settings, sync.device, *callbacks, sync, samples.is_real
        )
    except ShapingError as error:
        write_json(folder / _FAILED, {"kind": type(error).__name__, "message": str(error)})
        raise SystemExit(1) from error
    if sync.is_first:
        save_model(folder, model, {"task": settings.task, "loss": loss, "n_steps": n_steps})
    sync.close()


if __name__ == "__main__":
    main()
