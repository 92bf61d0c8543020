from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from memory.errors import DataError, WeightsError
from memory.records import Training
from tools import tasks
from tools.evaluate_real import evaluate, evaluate_real, read_predictions, read_sealed
from tools.models.dstm_file import save_model
from tools.settings import TrainSettings
from tools.tasks import Slicing
from tools.train_dstm import train_model

SLICING = Slicing([("light",)], 5)


@pytest.fixture
def session(tmp_path: Path, target: Any, quick: TrainSettings) -> Path:
    task = tasks.build("classification")
    model = train_model(target.split("generator"), task, 2, quick)[0]
    save_model(
        tmp_path / "rounds/001",
        model,
        {"task": "classification", "class_names": list(target.class_names)},
    )
    return tmp_path


def training(model: str = "rounds/001") -> Training:
    return Training(
        round=1, job_id="j", model=model, n_images=80, n_steps=60, final_loss=0.5, sha256="s"
    )


def test_a_report_fits_its_predictions(session: Path, target: Any) -> None:
    feedback = target.split("feedback")
    report, said = evaluate(session / "rounds/001", feedback, "feedback", 1, SLICING)
    probabilities = said.values
    assert (said.task, list(said.ids)) == ("classification", list(feedback.ids))
    assert probabilities.shape == (80, 2)
    assert probabilities.dtype == np.float64
    assert np.allclose(probabilities.sum(1), 1)
    correct = probabilities.argmax(1) == feedback.classes
    assert report.metrics["accuracy"].value == pytest.approx(correct.mean())
    assert report.metrics["accuracy"].n == 80
    assert report.split == "feedback"
    assert report.worst_slice == "light=dim"
    assert {s.key: s.accuracy.n for s in report.slices} == {"light=dim": 40, "light=good": 40}


def test_an_evaluation_repeats_to_the_last_bit(session: Path, target: Any) -> None:
    args = (session / "rounds/001", target.split("feedback"), "feedback", 1, SLICING)
    first, second = evaluate(*args), evaluate(*args)
    assert first[0] == second[0]
    assert np.array_equal(first[1].values, second[1].values)


def test_the_agent_gets_feedback_and_the_test_is_sealed(session: Path, target: Any) -> None:
    report = evaluate_real(1, session, training(), target, SLICING)
    assert report.split == "feedback"
    predictions = read_predictions(session, 1)
    assert list(predictions.ids) == list(target.split("feedback").ids)
    correct = predictions.values.argmax(1) == target.split("feedback").classes
    assert report.metrics["accuracy"].value == pytest.approx(correct.mean())
    (sealed,) = read_sealed(session)
    assert (sealed.round, sealed.split) == (1, "test")
    expected, _ = evaluate(session / "rounds/001", target.split("test"), "test", 1, SLICING)
    assert sealed == expected
    opened = [p.name for p in (session / "rounds/001").iterdir() if b"sealed" in p.read_bytes()]
    assert opened == []


def test_sealed_reports_are_sorted_by_round(session: Path, target: Any) -> None:
    for number in (2, 1):
        evaluate_real(number, session, training(), target, SLICING)
    assert [r.round for r in read_sealed(session)] == [1, 2]


def test_a_session_without_rounds_has_no_sealed_reports(tmp_path: Path) -> None:
    assert read_sealed(tmp_path) == ()


def test_a_missing_model_is_an_error(session: Path, target: Any) -> None:
    with pytest.raises(WeightsError, match="rounds/009"):
        evaluate_real(9, session, training("rounds/009"), target, SLICING)
    assert read_sealed(session) == ()


def test_an_empty_split_is_an_error(session: Path, target: Any) -> None:
    nothing = target.split("feedback").take([])
    with pytest.raises(DataError, match="nothing to measure"):
        evaluate(session / "rounds/001", nothing, "feedback", 1, SLICING)


@pytest.mark.parametrize("damaged", [False, True])
def test_predictions_that_are_not_there(tmp_path: Path, damaged: bool) -> None:
    if damaged:
        (tmp_path / "rounds/004").mkdir(parents=True)
        (tmp_path / "rounds/004/feedback.safetensors").write_bytes(json.dumps({}).encode())
    with pytest.raises(DataError, match=r"round 4 are missing or damaged.*Call evaluate_real"):
        read_predictions(tmp_path, 4)
