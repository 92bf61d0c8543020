"""A plug-in of any kind is one file in its package, and nothing else."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from agent.autonomous.runner import run
from agent.config.settings import load_settings
from memory.journal import read_events, rounds
from tests.contracts.added import FILES, NAME, add
from tools.plugins import names

ROOT = Path(__file__).parents[2]


@pytest.fixture
def added(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in FILES.values():
        module = importlib.import_module(package)
        monkeypatch.setattr(module, "__path__", list(module.__path__))
        monkeypatch.delitem(sys.modules, f"{package}.{NAME}", raising=False)
    add(tmp_path / "added")


@pytest.mark.usefixtures("added")
def test_a_session_of_added_files_alone(tmp_path: Path) -> None:
    assert all(NAME in names(package) for package in FILES.values())
    assignments = [
        f"home={tmp_path / 'home'}",
        f"target.name={NAME}",
        "target.options={}",
        f"generator.name={NAME}",
        f"labeler.name={NAME}",
        f"dstm.task={NAME}",
        "dstm.steps=30",
        f"selection.method={NAME}",
        "selection.keep=0.5",
        f"brain=policy:{NAME}",
        "feedback.slices=[[side]]",
        "feedback.n_min=5",
        "session.rounds=2",
        "session.images_per_round=8",
        "device=cpu",
    ]
    page = run(load_settings("streets-seg", assignments, {}), Console(quiet=True))
    baseline, first, second = rounds(read_events(page.parent / "journal.jsonl"))
    assert baseline.number == 0 and baseline.report
    assert first.plan and first.plan.why == "Half of the rarest."
    assert first.batch and first.batch.n_made == 8
    assert second.training and second.training.n_images == 8
    assert second.report and second.report.metrics["miou"].value > 0.9
    assert {score.key for score in second.report.slices} == {"side=left", "side=right"}


def test_the_contract_suites_check_added_files(tmp_path: Path) -> None:
    result = subprocess.run(
        [*(sys.executable, "-m", "pytest", "-n0", "-v", "-p", "tests.contracts.added", "-k", NAME),
         "tests/contracts"],
        cwd=ROOT,
        env={**os.environ, "ADDED_PLUGINS": str(tmp_path), "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )  # fmt: skip
    assert result.returncode == 0, result.stdout
    for suite in ("generators", "planners", "selection", "targets", "tasks"):
        assert f"tests/contracts/test_{suite}.py::test_" in result.stdout
