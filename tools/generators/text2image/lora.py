"""LoRA adapters of a diffusers pipeline: loading, checks, and weights per batch."""

from __future__ import annotations

import importlib.util
import re
import warnings
from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import DiffusionPipeline
from safetensors import SafetensorError, safe_open

from memory.errors import SettingsError, WeightsError
from tools.data.drawn import adapter_name
from tools.models.diffusers_folder import adapter_file
from tools.models.digests import files_sha256


class Adapters:
    """The adapters of a pipeline.

    Args:
        pipeline: Pipeline that the adapters are loaded into.
        given: Files or folders with their default weights; see `adapter_name` for their names.

    Raises:
        WeightsError: An adapter is missing, a pickle, damaged or for another model.
        SettingsError: Two adapters have the same name, or the package peft is missing.
    """

    def __init__(self, pipeline: DiffusionPipeline, given: Mapping[str, float]) -> None:
        self._pipeline = pipeline
        files = [adapter_file(path) for path in given]
        names = [adapter_name(path) for path in given]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise SettingsError(
                f"Two of generator.options.adapters are named {twice!r}, so no prompt could tell "
                "them apart. Rename a file or a folder."
            )
        if files:
            require_peft()
        self.weights = dict(zip(names, given.values(), strict=True))
        self.sha256 = {name: files_sha256([file]) for name, file in zip(names, files, strict=True)}
        # Names within the pipeline, as file names may contain characters that modules' may not.
        self._inner = {name: f"adapter_{i}" for i, name in enumerate(names)}
        for name, file in zip(names, files, strict=True):
            _add(pipeline, file, self._inner[name])
        self._set: dict[str, float] | None = None

    def weigh(self, weights: Mapping[str, float]) -> None:
        """Set weights of adapters, all others to their default; SettingsError: unknown adapter."""
        wanted = self.all_weights(weights)
        if wanted and wanted != self._set:
            inner = [self._inner[name] for name in wanted]
            self._pipeline.set_adapters(inner, list(wanted.values()))
            self._set = wanted

    def all_weights(self, weights: Mapping[str, float]) -> dict[str, float]:
        """Return the weight of every adapter, by name, for a prompt that sets `weights`."""
        foreign = weights.keys() - self.weights.keys()
        if foreign:
            raise SettingsError(
                f"A prompt weighs the adapter {min(foreign)!r}, but generator.options.adapters has "
                f"{', '.join(sorted(self.weights)) or 'none'}."
            )
        return {**self.weights, **weights}


def require_peft() -> None:
    """Raise SettingsError if the package peft is not installed."""
    if importlib.util.find_spec("peft") is None:
        raise SettingsError(
            "LoRA adapters need the package peft: pip install 'feedback-shaping[lora]', or leave "
            "generator.options.adapters out."
        )


def _add(pipeline: DiffusionPipeline, file: Path, name: str) -> None:
    try:
        with safe_open(file, "pt") as tensors:
            keys = list(tensors.keys())
        with warnings.catch_warnings():
            # Several adapters are intended here.
            warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
            pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=name)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"The adapter {file} is damaged: {error} Copy it again.") from error
    except Exception as error:  # peft and diffusers raise many types for foreign shapes
        raise WeightsError(_foreign(file, pipeline, str(error))) from error
    wanted = [key for key in keys if re.search(r"lora.*(_A|_B|down|up)\b", key)]
    loaded = [
        key
        for part in pipeline.components.values()
        if isinstance(part, torch.nn.Module)
        for key, _ in part.named_parameters()
        if f".{name}." in key
    ]
    # diffusers skips tensors without a counterpart, with a warning at most.
    if not loaded or len(loaded) < len(wanted):
        matched = f"{len(loaded)} of its {len(wanted)} tensors match."
        raise WeightsError(_foreign(file, pipeline, matched))


def _foreign(file: Path, pipeline: DiffusionPipeline, why: str) -> str:
    return (
        f"The adapter {file} is not for this model, a {type(pipeline).__name__}: {why[:300]} "
        "Choose an adapter that was trained on it."
    )
