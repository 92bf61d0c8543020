"""A plug-in of any kind is one file in its package, and nothing else."""

from __future__ import annotations

import importlib
import sys
from collections import Counter
from pathlib import Path

import pytest
from rich.console import Console

from agent.autonomous.runner import run
from agent.config.settings import load_settings
from memory.journal import read_events, rounds
from tests.contracts.added import FILES, NAME, add
from tools.plugins import names


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


class Passed:
    """A pytest plug-in that counts the tests of each file that pass."""

    def __init__(self) -> None:
        self.by_file: Counter[str] = Counter()

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call" and report.passed:
            self.by_file[Path(report.nodeid.partition("::")[0]).name] += 1


@pytest.mark.usefixtures("added")
def test_the_contract_suites_check_added_files(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # They are read anew, as they ask for the plug-ins when they are imported.
    for name in [name for name in sys.modules if name.startswith("tests.contracts.test_")]:
        monkeypatch.delitem(sys.modules, name)
    passed = Passed()
    options = ["-n0", "--capture=no", "-p", "no:cacheprovider", "-p", "no:faulthandler"]
    place = [f"--basetemp={tmp_path / 'contracts'}", str(Path(__file__).parent)]
    assert pytest.main([*options, "-k", NAME, *place], plugins=[passed]) == 0
    suites = {f"test_{name}.py" for name in ("generators", "planners", "selection")}
    assert passed.by_file.keys() == suites | {"test_targets.py", "test_tasks.py"}
