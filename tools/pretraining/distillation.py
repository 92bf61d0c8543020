"""Distillation of an MTDM: a student draws in a few steps what its teacher draws in many.

One step of the student reproduces several guided steps of its teacher (progressive distillation,
Salimans and Ho 2022) without an unconditional pass (Meng et al. 2023). The training data are a bank
of the teacher's sampling trajectories for captions of photographs; the photographs themselves are
not used.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file, save

from memory.files import write_bytes
from tools.diffusion.pipeline import MTDMPipeline
from tools.diffusion.sampler import seeded_noise
from tools.models.processor import in_bfloat16
from tools.settings import DistillationSettings, PretrainSettings
from tools.targets import Target

SHARD = 32
"""Number of trajectories in one file of the bank."""
# Larger than the seeds of sessions, so that a bank contains none of their images.
_FIRST_SEED = 1_000_003
_MOST_WEIGHT = 8.0
# Smallest coefficient of the denoised estimate in the state after a step.
_LEAST_EFFECT = 0.05

Balance = Callable[[NDArray[np.uint8]], torch.Tensor]
"""Maps class ids, (n, height, width), to loss weights of patches, (n, 1, h, w)."""


class Bank:
    """Sampling trajectories of a teacher; files missing in the folder are drawn and written.

    Args:
        folder: Folder of the files.
        teacher: Draws the trajectories, with its configured guidance.
        target: Captions describe photographs of its generator split.
        settings: Settings of the distillation.
        dropout: Share of a caption's attributes that are dropped.
        balance: Computes loss weights of patches from a segmentation. None: equal weights.

    Attributes:
        texts: Caption of each of the n trajectories.
        states: Projected channels before each of the teacher's steps and at the end, float16,
            (steps + 1, n, k, h, w).
        weights: Loss weights of the patches, from the segmentation that the teacher drew,
            (n, 1, h, w); (1, 1, 1, 1) for equal weights.
    """

    def __init__(
        self,
        folder: Path,
        teacher: MTDMPipeline,
        target: Target,
        settings: DistillationSettings,
        dropout: float,
        balance: Balance | None = None,
    ) -> None:
        self.texts: list[str] = []
        parts, weights = [], []
        for number in range(settings.n_images // SHARD):
            texts = _captions(target, number, dropout)
            path = folder / f"{number:04d}.safetensors"
            if not path.exists():
                states = _trajectories(teacher, texts, number, settings.teacher_steps)
                write_bytes(path, save({"states": states.half()}))
            self.texts += texts
            parts.append(load_file(path)["states"])
            if balance is not None:
                drawn = parts[-1][-1]
                weights.append(balance(teacher.decode_labels(drawn, drawn)[0]["segmentation"]))
        self.states = torch.cat(parts, dim=1)
        self.weights = torch.cat(weights) if weights else torch.ones(1, 1, 1, 1)


def _captions(target: Target, number: int, dropout: float) -> list[str]:
    rng, attributes = random.Random(f"bank {number}"), target.split("generator").attributes
    rows = [rng.randrange(len(attributes)) for _ in range(SHARD)]
    texts = []
    for row in rows:
        kept = {name: v for name, v in attributes[row].items() if rng.random() > dropout}
        texts.append(target.vocabulary.caption(kept, rng))
    return texts


def _trajectories(
    teacher: MTDMPipeline, texts: list[str], number: int, n_steps: int
) -> torch.Tensor:
    seed, shape = _FIRST_SEED + number, teacher.noise_shape
    noise = torch.stack([seeded_noise(seed, "bank", i, shape) for i in range(len(texts))])
    states: list[torch.Tensor] = []
    teacher(texts, noise, n_steps, watch=lambda x: states.append(x.float().cpu()))
    return torch.stack(states)


def distillation_loss(
    student: MTDMPipeline,
    bank: Bank,
    encode: Callable[[Sequence[str]], tuple[torch.Tensor, torch.Tensor]],
    settings: PretrainSettings,
    step: int,
) -> torch.Tensor:
    """Return the weighted squared error of the student's denoised estimate, a scalar.

    The goal is the estimate with which one DDIM step ends where the teacher's steps end. The weight
    is that of the velocity loss, at most 8, times that of the patch.

    Args:
        student: Pipeline whose network is trained.
        bank: Trajectories of its teacher; `teacher_steps` is a multiple of `steps`.
        encode: Returns token states and mask of texts.
        settings: Settings of the distillation, seed, batch size and precision.
        step: Training step; the sampled trajectories are a function of (seed, step).
    """
    generator = torch.Generator("cpu").manual_seed(settings.seed * 1_000_003 + step)
    n_all, size, chosen = len(bank.texts), settings.batch_size, settings.distillation
    rows = torch.randint(n_all, (size,), generator=generator)
    number = torch.randint(chosen.steps, (size,), generator=generator)
    device = student.device
    x = bank.states[number * chosen.stride, rows].float().to(device)
    goal = bank.states[(number + 1) * chosen.stride, rows].float().to(device)
    # Both states are at noise levels of the student's steps; the last step ends without noise.
    times = student.times(chosen.steps)
    levels = student.projected_levels(times)
    levels = torch.cat([levels, torch.ones_like(levels[:1])])
    a, a_next = levels[number], levels[number + 1]
    kept = student.kept_noise().to(device) * ((1 - a_next) / (1 - a).clamp(min=1e-6)).sqrt()
    effect = a_next.sqrt() - kept * a.sqrt()
    clean = (goal - kept * x) / effect.clamp(min=_LEAST_EFFECT)
    states, mask = (part.to(device) for part in encode([bank.texts[int(row)] for row in rows]))
    is_short = in_bfloat16(settings.precision, device.type)
    with torch.autocast(device.type, torch.bfloat16, enabled=is_short):
        estimate = student.denoise(x, times[number], (states, mask)).float()
    # Channels that the step hardly changes have no loss: labels that are already decoded, images
    # that are still pure noise.
    is_drawn = (a_next > a) & (effect > _LEAST_EFFECT)
    weight = (1 / (1 - a).clamp(min=1 / _MOST_WEIGHT)) * is_drawn
    weight = weight * bank.weights.expand(n_all, -1, -1, -1)[rows].to(device)
    return (weight * (estimate - clean) ** 2).mean()
