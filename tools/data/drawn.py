"""Requests to generators and their results."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from tools.data.samples import Dense

if TYPE_CHECKING:
    from tools.diffusion.guidance import FeedbackGuidance

LORA_FILE = "pytorch_lora_weights.safetensors"


@dataclass(frozen=True)
class ImageRequest:
    """Request for one image, whose noise depends only on (seed, prompt_id, index).

    Attributes:
        text: Text of the prompt.
        prompt_id: Id of the prompt.
        index: Number of the image within the prompt.
        seed: Seed of the session.
        guidance: Scale of classifier-free guidance; None: the generator's default.
        feedback: Guidance by the DSTM; None: no such guidance.
        adapters: LoRA adapter weights by name that override the settings.
    """

    text: str
    prompt_id: str
    index: int
    seed: int
    guidance: float | None = None
    feedback: FeedbackGuidance | None = None
    adapters: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Drawn:
    """Images drawn by a generator.

    Attributes:
        images: uint8, (n, channels, height, width).
        labels: Pixel labels by kind, see `Samples`, if the generator draws them.
        confidence: float32, (n, height, width), 0..1, by kind, for labels that are estimates.
    """

    images: NDArray[np.uint8]
    labels: Dense = field(default_factory=dict)
    confidence: Dense = field(default_factory=dict)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Drawn:
        """Return the images at `rows`, in that order."""
        labels, confidence = (
            {kind: values[rows] for kind, values in dense.items()}
            for dense in (self.labels, self.confidence)
        )
        return Drawn(self.images[rows], labels, confidence)


def join(parts: Sequence[Drawn]) -> Drawn:
    """Concatenate one or more parts drawn by one generator."""
    labels, confidence = (
        {kind: np.concatenate([dense[kind] for dense in every]) for kind in every[0]}
        for every in ([part.labels for part in parts], [part.confidence for part in parts])
    )
    return Drawn(np.concatenate([part.images for part in parts]), labels, confidence)


def adapter_name(given: str) -> str:
    """Return the name of a LoRA adapter, given as a file or a folder, for use in prompts.

    It is the file name without suffix, or the folder name if the file has the default name.
    """
    path = Path(given)
    if path.name == LORA_FILE:
        path = path.parent
    return path.name.removesuffix(".safetensors")
