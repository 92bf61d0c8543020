"""SHA-256 digests of files, folders and weights, by which models are identified."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch


def files_sha256(paths: Sequence[Path]) -> str:
    """Return a digest of files, by name and content, in that order."""
    content = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            content.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return content.hexdigest()


def folder_sha256(folder: Path) -> str:
    """Return a digest of the weights and settings in a folder, by name and content."""
    kinds = (".safetensors", ".json", ".txt")
    return files_sha256(sorted(path for path in folder.rglob("*") if path.suffix in kinds))


def identity_of(name: str, content: Any, modules: Iterable[torch.nn.Module] = ()) -> str:
    """Return a plug-in's name with 16 hex digits for all that decides its output.

    Args:
        name: Of the plug-in.
        content: Plain JSON.
        modules: Whose weights count, by name and content.
    """
    sha256 = hashlib.sha256(json.dumps(content).encode())
    for module in modules:
        for key, value in sorted(module.state_dict().items()):
            sha256.update(key.encode())
            sha256.update(value.cpu().contiguous().numpy().tobytes())
    return f"{name} {sha256.hexdigest()[:16]}"
