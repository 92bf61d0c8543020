"""The folder of a BigGAN: `config.json`, which says how it is built, and `model.safetensors`.

No code in a folder is run: neither pickles nor programs (TorchScript, `torch.export`) are opened.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field, ValidationError, model_validator
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file

from memory.errors import WeightsError, unknown
from memory.records import Record, first_problem
from tools.generators.class_gan.biggan import BigGAN, Normalisation
from tools.models.diffusers_folder import PICKLED

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
_NEVER_OPENED = (*PICKLED, ".pt2", ".ts", ".torchscript")


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
    _check_files(folder)
    try:
        config = BigGANConfig.model_validate_json((folder / CONFIG_FILE).read_bytes())
    except ValidationError as error:
        where, problem = first_problem(error)
        raise WeightsError(
            f"{folder / CONFIG_FILE} does not describe a class_gan: "
            f"{f'{where}: ' if where else ''}{problem}. See docs/text2image.md."
        ) from error
    with torch.device("meta"):
        network = BigGAN(config)
    path = folder / WEIGHTS_FILE
    _check_shapes(path, {name: tuple(v.shape) for name, v in network.state_dict().items()})
    weights = {name: value.float() for name, value in load_file(path).items()}
    network.load_state_dict(weights, assign=True)
    return config, network.eval().requires_grad_(False)


def _check_files(folder: Path) -> None:
    if folder.is_file() or folder.suffix in _NEVER_OPENED:
        raise WeightsError(
            f"{folder} is a file; pickles and programs (TorchScript, torch.export) can run code "
            f"and are never opened. Set generator.weights to a folder with {CONFIG_FILE} and "
            f"{WEIGHTS_FILE}."
        )
    missing = [name for name in (CONFIG_FILE, WEIGHTS_FILE) if not (folder / name).is_file()]
    if missing:
        files = sorted(folder.glob("*")) if folder.is_dir() else []
        refused = [file.name for file in files if file.suffix in _NEVER_OPENED]
        why = f" {refused[0]} is a pickle or a program and never opened." if refused else ""
        raise WeightsError(
            f"The folder {folder} of the generator 'class_gan' lacks {' and '.join(missing)}.{why} "
            f"It needs {CONFIG_FILE} and {WEIGHTS_FILE}, see docs/text2image.md."
        )


def _check_shapes(path: Path, expected: dict[str, tuple[int, ...]]) -> None:
    """Compare names and shapes before anything is read into memory."""
    try:
        with safe_open(path, "pt") as file:
            shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, json.JSONDecodeError, OSError) as error:
        raise WeightsError(
            f"{path} is damaged or no safetensors file: {error}. Copy it again."
        ) from error
    missing = sorted(set(expected) - set(shapes))
    foreign = sorted(set(shapes) - set(expected))
    if missing or foreign:
        name = (missing or foreign)[0]
        raise WeightsError(
            f"{path} is not of the network that {CONFIG_FILE} describes: {len(missing)} of its "
            f"{len(expected)} tensors are missing and {len(foreign)} are others, e.g. {name}. "
            "Correct the configuration, or copy the weights again."
        )
    for name, shape in expected.items():
        if shapes[name] != shape:
            raise WeightsError(
                f"{path} is not of the network that {CONFIG_FILE} describes: {name} has the shape "
                f"{shapes[name]}, expected {shape}. Correct the configuration."
            )
