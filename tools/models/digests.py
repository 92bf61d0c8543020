"""SHA-256 digests of files, folders and weights that identify models."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch


def files_sha256(paths: Sequence[Path]) -> str:
    """Return a digest of the names and contents of files, in the given order."""
    content = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            content.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return content.hexdigest()


def folder_sha256(folder: Path) -> str:
    """Return a digest of the names and contents of weight and settings files in a folder."""
    kinds = (".safetensors", ".json", ".txt")
    return files_sha256(sorted(path for path in folder.rglob("*") if path.suffix in kinds))


def identity_of(name: str, content: Any, modules: Iterable[torch.nn.Module] = ()) -> str:
    """Return a plug-in's name with 16 hex digits of a digest of everything its output depends on.

    Args:
        name: Name of the plug-in.
        content: Settings, as JSON.
        modules: Modules whose weights are included.
    """
    sha256 = hashlib.sha256(json.dumps(content).encode())
    for module in modules:
        for key, value in sorted(module.state_dict().items()):
            sha256.update(key.encode())
            sha256.update(value.cpu().contiguous().numpy().tobytes())
    return f"{name} {sha256.hexdigest()[:16]}"
