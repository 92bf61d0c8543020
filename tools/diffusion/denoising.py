"""The steps of an MTDM's training: batches, noise, loss, checkpoints."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save
from torch.nn.functional import pixel_unshuffle

from memory.errors import SettingsError
from memory.files import write_bytes, write_json
from tools.data.samples import Dense, Samples
from tools.diffusion.label_codes import mirrored
from tools.diffusion.pipeline import MTDMPipeline
from tools.settings import CaptionedRun, PretrainSettings

if TYPE_CHECKING:
    from tools.targets import Target

Captions = Sequence[Sequence[Sequence[Sequence[str]]]]
"""Of each image, unless or if flipped horizontally, unless or if vertically, its wordings."""

_MOST_WEIGHT = 5.0
_MAY_CHANGE = frozenset(
    {
        "steps",
        "save_every",
        "noise_kept",
        "spacing",
        "rare_power",
        "rare_within",
        "lora",
        "joint",
    }
)


class Run:
    """A resumable training: AdamW, averaged (EMA) weights and checkpoints in a folder.

    `train.safetensors` and `train.json` allow to continue it.
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
        progress: Callable[[int, float, float], None],
        saved: Callable[[int], None] = lambda done: None,
    ) -> None:
        """Take the steps from `first` on.

        loss_of: returns the loss of a step; progress: gets the steps done, the loss and the seconds
        since the first; saved: gets the steps done after each checkpoint.
        """
        started = time.monotonic()
        for step in range(first, self._settings.steps):
            loss = loss_of(step)
            self.update(step, loss)
            done = step + 1
            progress(done, loss.item(), time.monotonic() - started)
            if self.is_due(done):
                self.save(done, loss.item())
                saved(done)

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

    def is_due(self, done: int) -> bool:
        """Return whether a checkpoint is due after `done` steps."""
        return done % self._settings.save_every == 0 or done == self._settings.steps

    def save(self, step: int, loss: float) -> None:
        """Write the training state; the JSON file last, since it vouches for the tensors."""
        tensors = {f"unet.{k}": v for k, v in self._network.state_dict().items()}
        tensors |= {f"average.{k}": v for k, v in self.average.items()}
        state = self._optimizer.state_dict()["state"]
        for index, values in state.items():
            tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
        data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
        for old in self._folder.glob("train-*.safetensors"):
            if old.name != self._current():
                old.unlink()
        name = f"train-{step:07d}.safetensors"
        write_bytes(self._folder / name, data)
        settings = self._settings.model_dump(mode="json")
        meta = {"step": step, "file": name, "loss": loss, "settings": settings}
        write_json(self._folder / "train.json", meta)

    def restore(self) -> int:
        """Load the last checkpoint, if there is one, and return its step.

        Raises SettingsError when it was made with other settings.
        """
        path = self._folder / "train.json"
        if not path.exists():
            return 0
        meta = json.loads(path.read_text("utf-8"))
        mine: dict[str, Any] = self._settings.model_dump(mode="json", exclude=set(_MAY_CHANGE))
        # What an older version did not know had the value that is now the default.
        known = type(self._settings).model_validate(meta["settings"])
        other = known.model_dump(mode="json", exclude=set(_MAY_CHANGE))
        if mine != other:
            changed = [f"{k}: {other[k]} -> {mine[k]}" for k in mine if mine[k] != other[k]]
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

    def _current(self) -> str | None:
        path = self._folder / "train.json"
        return json.loads(path.read_text("utf-8"))["file"] if path.exists() else None


def denoising_loss(
    pipeline: MTDMPipeline,
    x: torch.Tensor,
    weight: torch.Tensor,
    states: torch.Tensor,
    mask: torch.Tensor,
    settings: PretrainSettings,
    step: int,
) -> torch.Tensor:
    """Return the loss of a network on images and labels with noise.

    x, weight: folded, see `folded`; states, mask: of the prompts, as of `MTDMPipeline.predict`. The
    noise is a function of (seed, step). Labels of some images may be noise alone (`label_dropout`),
    so that one network knows the joint distribution and that of images (UniDiffuser, Bao et al.
    2023).
    """
    generator = torch.Generator("cpu").manual_seed(settings.seed * 1_000_003 + step)
    noise = torch.randn(x.shape, generator=generator).to(x.device)
    n_times = len(pipeline.scheduler.alphas_cumprod)
    t = torch.randint(n_times, (len(x),), generator=generator).to(x.device)
    of_image, of_labels = pipeline.levels(t)
    if settings.label_dropout:
        dropped = torch.rand(len(x), generator=generator) < settings.label_dropout
        of_labels = torch.where(dropped.to(x.device), 0.0, of_labels)
    levels = (of_image, of_labels)
    noisy = pipeline.add_noise(x, noise, levels)
    kind = x.device.type
    with torch.autocast(kind, torch.bfloat16, enabled=_in_bfloat16(settings.precision, kind)):
        found = pipeline.predict(noisy, t, states, mask, levels).float()
    error = pipeline.within(found - x) ** 2
    # As the loss of the velocity has it, otherwise without the greatest (Hang et al. 2023).
    most = math.inf if pipeline.prediction == "velocity" else _MOST_WEIGHT
    share = (1 / (1 - pipeline.per_channel(levels))).clamp(max=most)
    return (weight * share * error).sum() / weight.sum()


def _in_bfloat16(precision: str, device: str) -> bool:
    """Return whether the network computes in bfloat16.

    A processor with instructions for it (AVX512-BF16, AMX) trains about twice as fast in it.
    """
    if precision == "auto":
        return device == "cuda" or torch.cpu._is_avx512_bf16_supported()
    return precision == "bfloat16"


def rows_of(
    n: int, target: Target, settings: CaptionedRun, step: int, rng: np.random.Generator
) -> tuple[list[int], NDArray[np.bool_]]:
    """Return which of `n` images a step trains on, and how each is mirrored.

    Mirrored is (rows, 2), left to right and top to bottom, as far as the target may be.
    """
    may_flip = [direction in target.flips for direction in ("horizontal", "vertical")]
    chosen = epoch_order(n, settings, step)
    return chosen, rng.integers(0, 2, (len(chosen), 2)).astype(bool) & may_flip


def words_of(
    captions: Captions,
    chosen: Sequence[int],
    flips: NDArray[np.bool_],
    settings: CaptionedRun,
    rng: np.random.Generator,
) -> list[str]:
    """Return a caption for each row of a step, "" for a share of `text_dropout`."""
    wordings = (captions[i][int(h)][int(v)] for i, (h, v) in zip(chosen, flips, strict=True))
    return [
        "" if rng.random() < settings.text_dropout else texts[int(rng.integers(len(texts)))]
        for texts in wordings
    ]


def mirrored_batch(
    samples: Samples, chosen: Sequence[int], flips: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
    """Return images and labels; flips: (n, 2), left to right and top to bottom."""
    images, labels = [], []
    for i, (horizontal, vertical) in zip(chosen, flips.tolist(), strict=True):
        flipped = {"image": samples.images[i], **{k: v[i] for k, v in samples.labels.items()}}
        turned = mirrored(flipped, horizontal, vertical)
        images.append(turned.pop("image"))
        labels.append(turned)
    return np.stack(images), {k: np.stack([row[k] for row in labels]) for k in samples.labels}


def folded(
    pipeline: MTDMPipeline, images: NDArray[np.uint8], labels: Dense
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the network's channels and the weight of each in the loss, 0 where unknown."""
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


def epoch_order(n: int, settings: CaptionedRun, step: int) -> list[int]:
    """Return the image indices of a step: shuffled epochs laid end to end."""
    start = step * settings.batch_size
    positions = range(start, start + settings.batch_size)
    orders = {
        epoch: np.random.default_rng([settings.seed, 1, epoch]).permutation(n)
        for epoch in {p // n for p in positions}
    }
    return [int(orders[p // n][p % n]) for p in positions]
