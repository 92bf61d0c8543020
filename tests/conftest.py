from __future__ import annotations

import os
import random
import tempfile

import numpy as np
import pytest

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
