"""Provenance of figures: commit, machine and versions of packages."""

from __future__ import annotations

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

import torch


def commit() -> str:
    """Return the commit of the working tree; without git the version of the installed package."""
    git = ["git", "-C", str(Path(__file__).parent), "rev-parse", "--short", "HEAD"]
    try:
        return subprocess.run(git, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return version("feedback-shaping") or "unknown"


def version(package: str) -> str | None:
    """Return the version of a package; None: it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def machine(device: str) -> str:
    """Return a description of the machine for tables: its cores and the GPU in use."""
    gpu = torch.cuda.get_device_name() if device.startswith("cuda") else "no GPU"
    return f"{os.cpu_count()} cores {platform.machine()}, {gpu}"
