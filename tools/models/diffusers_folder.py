"""Folders of diffusers models: location, download, and checks before loading.

Weights must be safetensors, no code of a folder is run, and nothing is downloaded without
permission.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from diffusers import DiffusionPipeline

from memory.errors import SettingsError, WeightsError
from tools.data.drawn import LORA_FILE
from tools.models.folders import PICKLED, explained


def model_folder(weights: str, revision: str | None, variant: str | None, online: bool) -> Path:
    """Return the folder of a model.

    Args:
        weights: A folder, or a hub id, ORGANISATION/NAME, in the hub's cache.
        revision: Commit of a hub id, 40 hex digits.
        variant: Variant of the weight files, e.g. "fp16".
        online: Whether a hub id may be downloaded.

    Raises:
        SettingsError: A hub id has no pinned revision.
        WeightsError: There is no such folder, or the model is not cached and cannot be downloaded.
    """
    folder = Path(weights).expanduser()
    if folder.exists():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", weights):
        raise WeightsError(
            f"There is no model {weights!r}. Set generator.weights to the folder of a diffusers "
            "text-to-image model, or to its hub id, ORGANISATION/NAME."
        )
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise SettingsError(
            f"The folder {weights} is not there, and as a hub id it needs "
            "generator.options.revision: the 40 digits of a commit, so that the weights stay the "
            f"same. Given: {revision!r}."
        )
    with explained(
        f"The model {weights} at {revision} is not available: {{error}} Set "
        "generator.options.allow_network=true to download it, or generator.weights to a folder."
    ):
        downloaded = DiffusionPipeline.download(
            weights,
            revision=revision,
            variant=variant,
            local_files_only=not online,
            use_safetensors=True,
        )
    return Path(downloaded)


def checked_index(folder: Path) -> dict[str, Any]:
    """Return a folder's `model_index.json`; raise WeightsError for a wrong or partial folder."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise WeightsError(
            f"{folder} is no diffusers model: it has no model_index.json. Give the folder that "
            "`save_pretrained` wrote, not a single checkpoint file."
        )
    index = _read_json(path)
    for name, part in index.items():
        if not isinstance(part, list) or len(part) != 2 or part[0] is None:
            continue
        # Names of modules of diffusers are allowed, code in the folder is not.
        if (folder / name / f"{part[0]}.py").exists() or (folder / f"{part[0]}.py").exists():
            raise WeightsError(
                f"The model {folder} wants to run its own code for its {name}, which is never "
                "done. Choose a model made of diffusers' own classes."
            )
        is_network = re.match(r"unet|transformer|vae$|text_encoder|prior", name) is not None
        _check_part(folder / name, f"The model {folder}", f"its {name}/", is_network)
    return index


def network_config(folder: Path, name: str) -> dict[str, Any]:
    """Return the `config.json` of a single network's folder, e.g. of a ControlNet.

    Args:
        folder: Folder written by `save_pretrained`.
        name: Name of the network in error messages.

    Raises:
        WeightsError: The folder is missing, partial or pickled.
    """
    if not (folder / "config.json").is_file():
        raise WeightsError(
            f"{name} {folder} is not there or has no config.json. Give the folder that "
            "`save_pretrained` wrote."
        )
    _check_part(folder, f"{name} {folder}", "the folder", is_network=True)
    return _read_json(folder / "config.json")


def _check_part(folder: Path, whole: str, part: str, is_network: bool) -> None:
    """Raise WeightsError if a folder is empty, has only pickles or lacks a network's weights."""
    files = list(folder.glob("*"))
    if not files:
        raise WeightsError(f"{whole} is partial: {part} is missing or empty. Copy it again.")
    weights = [file for file in files if file.suffix == ".safetensors"]
    pickled = [file for file in files if file.suffix in PICKLED]
    if pickled and not weights:
        raise WeightsError(
            f"{pickled[0]} is a pickle, which can run code, so it is not loaded. Use a model "
            "with safetensors files, or convert it where you trust it."
        )
    if is_network and not weights:
        raise WeightsError(f"{whole} is partial: {part} has no safetensors file. Copy it again.")


def adapter_file(given: str) -> Path:
    """Return the file of a LoRA adapter given by file or folder; raise WeightsError if missing."""
    path = Path(given).expanduser()
    file = path / LORA_FILE if path.is_dir() else path
    if file.suffix in PICKLED or (path.is_dir() and not file.exists() and any(path.glob("*.bin"))):
        raise WeightsError(f"The adapter {given} is a pickle, which can run code. Use safetensors.")
    if not file.is_file():
        raise WeightsError(
            f"There is no adapter {given}. Give a .safetensors file, or a folder with {LORA_FILE}."
        )
    return file


def _read_json(path: Path) -> dict[str, Any]:
    try:
        values: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise WeightsError(f"{path} is damaged: {error} Restore the folder.") from error
    return values
