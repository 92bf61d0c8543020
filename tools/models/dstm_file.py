"""Files of a DSTM: weights as safetensors, and model.json, which is written last."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
import torch.utils.deterministic
from safetensors import SafetensorError
from safetensors.torch import load, save

from memory.errors import WeightsError
from memory.files import write_bytes, write_json
from tools import plugins, tasks
from tools.tasks import Model


def save_model(folder: Path, model: Model, meta: Mapping[str, Any]) -> str:
    """Write model.safetensors, then model.json, which marks the weights as complete.

    Args:
        folder: Folder to write.
        model: A DSTM.
        meta: JSON values to store in model.json beside the architecture; `task` is required to load
            the model.

    Returns:
        The SHA-256 of the weights.
    """
    data = save({name: value.contiguous() for name, value in model.state_dict().items()})
    sha256 = hashlib.sha256(data).hexdigest()
    write_bytes(folder / "model.safetensors", data)
    described = {"sha256": sha256, "architecture": model.description, "flips": list(model.flips)}
    write_json(folder / "model.json", {"schema": 1, **described, **meta})
    return sha256


def read_weights(folder: Path) -> tuple[bytes, dict[str, Any]]:
    """Return the bytes of a saved model's weights and the content of its model.json.

    Raises:
        WeightsError: A file is missing or damaged.
    """
    with _whole(folder):
        meta: dict[str, Any] = json.loads((folder / "model.json").read_bytes())
        data = (folder / "model.safetensors").read_bytes()
        sha256 = hashlib.sha256(data).hexdigest()
        if sha256 != meta["sha256"]:
            raise ValueError(f"SHA-256 {sha256[:12]}..., expected {meta['sha256'][:12]}...")
    return data, meta


def load_model(folder: Path, device: str = "cpu") -> tuple[Model, dict[str, Any]]:
    """Return a saved model, ready to predict, and the content of its model.json.

    Raises:
        WeightsError: A file is missing, damaged or does not fit the architecture.
    """
    data, meta = read_weights(folder)
    with _whole(folder):
        for part in str(meta["task"]).split("+"):
            plugins.refuse_unknown(part)
        with reproducible(0, device):
            model = tasks.build(meta["task"]).restore_model(meta["architecture"])
        model.load_state_dict(load(data))
        model.flips = tuple(meta.get("flips", model.flips))
    return model.to(device).eval(), meta


@contextlib.contextmanager
def _whole(folder: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, KeyError, ValueError, RuntimeError, SafetensorError) as error:
        raise WeightsError(
            f"The model in {folder} is missing or damaged: {error}. Restore model.safetensors and "
            "model.json. A model of the cache is trained anew where both are deleted."
        ) from error


@contextlib.contextmanager
def reproducible(seed: int, device: str) -> Iterator[None]:
    """Seed torch and request deterministic kernels; restore both on exit."""
    cuda = [torch.device(device)] if torch.device(device).type == "cuda" else []
    before = torch.are_deterministic_algorithms_enabled()
    warn_only = torch.is_deterministic_algorithms_warn_only_enabled()
    memory: Any = torch.utils.deterministic
    fill = memory.fill_uninitialized_memory
    with torch.random.fork_rng(devices=cuda):
        torch.manual_seed(seed)
        torch.use_deterministic_algorithms(True, warn_only=True)
        memory.fill_uninitialized_memory = False  # filling takes a tenth of the time
        try:
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=warn_only)
            memory.fill_uninitialized_memory = fill
