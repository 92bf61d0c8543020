from __future__ import annotations

import ast
import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from agent import planners
from agent.autonomous.copies import read_copies
from agent.autonomous.runner import run
from agent.config.settings import load_settings
from agent.loop.components import Components
from agent.loop.observer import Observer
from agent.planners import Observation
from agent.session.folder import open_session
from memory.errors import SettingsError
from memory.events import FaultEvent
from memory.records import Round
from tests.agent.quick import toy_settings
from tests.factories import report, slice_score
from tools.labelers.audit import AuditClassifier, KeepAll

ROOT = Path(__file__).parents[3]
# Packages whose `build` makes one, and the functions that train a judge.
BUILT = ("targets", "generators", "labelers")
TRAINED = ("train_audit", "train_dense_audit", "Recipe")
# A worker builds what its recipe says; a generator may be made of another one.
OTHERS = ("tools/compute/worker.py", "tools/generators/label_first/__init__.py")


def builders(path: Path) -> list[str]:
    """Return the calls in a file that build a target, a generator, a labeler or a judge."""
    calls = []
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Call):
            name = ast.unparse(node.func)
            package, _, function = name.rpartition(".")
            built = function == "build" and package.rpartition(".")[2] in BUILT
            if built or function in TRAINED:
                calls.append(name)
    return calls


def test_components_alone_build_targets_generators_labelers_and_judges() -> None:
    paths = [p for room in ("agent", "tools") for p in sorted((ROOT / room).rglob("*.py"))]
    calls = {p.relative_to(ROOT).as_posix(): builders(p) for p in paths}
    found = {path: names for path, names in calls.items() if names and path not in OTHERS}
    assert list(found) == ["agent/loop/components.py"]
    assert {*found["agent/loop/components.py"]} == {"targets.build", *TRAINED}


def test_slices_without_photographs_to_learn_from_are_asked_for_where_the_generator_knows_more(
    tmp_path: Path,
) -> None:
    class Heard(Observer):
        def warn(self, message: str) -> None:
            warnings.append(message)

    warnings: list[str] = []
    fine = ("feedback.slices=[[brightness, contrast, severity, where]]", "feedback.n_min=1")
    known = Components(toy_settings(tmp_path, *fine), Heard()).distribution
    assert len(warnings) == 1 and "where=" in warnings[0] and "feedback.min_support" in warnings[0]

    everything = toy_settings(tmp_path, *fine, "feedback.min_support=0")
    components = Components(everything, Heard())
    feedback = components.target.split("feedback")
    others = [a for a in feedback.attributes if not known.n_of(a)]
    assert others and len(warnings) == 1
    assert all(components.distribution.supports(a) for a in others)
    assert not any(known.supports(a) for a in others)

    # A failing slice that the split generator lacks gets images.
    slices = tuple(slice_score(a, 0.0 if a is others[0] else 1.0, 30) for a in others[:2])
    seen = Observation(
        round=1,
        n_images=16,
        images_per_prompt=4,
        seed=0,
        rounds=(Round(number=0, report=report(*slices)),),
    )
    for planner in ("learning_curve", "audited_failure:floor=0", "count", "thompson:floor=0"):
        plan = planners.build(planner).plan(
            seen, components.distribution, components.target.vocabulary
        )
        asked = sum(p.count for p in plan.prompts if p.attributes == others[0])
        assert asked >= 6 and sum(p.count for p in plan.prompts) == 16, planner


def test_parts_are_built_once_and_stages_are_shown(tmp_path: Path) -> None:
    class Watching(Observer):
        stages: list[str]

        def stage(self, name: str, number: int):  # type: ignore[no-untyped-def]
            self.stages.append(name)
            return super().stage(name, number)

    settings = toy_settings(tmp_path, "audit.method=none")
    observer = Watching()
    observer.stages = []
    components = Components(settings, observer)
    assert components.generator is components.generator
    assert components.pretrain_target is components.target
    assert isinstance(components.judge, KeepAll)
    assert observer.stages == ["load generator", "load target"]


def test_photographs_are_indexed_once_for_audit_and_report(tmp_path: Path) -> None:
    given = ("audit.copies=drop", "audit.method=none", "session.rounds=1", "session.name=once")
    shown = io.StringIO()
    run(toy_settings(tmp_path, *given), Console(file=shown))
    assert read_copies(tmp_path / "sessions" / "once")
    assert shown.getvalue().count("index photographs done") == 1


def test_faults_are_journaled_within_a_session_alone(tmp_path: Path) -> None:
    class Warned(Observer):
        def warn(self, text: str) -> None:
            warned.append(text)

    warned: list[str] = []
    settings = toy_settings(tmp_path)
    Components(settings, Warned()).fault("tried", "It was mended.", n_at_once=1)
    with open_session(settings, "one") as session:
        Components.of_session(session, Warned()).fault("tried", "It was mended.", n_at_once=1)
        (event,) = session.journal.events(FaultEvent)
    assert (event.what, event.message, event.n_at_once) == ("tried", "It was mended.", 1)
    assert warned == ["It was mended."] * 2


def test_an_audit_that_knows_too_little_says_so(tmp_path: Path) -> None:
    class Warned(Observer):
        def warn(self, text: str) -> None:
            warned.append(text)

    warned: list[str] = []
    settings = toy_settings(tmp_path, "audit.train.steps=2")
    assert isinstance(Components(settings, Warned()).judge, AuditClassifier)
    assert warned == []
    few = Components(settings, Warned()).target.split("audit").take(range(30))
    with_few: Any = SimpleNamespace(
        name="few", flips=(), class_names=("a", "b"), split=lambda name: few
    )
    audit = Components(settings, Warned()).classifier(with_few)
    assert audit.abstains == ("a", "b")
    assert len(warned) == 1
    assert audit.verify(few)[2].all()


def test_a_device_that_is_not_there_is_refused(tmp_path: Path) -> None:
    import torch

    settings = load_settings("solar", ["device=cuda", f"home={tmp_path}"], {})
    if torch.cuda.is_available():
        assert Components(settings).device == "cuda"
    else:
        with pytest.raises(SettingsError, match="device"):
            _ = Components(settings).device
