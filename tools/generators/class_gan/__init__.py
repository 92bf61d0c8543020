"""The generator `class_gan`: a class-conditional GAN draws the class that a prompt names.

A BigGAN (Brock et al. 2019), used as in BigDatasetGAN (Li et al. 2022). It is conditioned only on
the class: other words of a prompt have no effect, see `undrawn`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field

from memory.errors import SettingsError, WeightsError, unknown
from memory.records import Record
from prompts.vocabulary import load_vocabulary, vocabulary_names
from tools.data.drawn import Drawn, ImageRequest
from tools.data.fitted import fitted
from tools.diffusion.sampler import seeded_generator
from tools.generators import CountsWords
from tools.generators.class_gan.biggan import (
    CONFIG_FILE,
    WEIGHTS_FILE,
    BigGAN,
    BigGANConfig,
    load_biggan,
)
from tools.generators.class_gan.class_words import ClassWords
from tools.models.digests import files_sha256, identity_of
from tools.plugins import read_options


class ClassGANOptions(Record):
    """Weights, sampling and classes; each is a key of generator or of generator.options."""

    weights: str = Field("", description="a folder with config.json and model.safetensors")
    truncation: float | None = Field(
        None, gt=0, description="largest absolute value of a latent; smaller values vary less"
    )
    classes: dict[str, str] = Field(
        default_factory=dict, description="class of the network: class of the target"
    )
    vocabulary: str | None = Field(
        None, description="vocabulary that determines the class from words, e.g. elpv"
    )
    resize: bool = Field(False, description="crop and scale to the size of the target's images")
    steps: Any = Field(None, description="for diffusion models; no effect, like the next two")
    guidance: Any = None
    guidance_interval: Any = None


@dataclass
class ClassGANGenerator(CountsWords):
    """A BigGAN behind the generator protocol.

    Attributes:
        network: The network, on its device.
        config: Configuration of the network.
        words: Assigns classes to prompts.
        image_shape: (channels, height, width) of the target.
        options: Truncation and assignment of classes.
        sha256: Digest of the folder's files.
        device: A torch device.
    """

    network: BigGAN
    config: BigGANConfig
    words: ClassWords
    image_shape: tuple[int, int, int]
    options: ClassGANOptions
    sha256: str
    device: str

    name = "class_gan"

    @cached_property
    def identity(self) -> str:
        """Return a digest of weights, truncation and assignment of classes."""
        options = self.options.model_dump(include={"truncation", "classes", "vocabulary"})
        return identity_of("class_gan", [self.sha256, options, self.image_shape])

    def undrawn(self, text: str) -> list[str]:
        """Return the words of a prompt that have no effect, see `tools.generators.undrawn`."""
        return self.words.undrawn(text)

    @torch.inference_mode()
    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        """Draw all requests.

        Raises:
            SettingsError: A prompt names no class; no image is drawn then.
        """
        choices = [self.words.rows(request.text) for request in requests]
        latents, classes = [], []
        for request, rows in zip(requests, choices, strict=True):
            source = seeded_generator(request.seed, request.prompt_id, request.index)
            latents.append(torch.randn(self.config.latent_size, generator=source))
            # If several classes serve one of the target, one is chosen at random.
            classes.append(rows[int(torch.randint(len(rows), (), generator=source))])
        z = truncated(torch.stack(latents), self.options.truncation)
        images = self.network(z.to(self.device), torch.tensor(classes, device=self.device))
        low, high = self.config.value_range
        pixels = ((images - low) / (high - low) * 255).round().clamp(0, 255).byte().cpu().numpy()
        return Drawn(self._sized(pixels))

    def _sized(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        if pixels.shape[1:] == self.image_shape:
            return pixels
        pictures = [Image.fromarray(x[0] if len(x) == 1 else x.transpose(1, 2, 0)) for x in pixels]
        return fitted(pictures, self.image_shape)


def truncated(latents: torch.Tensor, threshold: float | None) -> torch.Tensor:
    """Map standard normal numbers to a normal distribution truncated at +-threshold.

    The truncation of Brock et al. 2019, implemented with the distribution function instead of
    resampling, so that every latent changes continuously with the threshold.

    Args:
        latents: Standard normal, of any shape.
        threshold: Above 0; None: no truncation.
    """
    if threshold is None:
        return latents
    end = torch.tensor(threshold, dtype=torch.float64)
    least, most = torch.special.ndtr(-end), torch.special.ndtr(end)
    share = least + torch.special.ndtr(latents.double()) * (most - least)
    cut: torch.Tensor = torch.special.ndtri(share)
    return cut.clamp(-end, end).float()


def build(
    image_shape: tuple[int, int, int], device: str = "cpu", **options: object
) -> ClassGANGenerator:
    """Load the BigGAN described by `ClassGANOptions`.

    Raises:
        WeightsError: The folder cannot be used, or draws images of another shape.
        SettingsError: Options or classes are unknown, or no class serves one of the target.
    """
    chosen = read_options("generator.options", ClassGANOptions, options)
    folder = Path(chosen.weights).expanduser()
    config, network = load_biggan(folder)
    drawn = (config.image_channels, *config.size)
    if drawn != tuple(image_shape) and not chosen.resize:
        raise WeightsError(
            f"The class_gan {folder} draws images of shape {drawn}, but the target's are "
            f"{tuple(image_shape)}. Set generator.options.resize=true to have them cropped and "
            "scaled, or choose another one."
        )
    vocabulary = None
    if chosen.vocabulary is not None:
        if chosen.vocabulary not in vocabulary_names():
            problem = unknown("vocabulary", chosen.vocabulary, vocabulary_names())
            raise SettingsError(f"generator.options.vocabulary: {problem}")
        vocabulary = load_vocabulary(chosen.vocabulary)
    words = ClassWords(config.names, chosen.classes or config.serves, vocabulary)
    sha256 = files_sha256([folder / CONFIG_FILE, folder / WEIGHTS_FILE])
    return ClassGANGenerator(network.to(device), config, words, image_shape, chosen, sha256, device)
