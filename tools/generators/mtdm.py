"""The generator `mtdm`: a multi-task diffusion model draws images and their labels from prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch

from memory import minilm
from memory.errors import SettingsError, WeightsError
from tools.data.drawn import Drawn, ImageRequest, join
from tools.diffusion.noise import seeded_noise
from tools.diffusion.pipeline import (
    GUIDANCE,
    GUIDANCE_INTERVAL,
    MAX_TOKENS,
    STEPS,
    MTDMPipeline,
    load_pipeline,
    weights_folder,
)


class MTDMGenerator:
    """The generator `mtdm`: a saved `MTDMPipeline` behind the generator protocol."""

    name = "mtdm"
    max_tokens = MAX_TOKENS
    can_be_pulled = True

    def __init__(
        self,
        pipeline: MTDMPipeline,
        steps: int = STEPS,
        guidance: float = GUIDANCE,
        guidance_interval: tuple[float, float] = GUIDANCE_INTERVAL,
        noise_kept: Sequence[float] | None = None,
    ) -> None:
        self.pipeline = pipeline
        self._noise_kept = tuple(pipeline.config.noise_kept if noise_kept is None else noise_kept)
        self._steps = steps
        self._guidance = guidance
        self._interval = guidance_interval

    @cached_property
    def identity(self) -> str:
        """Return a digest of weights and sampling."""
        sampling: list[Any] = [self._steps, self._guidance, self._interval]
        if self._noise_kept != (1, 1):
            sampling.append(self._noise_kept)
        if self.pipeline.config.spacing != 1:
            sampling.append(self.pipeline.config.spacing)
        content = hashlib.sha256(json.dumps(sampling).encode())
        for name, value in sorted(self.pipeline.unet.state_dict().items()):
            content.update(name.encode())
            content.update(value.cpu().contiguous().numpy().tobytes())
        return f"mtdm {content.hexdigest()[:16]}"

    def count_tokens(self, text: str) -> int:
        """Return the number of MiniLM tokens, the two special ones included."""
        return minilm.load().count_tokens(text)

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        """Draw all requests; those of equal guidance and criterion of a pull share a batch."""
        kinds = [
            (self._guidance if r.guidance is None else r.guidance, r.pull.by if r.pull else "")
            for r in requests
        ]
        order: list[int] = []
        parts: list[Drawn] = []
        for guidance, by in sorted(set(kinds)):
            rows = [i for i, kind in enumerate(kinds) if kind == (guidance, by)]
            chosen = [requests[i] for i in rows]
            shape = self.pipeline.noise_shape
            noise = [seeded_noise(r.seed, r.prompt_id, r.index, shape) for r in chosen]
            order += rows
            parts.append(
                self.pipeline(
                    [r.text for r in chosen],
                    torch.stack(noise),
                    self._steps,
                    guidance,
                    self._interval,
                    [r.pull for r in chosen if r.pull],
                    self._noise_kept,
                )
            )
        return join(parts).take(np.argsort(order))


def build(
    image_shape: tuple[int, int, int],
    device: str = "cpu",
    weights: str = "bundled:solar",
    steps: int = STEPS,
    guidance: float = GUIDANCE,
    guidance_interval: tuple[float, float] = GUIDANCE_INTERVAL,
    noise_kept: Sequence[float] | None = None,
) -> MTDMGenerator:
    """Load the MTDM in the folder `weights`, or the bundled one for `bundled:NAME`.

    noise_kept: see `MTDMPipeline`; None: as the weights say.
    """
    if noise_kept is not None and not (
        len(noise_kept) == 2 and all(0 <= share <= 1 for share in noise_kept)
    ):
        raise SettingsError(
            f"generator.options.noise_kept is {noise_kept}. Expected two shares of 0 to 1, of the "
            "image and of its labels, e.g. [0.8, 0.9]."
        )
    pipeline = load_pipeline(weights_folder(weights), device)
    if pipeline.image_shape != tuple(image_shape):
        raise WeightsError(
            f"The MTDM {weights} draws images of shape {pipeline.image_shape}, but the target's "
            f"are {tuple(image_shape)}. Train one for this target with `shaping pretrain`."
        )
    return MTDMGenerator(pipeline, steps, guidance, guidance_interval, noise_kept)
