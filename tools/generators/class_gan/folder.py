"""The folder of a BigGAN: `config.json`, which says how it is built, and `model.safetensors`."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, model_validator

from memory.errors import unknown
from memory.records import Record
from tools.generators.class_gan.biggan import BigGAN, Normalisation
from tools.models.folders import load_weights, read_description, require_files

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class BigGANConfig(Record):
    """Contents of config.json.

    Classes have names, or only a number of them (`n_classes`), and are then called "0", "1" and so
    on. `serves`: class of the network -> class of the target; empty: each serves its own name.
    """

    latent_size: int = Field(ge=1, le=65536)
    class_names: tuple[str, ...] = ()
    n_classes: int | None = Field(None, ge=1, le=1_000_000)
    serves: dict[str, str] = Field(default_factory=dict)
    embedding_size: int = Field(ge=1, le=65536, description="of a class")
    image_size: int | tuple[int, int] = Field(
        description="pixels of a square's side, or height and width"
    )
    image_channels: Literal[1, 3] = 3
    channels: tuple[int, ...] = Field(
        min_length=2, max_length=12, description="of the coarsest grid, and after each block"
    )
    attention: tuple[int, ...] = Field(
        (), description="heights, in pixels, at which self-attention follows a block"
    )
    hierarchical: bool = Field(True, description="each block has a piece of the latent")
    normalisation: Normalisation = "batch"
    norm_eps: float = Field(1e-5, gt=0)
    value_range: tuple[float, float] = Field(
        (-1, 1), description="of what the network gives: -1, 1 (tanh) or 0, 1 (sigmoid)"
    )

    @model_validator(mode="after")
    def _consistent(self) -> BigGANConfig:
        if bool(self.class_names) == (self.n_classes is not None):
            raise ValueError("it needs either class_names or n_classes")
        if len(set(self.class_names)) < len(self.class_names):
            raise ValueError("two classes of class_names have the same name")
        if strange := sorted(set(self.serves) - set(self.names)):
            raise ValueError(f"serves: {unknown('class', strange[0], self.names)}")
        if min(self.channels) < 1 or max(self.channels) > 65536:
            raise ValueError("channels must be 1 to 65536")
        scale = 2 ** (len(self.channels) - 1)
        if any(side < scale or side % scale for side in self.size):
            raise ValueError(
                f"{len(self.channels)} numbers in channels double the coarsest grid "
                f"{len(self.channels) - 1} times, so image_size must be a multiple of {scale}, not "
                f"{self.size[0]}x{self.size[1]}"
            )
        if strange_heights := sorted(set(self.attention) - set(self.heights)):
            raise ValueError(
                f"attention at a height of {strange_heights[0]} pixels: blocks give heights of "
                f"{', '.join(map(str, self.heights))}"
            )
        if any(self.channels[self.heights.index(height) + 1] < 8 for height in self.attention):
            raise ValueError("attention needs 8 channels or more")
        if self.hierarchical and self.latent_size % len(self.channels):
            raise ValueError(
                f"a hierarchical latent is cut into {len(self.channels)} equal pieces, but "
                f"latent_size is {self.latent_size}"
            )
        if self.value_range not in ((-1, 1), (0, 1)):
            raise ValueError(f"value_range is {list(self.value_range)}, not [-1, 1] or [0, 1]")
        return self

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the classes, in the order of the network."""
        return self.class_names or tuple(map(str, range(self.n_classes or 0)))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        side = self.image_size
        return (side, side) if isinstance(side, int) else side

    @property
    def heights(self) -> list[int]:
        """Height of each block's output."""
        n_blocks = len(self.channels) - 1
        return [self.size[0] // 2 ** (n_blocks - 1 - i) for i in range(n_blocks)]

    @property
    def grid(self) -> tuple[int, int]:
        """Height and width of the coarsest grid."""
        scale = 2 ** (len(self.channels) - 1)
        return self.size[0] // scale, self.size[1] // scale


def load_biggan(folder: Path) -> tuple[BigGANConfig, BigGAN]:
    """Load a network on the CPU, in float32.

    Raises:
        WeightsError: The folder is missing, partial, damaged, pickled or a program, or the weights
            do not fit the network that its config.json describes.
    """
    guide = "See docs/guides/models-and-labels.md."
    what = "The folder of the generator 'class_gan'"
    require_files(folder, (CONFIG_FILE, WEIGHTS_FILE), what, guide)
    config = read_description(
        folder / CONFIG_FILE, BigGANConfig, "See docs/guides/models-and-labels.md."
    )
    with torch.device("meta"):
        network = BigGAN(config)
    advice = f"Correct {CONFIG_FILE}, or copy the weights again."
    load_weights(network, folder / WEIGHTS_FILE, advice)
    return config, network.eval().requires_grad_(False)
