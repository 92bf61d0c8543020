"""Requests to generators, and the images that they draw."""

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
    """One image to draw; its noise is a function of (seed, prompt_id, index) alone.

    Attributes:
        text: The prompt.
        prompt_id: Id of the prompt.
        index: Number of the image within the prompt.
        seed: Of the session.
        guidance: Scale of classifier-free guidance; None for the generator's default.
        feedback: Guidance by the DSTM; None: without.
        adapters: Weights of LoRA adapters by name, where they differ from the settings.
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
    """What a generator drew.

    Attributes:
        images: uint8, (n, channels, height, width).
        labels: Labels of pixels by kind, see `Samples`, if the generator draws them.
        confidence: float32, (n, height, width), 0..1, by the kind of labels that are estimates.
    """

    images: NDArray[np.uint8]
    labels: Dense = field(default_factory=dict)
    confidence: Dense = field(default_factory=dict)

    def take(self, rows: Sequence[int] | NDArray[np.int64]) -> Drawn:
        """Return what was drawn at `rows`, in that order."""
        labels, confidence = (
            {kind: values[rows] for kind, values in dense.items()}
            for dense in (self.labels, self.confidence)
        )
        return Drawn(self.images[rows], labels, confidence)


def join(parts: Sequence[Drawn]) -> Drawn:
    """Return what was drawn in parts, at least one, by one generator."""
    labels, confidence = (
        {kind: np.concatenate([dense[kind] for dense in every]) for kind in every[0]}
        for every in ([part.labels for part in parts], [part.confidence for part in parts])
    )
    return Drawn(np.concatenate([part.images for part in parts]), labels, confidence)


def adapter_name(given: str) -> str:
    """Return the name by which prompts weight a LoRA adapter, given as a file or a folder.

    That of the file without its suffix, or that of the folder if the file has the usual name.
    """
    path = Path(given)
    if path.name == LORA_FILE:
        path = path.parent
    return path.name.removesuffix(".safetensors")
