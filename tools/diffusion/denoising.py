"""Training of denoisers: a resumable trainer and the loss of an MTDM."""

from __future__ import annotations

import json
import math
import re
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch.nn.functional import pixel_unshuffle

from memory.errors import SettingsError
from memory.files import write_bytes, write_json
from tools.data.samples import Dense
from tools.diffusion.pipeline import MTDMPipeline
from tools.models.processor import in_bfloat16
from tools.settings import CaptionedRun, PretrainSettings

Progress = Callable[[int, float, float], None]
"""Called with the number of finished steps, the loss of the last one and the elapsed seconds."""

MIN_SNR_GAMMA = 5.0
"""Largest weight of a noise level in the loss (Min-SNR, Hang et al. 2023)."""

_MAY_CHANGE = frozenset(
    {
        "steps",
        "save_every",
        "s_noise",
        "timestep_rho",
        "class_balance_exponent",
        "class_balance_scope",
        "lora",
        "joint",
    }
)

_CHECKPOINT = re.compile(r"train-\d{7,}\.safetensors")


class DiffusionTrainer:
    """A resumable training loop: AdamW, exponential moving average (EMA) of weights, checkpoints.

    Training resumes from `train-STEP.safetensors` and `train.json` in the folder.

    Args:
        folder: Folder of the checkpoints.
        settings: Number of steps, learning rate, EMA decay and checkpoint interval.
        network: Module to train; checkpoints hold its state.
    """

    def __init__(self, folder: Path, settings: CaptionedRun, network: torch.nn.Module) -> None:
        self.average = {k: v.detach().clone() for k, v in network.state_dict().items()}
        self._folder = folder
        self._settings = settings
        self._network = network
        self._optimizer = torch.optim.AdamW(
            network.parameters(), settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
        )

    def train(
        self,
        first: int,
        loss_of: Callable[[int], torch.Tensor],
        progress: Progress,
        on_checkpoint: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Run the training steps from `first` to the last one.

        Args:
            first: Index of the first step, as returned by `restore`.
            loss_of: Returns the loss of a step.
            progress: Called after each step.
            on_checkpoint: Called with the number of finished steps after each checkpoint.
        """
        started = time.monotonic()
        for step in range(first, self._settings.steps):
            loss = loss_of(step)
            self.update(step, loss)
            done = step + 1
            progress(done, loss.item(), time.monotonic() - started)
            if done % self._settings.save_every == 0 or done == self._settings.steps:
                self.save(done, loss.item())
                on_checkpoint(done)

    def update(self, step: int, loss: torch.Tensor) -> None:
        """Take one optimizer step on a loss and update the averaged weights."""
        for group in self._optimizer.param_groups:
            group["lr"] = _learning_rate(step, self._settings)
        self._optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self._network.parameters(), 1.0)
        self._optimizer.step()
        decay = min(self._settings.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in self._network.state_dict().items():
                self.average[name].lerp_(value, 1 - decay)

    def save(self, step: int, loss: float) -> None:
        """Write a checkpoint; `train.json` comes last, as it marks the tensors as complete."""
        tensors = {f"unet.{k}": v for k, v in self._network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        state = self._optimizer.state_dict()["state"]
        for index, values in state.items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
        data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
        current = self._last_checkpoint().get("file")
        for old in self._folder.glob("train-*.safetensors"):
            if _CHECKPOINT.fullmatch(old.name) and old.name != current:
                old.unlink()
        name = f"train-{step:07d}.safetensors"
        write_bytes(self._folder / name, data)
        settings = self._settings.model_dump(mode="json")
        meta = {"step": step, "file": name, "loss": loss, "settings": settings}
        write_json(self._folder / "train.json", meta)

    def restore(self) -> int:
        """Load the last checkpoint and return its number of finished steps; 0 without one.

        Raises:
            SettingsError: The checkpoint was written with other settings.
        """
        meta = self._last_checkpoint()
        if not meta:
            return 0
        # Settings unknown to the version that wrote the checkpoint had today's default value.
        stored = type(self._settings).model_validate(meta["settings"])
        old, new = (
            s.model_dump(mode="json", exclude=set(_MAY_CHANGE)) for s in (stored, self._settings)
        )
        if old != new:
            changed = [f"{k}: {old[k]} -> {new[k]}" for k in new if old[k] != new[k]]
            raise SettingsError(
                f"{self._folder} holds a run with other settings ({'; '.join(changed)}). Use the "
                "same settings to continue it, or another folder to start anew."
            )
        tensors = load_file(self._folder / meta["file"])
        weights = {k[5:]: v for k, v in tensors.items() if k.startswith("unet.")}
        self._network.load_state_dict(weights)
        for name in self.average:
            self.average[name].copy_(tensors[f"average.{name}"])
        state: dict[int, dict[str, torch.Tensor]] = {}
        for key, value in tensors.items():
            if key.startswith("optimizer."):
                _, index, name = key.split(".")
                state.setdefault(int(index), {})[name] = value
        self._optimizer.load_state_dict({**self._optimizer.state_dict(), "state": state})
        return int(meta["step"])

    def _last_checkpoint(self) -> dict[str, Any]:
        """Return the content of train.json; {} without a checkpoint."""
        path = self._folder / "train.json"
        return json.loads(path.read_text("utf-8")) if path.exists() else {}


def denoising_loss(
    pipeline: MTDMPipeline,
    x: torch.Tensor,
    weight: torch.Tensor,
    states: torch.Tensor,
    mask: torch.Tensor,
    settings: PretrainSettings,
    step: int,
) -> torch.Tensor:
    """Return the weighted squared error of the denoised estimate, a scalar.

    Min-SNR weights, clamped at `MIN_SNR_GAMMA` (Hang et al. 2023); unclamped for the velocity.
    With probability `label_dropout` the labels of an image are replaced by pure noise, so that one
    network learns both the joint and the image distribution (UniDiffuser, Bao et al. 2023).

    Args:
        pipeline: Pipeline whose network is trained.
        x: Folded channels, (n, c, h, w), see `to_channels`.
        weight: Loss weight of each value, same shape.
        states: Token states of the captions, (n, tokens, 384).
        mask: Token mask, (n, tokens).
        settings: Seed, precision and label dropout.
        step: Training step; the noise is a function of (seed, step).
    """
    generator = torch.Generator("cpu").manual_seed(settings.seed * 1_000_003 + step)
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    n_times = len(pipeline.scheduler.alphas_cumprod)
    t = torch.randint(n_times, (len(x),), generator=generator).to(x.device)
    image_level, label_level = pipeline.levels(t)
    if settings.label_dropout:
        dropped = torch.rand(len(x), generator=generator) < settings.label_dropout
        label_level = torch.where(dropped.to(x.device), 0.0, label_level)
    levels = (image_level, label_level)
    noisy = pipeline.add_noise(x, noise, levels)
    kind = x.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=in_bfloat16(settings.precision, kind)):
        clean = pipeline.predict(noisy, t, states, mask, levels).float()
    error = pipeline.reconstruct(pipeline.project(clean - x)) ** 2
    gamma = math.inf if pipeline.prediction == "velocity" else MIN_SNR_GAMMA
    snr_weight = (1 / (1 - pipeline.per_channel(levels))).clamp(max=gamma)
    return (weight * snr_weight * error).sum() / weight.sum()


def to_channels(
    pipeline: MTDMPipeline, images: NDArray[np.uint8], labels: Dense
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return folded channels and their loss weights (0: unknown), (n, c, h, w) each."""
    pixels = torch.from_numpy(images.astype(np.float32) / 255)
    known = torch.ones_like(pixels)
    if not pipeline.codes.kinds:
        return pipeline.fold(pixels), pixel_unshuffle(known, pipeline.config.patch)
    values, is_known = pipeline.codes.encode(labels, images.shape[2:])
    known = torch.cat([known, torch.from_numpy(is_known.astype(np.float32))], dim=1)
    x = pipeline.fold(pixels, torch.from_numpy(values))
    return x, pixel_unshuffle(known, pipeline.config.patch)


def _learning_rate(step: int, settings: CaptionedRun) -> float:
    """Return the learning rate of a step: linear warm-up, constant, linear cooldown to zero."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    left = (settings.steps - step) / max(1.0, settings.cooldown_share * settings.steps)
    return settings.learning_rate * min(warm, left, 1.0)
