"""The noise that images are drawn from: a function of session seed, prompt and image alone."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence

import torch


def seeded_generator(seed: int, prompt_id: str, index: int) -> torch.Generator:
    """Return the source of the noise of one image.

    A function of (session seed, prompt id, image index) alone: batch size, resume and number of
    workers do not change it.
    """
    digest = hashlib.sha256(json.dumps([seed, prompt_id, index]).encode()).digest()
    return torch.Generator("cpu").manual_seed(int.from_bytes(digest[:8], "big") >> 1)


def seeded_noise(seed: int, prompt_id: str, index: int, shape: Sequence[int]) -> torch.Tensor:
    """Return the standard normal noise of one image, see `seeded_generator`."""
    return torch.randn(*shape, generator=seeded_generator(seed, prompt_id, index))
