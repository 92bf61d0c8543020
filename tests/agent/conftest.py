"""A home folder whose target and audit are ready, so that sessions of tests start at once."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from agent.settings import Settings, load_settings
from agent.workbench import build_target
from tools.labelers.audit import train_audit

# The toy generator and short trainings: a whole session takes seconds.
QUICK = (
    "generator.name=toy",
    "dstm.steps=12",
    "dstm.batch_size=16",
    "audit.train.steps=12",
    "session.rounds=2",
    "session.images_per_round=24",
    "session.shard_size=8",
    "device=cpu",
)

MakeSettings = Callable[..., Settings]


@pytest.fixture(scope="session")
def prepared_home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home folder with the small photographs and the audit classifier in its cache."""
    pytest.importorskip("elpv_dataset", reason="needs the photographs of elpv-dataset")
    home = tmp_path_factory.mktemp("home")
    settings = load_settings("solar", [*QUICK, f"home={home}"], {})
    train_audit(build_target(settings), settings.audit, home / "cache")
    return home


@pytest.fixture
def make_settings(prepared_home: Path, tmp_path: Path) -> MakeSettings:
    """Settings of a quick session; every home of one test has a warm cache."""

    def make(*overrides: str, home: str = "home", quick: Sequence[str] = QUICK) -> Settings:
        folder = tmp_path / home
        if not folder.exists():
            folder.mkdir()
            shutil.copytree(prepared_home / "cache", folder / "cache")
        return load_settings("solar", [*quick, f"home={folder}", *overrides], {})

    return make
