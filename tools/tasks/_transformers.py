"""Models of transformers as DSTMs: from a local folder, with a new head, fed as they want it.

With model.safetensors such a model starts from these weights, with config.json alone from random
ones. Code inside a folder is never run.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

from memory.errors import SettingsError, WeightsError, unknown
from tools.tasks import Model

_OPTIONS: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}


class TransformersModel(Model):
    """A model of transformers behind the interface of a DSTM; subclasses say what it returns.

    network: the model; size: height and width that it wants, None for any; mean, std: per channel,
    of pixels in 0..1. Gray images are repeated to the network's channels.
    """

    def __init__(
        self,
        network: nn.Module,
        size: Sequence[int] | None,
        mean: Sequence[float],
        std: Sequence[float],
    ) -> None:
        super().__init__()
        self.network = network
        config: Any = network.config
        self.description = {
            "model": "transformers",
            "config": json.loads(config.to_json_string(use_diff=False)),
            "size": None if size is None else list(size),
            "mean": list(mean),
            "std": list(std),
        }
        self._n_channels = getattr(config, "num_channels", 3)
        self._size = None if size is None else tuple(size)
        self._mean: torch.Tensor
        self._std: torch.Tensor
        self.register_buffer("_mean", torch.tensor(mean).reshape(-1, 1, 1), persistent=False)
        self.register_buffer("_std", torch.tensor(std).reshape(-1, 1, 1), persistent=False)

    def see(self, images: torch.Tensor) -> Any:
        """Return what the network says of images in 0..1, (n, channels, h, w), in its own form."""
        if self._size is not None and images.shape[2:] != self._size:
            images = interpolate(images, self._size, mode="bilinear", antialias=True)
        if images.shape[1] == 1:
            images = images.expand(-1, self._n_channels, -1, -1)
        return self.network((images - self._mean) / self._std)


def folder_of(model: str, own: str, kind: str) -> Path:
    """Return the folder that the setting `model` names.

    own: the model of ours that could be meant; kind: what the folder should hold, for the message.
    Raises SettingsError when there is no config.json.
    """
    folder = Path(model).expanduser()
    if not (folder / "config.json").is_file():
        raise SettingsError(
            f"{unknown('model', model, [own])} A folder with the config.json of {kind} of "
            "transformers can be given too."
        )
    return folder


def with_new_head(auto_class: Any, folder: Path, kind: str, **labels: int) -> nn.Module:
    """Return the network of a folder, with weights where it has them and a head of our classes.

    auto_class: of transformers; labels: `num_labels`, where the head has classes. Raises
    WeightsError when transformers cannot load it.
    """
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(folder, **labels, **_OPTIONS)
        if not (folder / "model.safetensors").is_file():
            return untrained(auto_class, config)
        network: nn.Module = auto_class.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # the head has the classes of another task
            dtype=torch.float32,
            **_OPTIONS,
        )
    except Exception as error:  # transformers and safetensors raise many types for a bad folder
        raise WeightsError(
            f"{folder} does not hold {kind} that transformers can load ({error}). "
            "Give a folder with a config.json and, for trained weights, a model.safetensors."
        ) from error
    return network


def untrained(auto_class: Any, config: Any) -> nn.Module:
    """Return a network with random weights; config: transformers' own, or what it was saved as."""
    from transformers import AutoConfig

    if isinstance(config, Mapping):
        config = AutoConfig.for_model(**config)
    network: nn.Module = auto_class.from_config(config, trust_remote_code=False)
    return network


def wishes(folder: Path, network: nn.Module) -> dict[str, Any]:
    """Return the `size`, `mean` and `std` that a folder asks for, for `TransformersModel`."""
    config: Any = network.config
    path = folder / "preprocessor_config.json"
    processor = json.loads(path.read_bytes()) if path.is_file() else {}
    n_channels = getattr(config, "num_channels", 3)
    return {
        "size": _wanted_size(getattr(config, "image_size", None) or processor.get("size")),
        "mean": processor.get("image_mean", [0.5] * n_channels),
        "std": processor.get("image_std", [0.5] * n_channels),
    }


def _wanted_size(size: Any) -> Sequence[int] | None:
    """Read the forms in which transformers writes a size; None when there is none."""
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        size = [edge, edge] if edge else [size["height"], size["width"]]
    return [size, size] if isinstance(size, int) else size
