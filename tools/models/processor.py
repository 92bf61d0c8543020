"""Properties of the processor: usable cores, OpenMP threads and support for bfloat16."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from pathlib import Path
from typing import Literal

Precision = Literal["auto", "float32", "bfloat16"]


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of cores that this process may use, at least 1.

    This is the minimum of its CPU affinity and the quotas of its control groups, rounded down.

    Args:
        root: Folder that contains /proc and /sys.
    """
    return max(1, min([_allowed_cores(), *map(int, _quotas(root))]))


def _allowed_cores() -> int:
    affinity = getattr(os, "sched_getaffinity", None)
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def _quotas(root: Path) -> list[float]:
    """Return the CPU quota, in cores, of each control group (version 1 and 2) of the process."""
    try:
        groups = (root / "proc/self/cgroup").read_text().splitlines()
    except OSError:
        return []
    quotas = []
    for group in groups:
        _, controllers, path = group.split(":", 2)
        if controllers and "cpu" not in controllers.split(","):
            continue
        mount = root / "sys/fs/cgroup" / ("cpu" if controllers else "")
        group_folder = mount / path.lstrip("/")
        # In a container the path may be that of the host, so the root of the mount is checked too.
        for folder in [group_folder, *group_folder.parents]:
            if not folder.is_relative_to(mount):
                break
            quotas += _quota(folder, is_v1=bool(controllers))
    return quotas


def _quota(folder: Path, is_v1: bool) -> list[float]:
    try:
        if is_v1:
            texts = [(folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")]
        else:
            texts = (folder / "cpu.max").read_text().split()
        quota, period = map(int, texts)
    except (OSError, ValueError):  # "max", or no such file
        return []
    return [quota / period] if quota > 0 and period > 0 else []


def choose_threads(variables: MutableMapping[str, str] = os.environ) -> None:
    """Set number and wait policy of OpenMP threads; must be called before torch is imported.

    Idle threads sleep instead of spinning, which on a busy machine takes many times the processor
    time of the work itself. The number of threads is set if a control group has a quota, which
    OpenMP ignores. Variables that the user has set are kept.

    Args:
        variables: Environment variables.
    """
    variables.setdefault("OMP_WAIT_POLICY", "passive")
    if (n_usable := usable_cores()) < _allowed_cores():
        variables.setdefault("OMP_NUM_THREADS", str(n_usable))


def has_bfloat16(device: str) -> bool:
    """Return whether a torch device supports bfloat16 in hardware: CUDA or AVX512-BF16.

    Otherwise bfloat16 is many times slower than float32.
    """
    import torch

    is_cpu = torch.device(device).type == "cpu"
    return not is_cpu or torch.cpu._is_avx512_bf16_supported()


def in_bfloat16(precision: Precision, device: str) -> bool:
    """Return whether to compute in bfloat16; `auto`: if the device supports it in hardware."""
    return precision == "bfloat16" or (precision == "auto" and has_bfloat16(device))
