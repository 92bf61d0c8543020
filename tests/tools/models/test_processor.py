from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tools.models import processor
from tools.models.processor import choose_threads, in_bfloat16, usable_cores


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processor, "_allowed_cores", lambda: 16)


def machine(root: Path, groups: str, files: dict[str, str]) -> Path:
    for name, text in {"proc/self/cgroup": groups, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    ("groups", "files", "n_cores"),
    [
        ("0::/a/b\n", {"sys/fs/cgroup/a/cpu.max": "350000 100000\n"}, 3),
        ("0::/a\n", {"sys/fs/cgroup/a/cpu.max": "50000 100000\n"}, 1),
        ("0::/a\n", {"sys/fs/cgroup/a/cpu.max": "max 100000\n"}, 16),
        # In a container that does not see the path of its host.
        ("0::/docker/x\n", {"sys/fs/cgroup/cpu.max": "200000 100000\n"}, 2),
        (
            "5:memory:/m\n4:cpu,cpuacct:/c\n",
            {
                "sys/fs/cgroup/cpu/c/cpu.cfs_quota_us": "400000\n",
                "sys/fs/cgroup/cpu/c/cpu.cfs_period_us": "100000\n",
                "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
                "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
            },
            4,
        ),
    ],
)
def test_quotas_of_control_groups_count(
    tmp_path: Path, many: None, groups: str, files: dict[str, str], n_cores: int
) -> None:
    assert usable_cores(machine(tmp_path, groups, files)) == n_cores


def test_without_control_groups_the_allowed_cores_count(tmp_path: Path, many: None) -> None:
    assert usable_cores(tmp_path) == 16


def test_what_the_user_has_set_is_kept(monkeypatch: pytest.MonkeyPatch, many: None) -> None:
    monkeypatch.setattr(processor, "usable_cores", lambda: 3)
    variables: dict[str, str] = {}
    choose_threads(variables)
    assert variables == {"OMP_WAIT_POLICY": "passive", "OMP_NUM_THREADS": "3"}
    own = {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "7"}
    choose_threads(own)
    assert own == {"OMP_WAIT_POLICY": "active", "OMP_NUM_THREADS": "7"}


def test_threads_are_chosen_before_torch_is_imported() -> None:
    code = (
        "import os, sys\n"
        "os.environ.pop('OMP_WAIT_POLICY', None)\n"
        "from agent.cli import app\n"
        "app.app = lambda: print(os.environ['OMP_WAIT_POLICY'], 'torch' in sys.modules)\n"
        "app.main()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "passive False\n"


def test_auto_is_bfloat16_where_there_are_instructions(monkeypatch: pytest.MonkeyPatch) -> None:
    for has in (True, False):
        monkeypatch.setattr("torch.cpu._is_avx512_bf16_supported", lambda has=has: has)
        assert in_bfloat16("auto", "cpu") is has
        assert in_bfloat16("bfloat16", "cpu")
        assert not in_bfloat16("float32", "cpu")
