from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

# Read when torch is imported: on a shared machine two busy threads can be slower than one.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Where commands and code paths are recorded as given on this machine.
_state = tempfile.TemporaryDirectory()
os.environ["XDG_STATE_HOME"] = _state.name

# What the tests say of settings must not depend on who runs them, and nothing of them is traced.
for variable in [n for n in os.environ if n.startswith(("SHAPING_", "LANGSMITH_", "LANGCHAIN_"))]:
    del os.environ[variable]


@pytest.fixture(autouse=True)
def seeds() -> None:
    random.seed(0)
    np.random.seed(0)


@pytest.fixture(autouse=True, scope="session")
def unsynced() -> Iterator[None]:
    """Do not wait for the disk: no test cuts the power, and each session waits 200 times."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda handle: None)
        yield


@pytest.fixture(scope="session")
def elpv_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the small photographs of elpv, made once for all workers."""
    pytest.importorskip("elpv_dataset", reason="needs the photographs of elpv-dataset")
    from tools.targets import elpv

    place = tmp_path_factory.getbasetemp()
    folder = (place.parent if "PYTEST_XDIST_WORKER" in os.environ else place) / "elpv"
    with FileLock(f"{folder}.lock"):
        elpv.build(folder)
    return folder
