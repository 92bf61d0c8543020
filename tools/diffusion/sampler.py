"""The sampler: seeded noise, time steps, noise levels and the DDIM step, as pure functions."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import numpy as np
import torch

Levels = tuple[torch.Tensor, torch.Tensor]
"""Signal power (alpha bar) of the noisy image and of its noisy labels, 0..1, (n,) each."""


def seeded_generator(seed: int, prompt_id: str, index: int) -> torch.Generator:
    """Return the random generator of one image.

    It depends only on (session seed, prompt id, image index), not on the batch size, resumption or
    the number of workers.
    """
    digest = hashlib.sha256(json.dumps([seed, prompt_id, index]).encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def seeded_noise(seed: int, prompt_id: str, index: int, shape: Sequence[int]) -> torch.Tensor:
    """Return the standard normal noise of one image, see `seeded_generator`."""
    return torch.randn(*shape, generator=seeded_generator(seed, prompt_id, index))


def timesteps(n_times: int, steps: int, rho: float) -> torch.Tensor:
    """Return the times of the sampling steps in descending order.

    Args:
        n_times: Number of training times of the scheduler.
        steps: Number of sampling steps, at least 1.
        rho: The i-th step lies (i / steps) ** rho of the way from pure noise. 1 gives the trailing
            steps of Lin et al. 2024; larger values place more steps at high noise.

    Returns:
        int64, (at most `steps`,): times that coincide after rounding are merged.
    """
    progress = (np.arange(steps) / steps) ** rho
    times = np.maximum(np.round(n_times * (1 - progress)).astype(np.int64) - 1, 0)
    distinct: torch.Tensor = torch.from_numpy(times).unique(sorted=True).flip(0)
    return distinct


def levels_at(alphas: torch.Tensor, t: torch.Tensor, label_noise_offset: float) -> Levels:
    """Return the signal power of image and labels at the times `t`, int64, (n,).

    Args:
        alphas: Cumulative products of the noise schedule, (n_times,).
        t: Times; 0 is the least noise.
        label_noise_offset: Share of the times, from the least noise, at which labels are free of
            noise; 0: image and labels share one schedule.
    """
    alphas, last = alphas.to(t.device), len(alphas) - 1
    if not label_noise_offset:
        return alphas[t], alphas[t]
    image = (t / (1 - label_noise_offset)).clamp(max=last).round().long()
    labels = ((t - label_noise_offset * last) / (1 - label_noise_offset)).clamp(min=0)
    return alphas[image], alphas[labels.round().long()]


def per_channel(levels: Levels, n_channels: tuple[int, int]) -> torch.Tensor:
    """Return the signal power of every channel, (n, c, 1, 1).

    Args:
        levels: Signal power of images and of labels, (n,) each.
        n_channels: Number of channels of images and of labels.
    """
    columns = [
        level.float()[:, None].expand(-1, n) for level, n in zip(levels, n_channels, strict=True)
    ]
    return torch.cat(columns, dim=1)[..., None, None]


def add_noise(x: torch.Tensor, noise: torch.Tensor, a: torch.Tensor) -> torch.Tensor:
    """Return sqrt(a) x + sqrt(1 - a) noise; a: signal power, broadcastable to x."""
    return a.sqrt() * x + (1 - a).sqrt() * noise


def ddim_step(
    x: torch.Tensor,
    clean: torch.Tensor,
    a: torch.Tensor,
    a_next: torch.Tensor,
    s_noise: torch.Tensor,
) -> torch.Tensor:
    """Take one deterministic DDIM step (Song et al. 2021, eq. 12, with sigma 0).

    Args:
        x: Noisy channels, (n, k, h, w).
        clean: Denoised estimate of the network, same shape.
        a: Signal power before the step, (1, k, 1, 1).
        a_next: Signal power after the step, same shape.
        s_noise: Share of the noise that a step keeps, (1, k, 1, 1); 1 is plain DDIM. Channels
            whose noise level does not fall in this step keep all of it.
    """
    noise = (x.float() - a.sqrt() * clean) / (1 - a).sqrt()
    noise *= torch.where(a_next > a, s_noise, 1.0)
    return add_noise(clean, noise, a_next).to(x.dtype)
