"""The generator network of BigGAN: from a latent and a class to an image (Brock et al. 2019).

A folder holds `config.json`, which describes the architecture, and `model.safetensors`.

Residual blocks double height and width, the gain and bias of their norms depend on the class
embedding, and self-attention (Zhang et al. 2019) follows some blocks. Tensors are named as in the
authors' PyTorch code; weights with spectral norm must be stored already divided by it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Literal, cast

import torch
from pydantic import Field, model_validator
from torch import nn
from torch.nn.functional import batch_norm, instance_norm, interpolate, max_pool2d

from memory.errors import unknown
from memory.records import Record
from tools.models.folders import load_weights, read_description, require_files

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"


class BigGANConfig(Record):
    """Content of config.json.

    Classes are given by `class_names`, or by their number `n_classes` and are then named "0", "1"
    and so on. `serves`: class of the network -> class of the target; empty: each serves its own
    name.
    """

    latent_size: int = Field(ge=1, le=65536)
    class_names: tuple[str, ...] = ()
    n_classes: int | None = Field(None, ge=1, le=1_000_000)
    serves: dict[str, str] = Field(default_factory=dict)
    embedding_size: int = Field(ge=1, le=65536, description="size of a class embedding")
    image_size: int | tuple[int, int] = Field(
        description="side of square images, or height and width, pixels"
    )
    image_channels: Literal[1, 3] = 3
    channels: tuple[int, ...] = Field(
        min_length=2, max_length=12, description="channels of the coarsest grid and of each block"
    )
    attention: tuple[int, ...] = Field(
        (), description="heights, in pixels, at which self-attention follows a block"
    )
    hierarchical: bool = Field(True, description="each block gets a piece of the latent")
    normalisation: Normalisation = "batch"
    norm_eps: float = Field(1e-5, gt=0)
    value_range: tuple[float, float] = Field(
        (-1, 1), description="range of the output: -1, 1 (tanh) or 0, 1 (sigmoid)"
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
            do not match the network described by config.json.
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


Normalisation = Literal["batch", "instance", "none"]


class BigGAN(nn.Module):
    """Network from a latent and a class to an image, built from a `BigGANConfig`."""

    def __init__(self, config: BigGANConfig) -> None:
        super().__init__()
        channels, grid = config.channels, config.grid
        n_blocks = len(channels) - 1
        self._config = config
        self._piece = config.latent_size // (n_blocks + 1 if config.hierarchical else 1)
        condition = config.embedding_size + (self._piece if config.hierarchical else 0)
        self.shared = nn.Embedding(len(config.names), config.embedding_size)
        self.linear = nn.Linear(self._piece, channels[0] * grid[0] * grid[1])
        blocks = []
        for i in range(n_blocks):
            norm = condition, config.normalisation, config.norm_eps
            parts: list[nn.Module] = [_Block(channels[i], channels[i + 1], *norm)]
            if config.heights[i] in config.attention:
                parts.append(_Attention(channels[i + 1]))
            blocks.append(nn.ModuleList(parts))
        self.blocks = nn.ModuleList(blocks)
        self.output_layer = nn.Sequential(
            _PlainNorm(channels[-1]),
            nn.ReLU(),
            nn.Conv2d(channels[-1], config.image_channels, 3, padding=1),
        )

    def forward(self, latents: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Return images, (n, image_channels, height, width), in the configured value range.

        Args:
            latents: float, (n, latent_size).
            classes: int64, (n,).
        """
        embedded = self.shared(classes)
        if self._config.hierarchical:
            first, *rest = latents.split(self._piece, dim=1)
            conditions = [torch.cat([embedded, piece], dim=1) for piece in rest]
        else:
            first, conditions = latents, [embedded] * len(self.blocks)
        x = self.linear(first).view(len(latents), -1, *self._config.grid)
        for parts, condition in zip(self.blocks, conditions, strict=True):
            block, *attention = cast("nn.ModuleList", parts)
            x = block(x, condition)
            for layer in attention:
                x = layer(x)
        output: torch.Tensor = self.output_layer(x)
        return output.tanh() if self._config.value_range[0] < 0 else output.sigmoid()


class _Block(nn.Module):
    """A residual block that doubles height and width."""

    def __init__(
        self, n_in: int, n_out: int, condition: int, normalisation: Normalisation, eps: float
    ) -> None:
        super().__init__()
        self.bn1 = _ConditionalNorm(n_in, condition, normalisation, eps)
        self.bn2 = _ConditionalNorm(n_out, condition, normalisation, eps)
        self.conv1 = nn.Conv2d(n_in, n_out, 3, padding=1)
        self.conv2 = nn.Conv2d(n_out, n_out, 3, padding=1)
        self.conv_sc = nn.Conv2d(n_in, n_out, 1)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        h: torch.Tensor = self.conv1(interpolate(self.bn1(x, condition).relu(), scale_factor=2))
        h = self.conv2(self.bn2(h, condition).relu())
        shortcut: torch.Tensor = self.conv_sc(interpolate(x, scale_factor=2))
        return h + shortcut


class _StoredStatistics(nn.Module):
    """Base of norms with stored mean and variance, (n,) each."""

    stored_mean: torch.Tensor
    stored_var: torch.Tensor

    def __init__(self, n: int) -> None:
        super().__init__()
        self.register_buffer("stored_mean", torch.zeros(n))
        self.register_buffer("stored_var", torch.ones(n))


class _ConditionalNorm(_StoredStatistics):
    """Normalisation whose gain (about 1) and bias are linear in the condition."""

    def __init__(self, n: int, condition: int, normalisation: Normalisation, eps: float) -> None:
        super().__init__(n)
        self._normalisation, self._eps = normalisation, eps
        self.gain = nn.Linear(condition, n, bias=False)
        self.bias = nn.Linear(condition, n, bias=False)

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        if self._normalisation == "batch":
            x = batch_norm(x, self.stored_mean, self.stored_var, eps=self._eps)
        elif self._normalisation == "instance":
            x = instance_norm(x, eps=self._eps)
        gain, bias = (part(condition)[:, :, None, None] for part in (self.gain, self.bias))
        changed: torch.Tensor = x * (1 + gain) + bias
        return changed


class _PlainNorm(_StoredStatistics):
    """Batch normalisation with a gain and a bias per channel."""

    def __init__(self, n: int) -> None:
        super().__init__(n)
        self.gain, self.bias = nn.Parameter(torch.ones(n)), nn.Parameter(torch.zeros(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return batch_norm(x, self.stored_mean, self.stored_var, self.gain, self.bias)


class _Attention(nn.Module):
    """Self-attention of SAGAN, with keys and values at half the height and width."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.theta = nn.Conv2d(n, n // 8, 1, bias=False)
        self.phi = nn.Conv2d(n, n // 8, 1, bias=False)
        self.g = nn.Conv2d(n, n // 2, 1, bias=False)
        self.o = nn.Conv2d(n // 2, n, 1, bias=False)
        self.gamma = nn.Parameter(torch.tensor(0.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        queries = self.theta(x).flatten(2)
        keys, values = (max_pool2d(part(x), 2).flatten(2) for part in (self.phi, self.g))
        shares = (queries.transpose(1, 2) @ keys).softmax(-1)
        attended = self.o((values @ shares.transpose(1, 2)).unflatten(2, x.shape[2:]))
        output: torch.Tensor = x + self.gamma * attended
        return output
