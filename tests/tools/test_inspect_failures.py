from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save_file

from memory.errors import DataError
from tools.inspect_failures import inspect

BY = [("light",)]


@pytest.fixture
def session(tmp_path: Path, target: Any) -> Path:
    """A session whose model takes each dim square for plain and knows all else."""
    feedback = target.split("feedback")
    wrong = [a["light"] == "dim" and c == 1 for a, c in zip(*parts(feedback), strict=True)]
    seen = np.where(wrong, 0, feedback.classes)
    arrays = {"predictions": 0.2 + 0.6 * np.eye(2)[seen]}
    folder = tmp_path / "rounds/002"
    folder.mkdir(parents=True)
    ids = json.dumps(list(feedback.ids))
    save_file(
        arrays, folder / "feedback.safetensors", metadata={"ids": ids, "task": "classification"}
    )
    return tmp_path


def parts(samples: Any) -> tuple[Any, Any]:
    return samples.attributes, samples.classes


def test_a_failure_comes_with_a_picture_of_its_errors(session: Path, target: Any) -> None:
    (failure,) = inspect(2, session, target, BY, n_min=10)
    assert (failure.slice, failure.n, failure.n_wrong) == ("light=dim", 40, 20)
    assert failure.significant
    assert failure.rest_error_rate == 0
    assert failure.picture == f"rounds/002/failures/{failure.id}.png"
    feedback = target.split("feedback")
    for name in failure.examples:
        i = list(feedback.ids).index(name)
        assert feedback.attributes[i] == {"light": "dim"}
        assert feedback.classes[i] == 1
    with Image.open(session / failure.picture) as picture:
        assert picture.width > 8 * 32


def test_inspecting_twice_gives_the_same(session: Path, target: Any) -> None:
    first = inspect(2, session, target, BY, n_min=10)
    path = session / str(first[0].picture)
    data = path.read_bytes()
    assert inspect(2, session, target, BY, n_min=10) == first
    assert path.read_bytes() == data


def test_no_slice_is_large_enough(session: Path, target: Any) -> None:
    assert inspect(2, session, target, BY, n_min=41) == ()
    assert not (session / "rounds/002/failures").exists()


def test_a_round_that_was_not_evaluated(session: Path, target: Any) -> None:
    with pytest.raises(DataError, match="Call evaluate_real"):
        inspect(3, session, target, BY, n_min=10)


def test_predictions_of_another_target_are_refused(session: Path, target: Any) -> None:
    other = dataclasses.replace(target, n_images=40)
    with pytest.raises(DataError, match="other photographs"):
        inspect(2, session, other, BY, n_min=10)


def test_a_failure_beyond_the_slices_is_discovered(session: Path, target: Any) -> None:
    (found,) = inspect(2, session, target, [], n_min=10, discovery=True)
    assert (found.slice, found.n, found.n_wrong) == ("light=dim", 40, 20)
    assert found.significant and found.fixable is None
    assert found.picture and (session / found.picture).is_file()
    known = inspect(2, session, target, BY, n_min=10, discovery=True)
    assert [failure.slice for failure in known] == ["light=dim"]
