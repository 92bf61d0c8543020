"""Few photographs: a round's models judge, fold by fold, what they have not learnt from."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from agent.autonomous.runner import run
from agent.experiments.rerun import rerun
from agent.loop.components import Components
from agent.loop.live_effects import LiveEffects
from agent.loop.observer import Observer
from agent.loop.photographs import folds_of, photographs_to_pull_toward
from agent.replay.verify import verify
from agent.session.folder import folder_of, open_session
from memory.errors import SettingsError
from memory.journal import read_events, rounds
from tests.agent.quick import toy_settings
from tests.tools.targets.own_data import class_folders, scenes
from tools.data.stored_images import contents
from tools.evaluate_real import read_predictions
from tools.settings import AuditSettings
from tools.targets import SPLITS
from tools.targets.cross_fitting import cross_fitted, fold_rows, undivided
from tools.targets.folder import build
from tools.targets.toy import SIZES, Toy

FOLDS = ("dstm.train_on=real+synthetic", "audit.method=none", "feedback.folds=3")
N_JUDGED = SIZES["audit"] + SIZES["feedback"]


def test_no_model_judges_what_it_has_learnt(tmp_path: Path) -> None:
    components = Components(toy_settings(tmp_path, *FOLDS))
    target, folds = components.target, folds_of(components)
    feedback = target.split("feedback")
    assert len(feedback) == N_JUDGED and not len(target.split("audit"))
    assert sorted(np.concatenate([fold.judged for fold in folds])) == list(range(N_JUDGED))
    sealed = {*target.split("test").ids}
    for fold in folds:
        learnt = {name for path in fold.real for name in contents(path).ids}
        judged = {feedback.ids[row] for row in fold.judged}
        assert not learnt & judged and not learnt & sealed
        assert learnt | judged == {*feedback.ids, *target.split("generator").ids}
    # An image that is pulled toward a photograph would teach all models of it.
    pulled, learnt_too = photographs_to_pull_toward(components)
    assert learnt_too and list(pulled.ids) == list(target.split("generator").ids)
    assert [len(undivided(target).split(name)) for name in SPLITS] == list(SIZES.values())


def test_a_session_is_judged_in_folds_and_replayed(tmp_path: Path) -> None:
    changes = ["session.rounds=1", "session.name=few", "dstm.synthetic_share=auto"]
    run(toy_settings(tmp_path, *FOLDS, *changes), Console(quiet=True))
    folder = folder_of(tmp_path, "few")
    for current in rounds(read_events(folder / "journal.jsonl")):
        assert current.training and current.report
        learnt = current.training.folds, current.training.n_real
        assert learnt == (3, N_JUDGED + SIZES["generator"])
        assert current.report.metrics["accuracy"].n == N_JUDGED
        assert len(read_predictions(folder, current.number, "test").ids) == SIZES["test"]
        assert len([*(folder / current.training.model).glob("fold-*/model.json")]) == 3
    assert not verify(folder / "journal.jsonl").findings
    assert all(result.same for result in rerun(folder, tmp_path, ["train", "evaluate"]))


def test_lost_models_of_folds_are_trained_again(tmp_path: Path) -> None:
    with open_session(toy_settings(tmp_path, *FOLDS), "few") as session:
        effects = LiveEffects(Components.of_session(session, Observer()))
        training = effects.train(0)
        before = effects.evaluate(training)
        (session.folder / training.model / "fold-1" / "model.json").unlink()
        assert effects.evaluate(training) == before


def test_images_alone_need_no_folds(tmp_path: Path) -> None:
    settings = toy_settings(tmp_path, *FOLDS, "dstm.train_on=synthetic")
    assert folds_of(Components(settings)) == []


def test_an_audit_would_learn_what_is_judged(tmp_path: Path) -> None:
    settings = toy_settings(tmp_path, *FOLDS, "audit.method=classifier")
    with pytest.raises(SettingsError, match=r"audit\.method=none"):
        _ = Components(settings).target


def test_an_accuracy_is_foretold_where_classes_are_predicted(tmp_path: Path) -> None:
    none = AuditSettings(method="none")
    birds = cross_fitted(build(tmp_path, str(class_folders(tmp_path / "birds"))), 5, none)
    roads = cross_fitted(build(tmp_path, str(scenes(tmp_path / "roads"))), 5, none)
    assert "an accuracy of 50%" in birds.notice and "50%" not in roads.notice


def test_copies_and_groups_share_a_fold_and_classes_are_spread() -> None:
    samples = Toy().split("feedback")
    images = samples.images.copy()
    images[1] = images[0]
    groups = ["video" if row in (2, 3, 4) else f"alone {row}" for row in range(len(samples))]
    folds = fold_rows(replace(samples, images=images, groups=groups), 3, 0)
    fold_of = {int(row): number for number, rows in enumerate(folds) for row in rows}
    assert fold_of[0] == fold_of[1] and len({fold_of[row] for row in (2, 3, 4)}) == 1
    assert len(fold_of) == len(samples) and all(
        len({*samples.classes[rows]}) == len({*samples.classes}) for rows in folds
    )


def test_a_class_of_three_photographs_is_learnt_judged_and_tested(tmp_path: Path) -> None:
    root = class_folders(tmp_path / "data", n=12)
    rare = sorted(root.iterdir())[0]
    for file in sorted(rare.iterdir())[3:]:
        file.unlink()
    target = build(tmp_path / "cache", str(root))
    number = list(target.class_names).index(rare.name)
    counts = {name: int((target.split(name).classes == number).sum()) for name in SPLITS}
    assert counts == {"generator": 1, "audit": 0, "feedback": 1, "test": 1}
