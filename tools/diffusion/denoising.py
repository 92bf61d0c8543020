"""Training of denoisers: the resumable trainer, an MTDM's loss."""

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
"""Gets the steps done, the loss of the last one and the seconds since the first."""

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
    """A resumable training: AdamW, exponential moving average (EMA) of weights, checkpoints.

    `train-STEP.safetensors` and `train.json` in the folder allow to continue it.

    Args:
        folder: Of the checkpoints.
        settings: Steps, learning rate, decay of the average, interval of checkpoints.
        network: Trains; its state is what a checkpoint holds.
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
        """Take the steps from `first` on.

        Args:
            first: Number of the first step, as `restore` returns it.
            loss_of: Returns the loss of a step.
            progress: See `Progress`.
            on_checkpoint: Gets the steps done, after each checkpoint.
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
        """Change the weights once, by the gradient of a loss."""
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
        """Write the training state; the JSON file last, since it vouches for the tensors."""
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
        """Load the last checkpoint, if there is one, and return its step, else 0.

        Raises:
            SettingsError: The checkpoint was made with other settings.
        """
        meta = self._last_checkpoint()
        if not meta:
            return 0
        # Settings that an older version lacked had the value that is now the default.
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
        """Return what train.json says of the last checkpoint, {} without one."""
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
    """Return the weighted squared error of the estimate without noise, a scalar.

    Min-SNR weights, clamped at `MIN_SNR_GAMMA` (Hang et al. 2023); unclamped for the velocity.
    Labels of a share of the images may be noise alone (`label_dropout`), so that one network knows
    the joint distribution and that of images (UniDiffuser, Bao et al. 2023).

    Args:
        pipeline: Its network is trained.
        x: Folded channels, (n, c, h, w), see `to_channels`.
        weight: Of each channel in the loss, same shape.
        states: Token states of the captions, (n, tokens, 384).
        mask: Of the tokens, (n, tokens).
        settings: Seed, precision and label dropout.
        step: The noise is a function of (seed, step).
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
    """Return folded channels and their weight in the loss, 0 where unknown, (n, c, h, w) each."""
    pixels = torch.from_numpy(images.astype(np.float32) / 255)
    known = torch.ones_like(pixels)
    if not pipeline.codes.kinds:
        return pipeline.fold(pixels), pixel_unshuffle(known, pipeline.config.patch)
    values, is_known = pipeline.codes.encode(labels, images.shape[2:])
    known = torch.cat([known, torch.from_numpy(is_known.astype(np.float32))], dim=1)
    x = pipeline.fold(pixels, torch.from_numpy(values))
    return x, pixel_unshuffle(known, pipeline.config.patch)


def _learning_rate(step: int, settings: CaptionedRun) -> float:
    """Warm up, hold, then fall linearly to zero over the last part (cooldown)."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    left = (settings.steps - step) / max(1.0, settings.cooldown_share * settings.steps)
    return settings.learning_rate * min(warm, left, 1.0)
