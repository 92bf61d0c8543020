"""The generator network of BigGAN: from a latent and a class to an image (Brock et al. 2019).

Residual blocks that double height and width, batch norms whose gain and bias are read off the
class embedding, and self-attention (Zhang et al. 2019) after some blocks. Tensors have the names
of the authors' PyTorch code; where that has spectral norm, its weights are divided by it before.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, cast

import torch
from torch import nn
from torch.nn.functional import batch_norm, instance_norm, interpolate, max_pool2d

Normalisation = Literal["batch", "instance", "none"]
Activation = Literal["tanh", "sigmoid"]


class BigGAN(nn.Module):
    """A latent and a class become an image.

    latent_size: numbers of the latent; hierarchical: it is cut into equal pieces, the first for
    the coarsest grid and one for each block, beside the class; grid: height and width of the
    coarsest grid; channels: of the coarsest grid, then of what each block gives, each twice as high
    and wide as the one before; attention_after: blocks, from 0, that self-attention follows.
    """

    def __init__(
        self,
        latent_size: int,
        n_classes: int,
        embedding_size: int,
        grid: tuple[int, int],
        channels: Sequence[int],
        image_channels: int = 3,
        attention_after: Sequence[int] = (),
        hierarchical: bool = True,
        normalisation: Normalisation = "batch",
        norm_eps: float = 1e-5,
        activation: Activation = "tanh",
    ) -> None:
        super().__init__()
        n_blocks = len(channels) - 1
        piece = latent_size // (n_blocks + 1) if hierarchical else latent_size
        condition = embedding_size + (piece if hierarchical else 0)
        self._piece, self._hierarchical, self._grid = piece, hierarchical, grid
        self._activation = activation
        self.shared = nn.Embedding(n_classes, embedding_size)
        self.linear = nn.Linear(piece, channels[0] * grid[0] * grid[1])
        blocks = []
        for i in range(n_blocks):
            parts: list[nn.Module] = [
                _Block(channels[i], channels[i + 1], condition, normalisation, norm_eps)
            ]
            if i in attention_after:
                parts.append(_Attention(channels[i + 1]))
            blocks.append(nn.ModuleList(parts))
        self.blocks = nn.ModuleList(blocks)
        self.output_layer = nn.Sequential(
            _PlainNorm(channels[-1]),
            nn.ReLU(),
            nn.Conv2d(channels[-1], image_channels, 3, padding=1),
        )

    def forward(self, latents: torch.Tensor, classes: torch.Tensor) -> torch.Tensor:
        """Return images, (n, image_channels, height, width), in -1..1 for tanh, else in 0..1.

        latents: float, (n, latent_size); classes: int64, (n,).
        """
        embedded = self.shared(classes)
        if self._hierarchical:
            first, *rest = latents.split(self._piece, dim=1)
            conditions = [torch.cat([embedded, piece], dim=1) for piece in rest]
        else:
            first, conditions = latents, [embedded] * len(self.blocks)
        x = self.linear(first).view(len(latents), -1, *self._grid)
        for parts, condition in zip(self.blocks, conditions, strict=True):
            block, *attention = cast("nn.ModuleList", parts)
            x = block(x, condition)
            for layer in attention:
                x = layer(x)
        said: torch.Tensor = self.output_layer(x)
        return said.tanh() if self._activation == "tanh" else said.sigmoid()


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


class _ConditionalNorm(nn.Module):
    """Normalises by stored statistics; gain (about 1) and bias are linear in the condition."""

    def __init__(self, n: int, condition: int, normalisation: Normalisation, eps: float) -> None:
        super().__init__()
        self._normalisation, self._eps = normalisation, eps
        self.gain = nn.Linear(condition, n, bias=False)
        self.bias = nn.Linear(condition, n, bias=False)
        self.stored_mean: torch.Tensor
        self.stored_var: torch.Tensor
        self.register_buffer("stored_mean", torch.zeros(n))
        self.register_buffer("stored_var", torch.ones(n))

    def forward(self, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        if self._normalisation == "batch":
            x = batch_norm(x, self.stored_mean, self.stored_var, eps=self._eps)
        elif self._normalisation == "instance":
            x = instance_norm(x, eps=self._eps)
        gain, bias = (part(condition)[:, :, None, None] for part in (self.gain, self.bias))
        changed: torch.Tensor = x * (1 + gain) + bias
        return changed


class _PlainNorm(nn.Module):
    """Normalises by stored statistics, with a gain and a bias for each channel."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.gain, self.bias = nn.Parameter(torch.ones(n)), nn.Parameter(torch.zeros(n))
        self.stored_mean: torch.Tensor
        self.stored_var: torch.Tensor
        self.register_buffer("stored_mean", torch.zeros(n))
        self.register_buffer("stored_var", torch.ones(n))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return batch_norm(x, self.stored_mean, self.stored_var, self.gain, self.bias)


class _Attention(nn.Module):
    """Self-attention of SAGAN, to keys and values at half the height and width."""

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
        seen = self.o((values @ shares.transpose(1, 2)).unflatten(2, x.shape[2:]))
        added: torch.Tensor = x + self.gamma * seen
        return added
