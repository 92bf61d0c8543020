"""The generator `mtdm`: a multi-task diffusion model draws images and their labels from prompts."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from pydantic import Field

from memory import minilm
from memory.records import Share
from tools.data.drawn import Drawn, ImageRequest, join
from tools.diffusion.pipeline import GUIDANCE_INTERVAL, MAX_TOKENS, MTDMPipeline
from tools.diffusion.sampler import seeded_noise
from tools.diffusion.weights import load_pipeline, weights_folder
from tools.generators import check_shape
from tools.models.digests import identity_of
from tools.plugins import read_options
from tools.settings import WithEarlierNames


class MTDMOptions(WithEarlierNames):
    """Weights and sampling settings; each is a key of generator or of generator.options."""

    weights: str = Field("bundled:solar", description="a folder, or bundled:NAME")
    steps: int | None = Field(None, ge=1, description="None: the model's own")
    guidance: float | None = Field(None, ge=0, description="None: the model's own")
    guidance_interval: tuple[Share, Share] = GUIDANCE_INTERVAL
    s_noise: tuple[Share, Share] | None = Field(
        None,
        description="share of the noise of image and labels that a step keeps; None: the model's "
        "own",
    )


class MTDMGenerator:
    """A saved `MTDMPipeline` behind the generator protocol."""

    name = "mtdm"
    max_tokens = MAX_TOKENS
    accepts_feedback = True

    def __init__(self, pipeline: MTDMPipeline, options: MTDMOptions | None = None) -> None:
        chosen, config = options or MTDMOptions(), pipeline.config
        self.pipeline, self._interval = pipeline, chosen.guidance_interval
        # The guidance of a distilled network is part of its weights.
        self.accepts_guidance = config.guidance != 1
        self._s_noise = tuple(config.s_noise if chosen.s_noise is None else chosen.s_noise)
        self._steps: int = config.steps if chosen.steps is None else chosen.steps
        self._guidance: float = config.guidance if chosen.guidance is None else chosen.guidance

    @cached_property
    def identity(self) -> str:
        """Return a digest of weights and sampling."""
        rho = self.pipeline.config.timestep_rho
        sampling: list[Any] = [self._steps, self._guidance, self._interval]
        # Defaults are left out, so that identities from before these settings stay the same.
        sampling += [self._s_noise] if self._s_noise != (1, 1) else []
        sampling += [rho] if rho != 1 else []
        return identity_of("mtdm", sampling, [self.pipeline.unet])

    def count_tokens(self, text: str) -> int:
        """Return the number of MiniLM tokens, including the two special ones."""
        return minilm.load().count_tokens(text)

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        """Draw all requests; those with equal guidance and feedback criterion share a batch."""
        kinds = [
            (
                self._guidance if r.guidance is None else r.guidance,
                r.feedback.by if r.feedback else "",
            )
            for r in requests
        ]
        order: list[int] = []
        parts: list[Drawn] = []
        for kind in sorted(set(kinds)):
            rows = [i for i, other in enumerate(kinds) if other == kind]
            batch = [requests[i] for i in rows]
            shape = self.pipeline.noise_shape
            noise = [seeded_noise(r.seed, r.prompt_id, r.index, shape) for r in batch]
            order += rows
            parts.append(
                self.pipeline(
                    [r.text for r in batch],
                    torch.stack(noise),
                    self._steps,
                    kind[0],
                    self._interval,
                    [r.feedback for r in batch if r.feedback],
                    self._s_noise,
                )
            )
        return join(parts).take(np.argsort(order))


def build(
    image_shape: tuple[int, int, int], device: str = "cpu", **options: object
) -> MTDMGenerator:
    """Load the MTDM described by `MTDMOptions`.

    Raises:
        SettingsError: An option is unknown or has a wrong value.
        WeightsError: The folder cannot be used, or draws images of another shape.
    """
    chosen = read_options("generator.options", MTDMOptions, options)
    pipeline = load_pipeline(weights_folder(chosen.weights), device)
    check_shape(f"MTDM {chosen.weights}", pipeline.image_shape, image_shape, "shaping pretrain")
    return MTDMGenerator(pipeline, chosen)
