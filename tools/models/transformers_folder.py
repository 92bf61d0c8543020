"""Models of transformers in local folders, loaded as they are or with a new head.

A hub id with a commit refers to a folder of the hub's cache; nothing is downloaded. Weights must be
safetensors, and code in a folder is never run.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn.functional import interpolate

from memory.errors import SettingsError, WeightsError, unknown
from tools.models.folders import explained
from tools.tasks import Model

_HUB_ID = re.compile(r"([\w.-]+/[\w.-]+)(?:@([0-9a-f]{40}))?")
_OPTIONS: Mapping[str, Any] = {"local_files_only": True, "trust_remote_code": False}


class TransformersModel(Model):
    """A model of transformers as a DSTM; subclasses define its outputs.

    Gray images are repeated to the network's number of channels.

    Args:
        network: The model.
        size: Height and width of its input; None: any.
        mean, std: Statistics per channel of pixels in 0..1, used to normalise the input.
        caveat: See `tools.tasks.Model`.
    """

    def __init__(
        self,
        network: nn.Module,
        size: Sequence[int] | None,
        mean: Sequence[float],
        std: Sequence[float],
        caveat: str = "",
    ) -> None:
        super().__init__()
        self.caveat = caveat
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

    def run_network(self, images: torch.Tensor) -> Any:
        """Return the output of the network for images in 0..1, (n, channels, h, w)."""
        if self._size is not None and images.shape[2:] != self._size:
            images = interpolate(images, self._size, mode="bilinear", antialias=True)
        if images.shape[1] == 1:
            images = images.expand(-1, self._n_channels, -1, -1)
        return self.network((images - self._mean) / self._std)


def folder_of(model: str, alternatives: Sequence[str], kind: str) -> Path:
    """Return the folder that the setting `model` names.

    Args:
        model: Value of the setting: a folder or a hub id.
        alternatives: Names of built-in models, for the message.
        kind: Expected content of the folder, for the message.

    Raises:
        SettingsError: The folder has no config.json, or a hub id lacks a commit.
        WeightsError: A model of the hub is not in the cache, or has no safetensors.
    """
    folder = Path(model).expanduser()
    if (folder / "config.json").is_file():
        return folder
    if hub_id := _HUB_ID.fullmatch(model):
        return _cached(hub_id[1], hub_id[2], kind)
    raise SettingsError(
        f"{unknown('model', model, alternatives)} A folder with the config.json of {kind} of "
        "transformers can be given too, or a hub id, ORGANISATION/NAME@COMMIT."
    )


def _cached(name: str, commit: str | None, kind: str) -> Path:
    """Return the folder of a model in the local cache of the hub."""
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    if commit is None:
        raise SettingsError(
            f"There is no folder {name} with the config.json of {kind}. As a hub id it needs the "
            f"40 digits of a commit, so that the weights stay the same: {name}@COMMIT."
        )
    files = ["config.json", "model.safetensors", "preprocessor_config.json"]
    command = f"hf download {name} --revision {commit} {' '.join(files)}"
    try:
        folder = Path(snapshot_download(name, revision=commit, local_files_only=True))
    except LocalEntryNotFoundError as error:
        raise WeightsError(
            f"The model {name} at {commit} is not in the cache {constants.HF_HUB_CACHE}, and a "
            f"session downloads nothing. Where there is a network: {command}. Or give a folder."
        ) from error
    if missing := [file for file in files[:2] if not (folder / file).is_file()]:
        raise WeightsError(
            f"The model {name} at {commit} has no {' and no '.join(missing)} in the cache, "
            f"{folder}. Where there is a network: {command}. Other files of weights are not read."
        )
    return folder


def load_whole(auto_class: Any, folder: Path, kind: str) -> Any:
    """Return the model in a folder, in float32, with all of its weights.

    Args:
        auto_class: Auto class of transformers.
        folder: Folder with config.json and model.safetensors.
        kind: Expected content of the folder, for the message, e.g. "a model for depth estimation".

    Raises:
        WeightsError: The folder cannot be loaded, or lacks weights.
    """
    with _usable(folder, kind):
        model, report = auto_class.from_pretrained(
            folder, use_safetensors=True, dtype=torch.float32, output_loading_info=True, **_OPTIONS
        )
    if missing := sorted(report["missing_keys"]):
        raise WeightsError(
            f"{folder} lacks {len(missing)} weights of {kind}, e.g. {missing[0]}. Give the folder "
            "of a model that was trained for it."
        )
    return model


def with_new_head(auto_class: Any, folder: Path, kind: str, **labels: int) -> nn.Module:
    """Return the network of a folder with a new head.

    The weights are those of the folder, or random if it has only a config.json.

    Args:
        auto_class: Auto class of transformers.
        folder: See `folder_of`.
        kind: Expected content of the folder, for the message.
        **labels: `num_labels`, if the head has classes.

    Raises:
        WeightsError: The folder cannot be loaded.
    """
    from transformers import AutoConfig

    with _usable(folder, kind):
        config = AutoConfig.from_pretrained(folder, **labels, **_OPTIONS)
        if not (folder / "model.safetensors").is_file():
            return untrained(auto_class, config)
        network: nn.Module = auto_class.from_pretrained(
            folder,
            config=config,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # the stored head has the classes of another task
            dtype=torch.float32,
            **_OPTIONS,
        )
    return network


def _usable(folder: Path, kind: str) -> AbstractContextManager[None]:
    return explained(
        f"{folder} does not hold {kind} that transformers can load ({{error}}). "
        "Give a folder with a config.json and, for trained weights, a model.safetensors."
    )


def untrained(auto_class: Any, config: Any) -> nn.Module:
    """Return a network with random weights; config: of transformers, or its JSON form."""
    from transformers import AutoConfig

    if isinstance(config, Mapping):
        config = AutoConfig.for_model(**config)
    network: nn.Module = auto_class.from_config(config, trust_remote_code=False)
    return network


def preprocessing(folder: Path, network: nn.Module) -> dict[str, Any]:
    """Return the preprocessing arguments of `TransformersModel` for the model in a folder."""
    config: Any = network.config
    path = folder / "preprocessor_config.json"
    processor = json.loads(path.read_bytes()) if path.is_file() else {}
    n_channels = getattr(config, "num_channels", 3)
    size = getattr(config, "image_size", None) or processor.get("size")
    # transformers writes a size as a number, a pair, or a dictionary.
    if isinstance(size, dict):
        edge = size.get("shortest_edge")
        size = [edge, edge] if edge else [size["height"], size["width"]]
    return {
        "size": [size, size] if isinstance(size, int) else size,
        "mean": processor.get("image_mean", [0.5] * n_channels),
        "std": processor.get("image_std", [0.5] * n_channels),
        "caveat": ""
        if {"image_mean", "image_std"} <= processor.keys()
        else f"{path} gives no image_mean or no image_std: 0.5 is taken, for pixels in 0..1. If "
        "the weights were trained with other values, copy the model's preprocessor_config.json "
        "there.",
    }
