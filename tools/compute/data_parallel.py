"""A training that several devices of this machine share, through Accelerate: a process for each.

Every process draws the same batches, passes its share of each through the model and takes the step
that the mean of all gradients says, so that all hold the same model; the first one writes it and
tells how far they are. Starting the processes, and ending all when one of them fails, is the work
of torchrun. With normalisation over a batch, a process sees its own share alone.

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
from tools.settings import TrainSettings
from tools.tasks import Batch, Model
from tools.train_dstm import Progress, Tell, train_model

_LOOK_EVERY_S = 0.1
_ORDER, _TOLD, _FAILED, _LOG = "order.json", "told.jsonl", "failed.json", "log.txt"
# Batch normalisation needs two images.
_LEAST_SHARE = 2


class Team:
    """Trains in `n_processes` processes, each on a GPU of its own or all on the CPU.

    Raises SettingsError for more processes than there are GPUs, or than share a batch evenly.
    """

    def __init__(self, n_processes: int, device: str, batch_size: int) -> None:
        n_devices = torch.cuda.device_count()
        if device.startswith("cuda") and n_processes > n_devices:
            raise SettingsError(
                f"compute.train_processes is {n_processes}, but this machine has {n_devices} GPUs. "
                "Set one process for each GPU at most."
            )
        if batch_size % n_processes or batch_size < _LEAST_SHARE * n_processes:
            raise SettingsError(
                f"compute.train_processes is {n_processes}, which do not share a batch of "
                f"{batch_size} images (dstm.batch_size) evenly, {_LEAST_SHARE} or more for each. "
                "Choose a batch size that is a multiple."
            )
        self.n_processes = n_processes

    def train(
        self,
        shards: Sequence[Path],
        n_classes: int,
        settings: TrainSettings,
        device: str,
        progress: Progress = lambda done, total: None,
        tell: Tell = lambda what, told: None,
    ) -> tuple[Model, float, int]:
        """See `tools.train_dstm.Trainer`; an error of a process is raised here."""
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            order = {
                "shards": [str(path.absolute()) for path in shards],
                "n_classes": n_classes,
                "settings": settings.model_dump(mode="json"),
                "device": device,
                "for": os.getpid(),
            }
            write_json(folder / _ORDER, order)
            with self._started(folder) as process:
                n_read = 0
                while True:
                    is_over = process.poll() is not None
                    n_read = _pass_on(folder / _TOLD, n_read, progress, tell)
                    if is_over:
                        break
                    time.sleep(_LOOK_EVERY_S)
            if process.returncode:
                raise _error_of(folder)
            model, meta = load_model(folder, device)
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


def _pass_on(path: Path, n_read: int, progress: Progress, tell: Tell) -> int:
    """Pass on what the first process has told since `n_read` bytes; return how many there are."""
    with path.open("rb") if path.exists() else open(os.devnull, "rb") as file:
        file.seek(n_read)
        whole = file.read().rpartition(b"\n")[0]
    for line in whole.splitlines():
        told = json.loads(line)
        if "done" in told:
            progress(told["done"], told["total"])
        else:
            tell(told["what"], told["told"])
    return n_read + len(whole) + bool(whole)


def _error_of(folder: Path) -> ShapingError:
    """Return the error that a process has left, or the last lines that were printed."""
    if (folder / _FAILED).exists():
        failed = json.loads((folder / _FAILED).read_bytes())
        kind: type[ShapingError] = getattr(errors, failed["kind"])
        return kind(failed["told"])
    last = "\n".join((folder / _LOG).read_text("utf-8", "replace").splitlines()[-20:])
    return ShapingError(
        f"The processes that share the training ended without a result. Run the same command "
        f"again, or set compute.train_processes=1. The last lines that they printed:\n{last}"
    )


class _Member:
    """One of the processes: its share of a batch, and the mean with the others."""

    def __init__(self, device: str) -> None:
        self._accelerator = Accelerator(cpu=device == "cpu")
        self.device = str(self._accelerator.device)
        self.is_first = self._accelerator.is_main_process

    def share(self, batch: Batch) -> Batch:
        """See `tools.train_dstm.Sharing`."""
        own = slice(self._accelerator.process_index, None, self._accelerator.num_processes)
        return Batch(batch.images[own], batch.labels[own])

    def mean(self, model: Model, loss: float) -> float:
        """See `tools.train_dstm.Sharing`; one message for all."""
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


class _Voice:
    """What the first process tells whoever started it; the others say nothing."""

    def __init__(self, path: Path, is_heard: bool, heard_by: int) -> None:
        self._path, self._is_heard, self._heard_by = path, is_heard, heard_by

    def progress(self, done: int, total: int) -> None:
        """Tell the steps done; ends this process when nobody waits for it any more."""
        try:
            os.kill(self._heard_by, 0)
        except ProcessLookupError as error:
            raise SystemExit(1) from error
        self._say({"done": done, "total": total})

    def tell(self, what: str, told: str) -> None:
        """Tell of a fault."""
        self._say({"what": what, "told": told})

    def _say(self, what: dict[str, Any]) -> None:
        if self._is_heard:
            with self._path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(what) + "\n")


def main() -> None:
    """Train as one of the processes that torchrun has started."""
    folder = Path(sys.argv[1])
    order = json.loads((folder / _ORDER).read_bytes())
    member = _Member(order["device"])
    voice = _Voice(folder / _TOLD, member.is_first, order["for"])
    settings = TrainSettings.model_validate(order["settings"])
    try:
        samples = StoredImages([Path(name) for name in order["shards"]])
        model, loss, n_steps = train_model(
            samples,
            tasks.build(settings.task),
            order["n_classes"],
            settings,
            member.device,
            voice.progress,
            voice.tell,
            member,
        )
    except ShapingError as error:
        write_json(folder / _FAILED, {"kind": type(error).__name__, "told": str(error)})
        raise SystemExit(1) from error
    if member.is_first:
        save_model(folder, model, {"task": settings.task, "loss": loss, "n_steps": n_steps})
    member.close()


if __name__ == "__main__":
    main()
