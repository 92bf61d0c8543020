"""How a DSTM does on real photographs.

What the agent may see is the `feedback` split. The figures on `test` go to a sealed file that only
`read_sealed` opens, for reports and comparisons.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from memory.errors import DataError
from memory.files import write_bytes, write_json
from memory.records import Report, Training
from tools import tasks
from tools.data.jobs import round_folder
from tools.data.samples import Images, Samples
from tools.models.dstm_file import load_model
from tools.tasks import Model

if TYPE_CHECKING:
    from tools.targets import Target

Predict = Callable[[str, Model, Images], NDArray[Any]]
"""Takes the name of a task, a model and images; returns what `tools.tasks.Task.predict` does."""


@dataclass(frozen=True)
class Predictions:
    """What a DSTM said of a split: ids of the images, and its predictions, (n, ...)."""

    ids: Sequence[str]
    task: str
    values: NDArray[Any]


def evaluate(
    model_folder: Path,
    samples: Samples,
    split: str,
    round: int,  # noqa: A002 (the name of the record's field)
    by: Sequence[tuple[str, ...]],
    n_min: int,
    device: str = "cpu",
    predict: Predict | None = None,
) -> tuple[Report, Predictions]:
    """Return the report of a saved model on samples, and its predictions.

    by: attributes whose combinations are slices; n_min: photographs that a slice needs; predict:
    predicts elsewhere, None: here. Raises WeightsError for an unusable model, DataError for an
    empty split.
    """
    model, meta = load_model(model_folder, device)
    task = tasks.build(meta["task"])
    if predict is None:
        values = task.predict(model, samples.images)
    else:
        values = predict(meta["task"], model, samples.images)
    report = task.report(values, samples, meta["class_names"], round, split, by, n_min)
    return report, Predictions(samples.ids, task.name, values)


def evaluate_real(
    round: int,  # noqa: A002 (the name of the record's field)
    session_folder: Path,
    training: Training,
    target: Target,
    by: Sequence[tuple[str, ...]],
    n_min: int,
    device: str = "cpu",
    predict: Predict | None = None,
) -> Report:
    """Return the report on the target's feedback split.

    Writes to rounds/NNN: the predictions on feedback, for `inspect_failures`, and the sealed
    report on the test split, of which nothing is returned.
    """
    model_folder, folder = session_folder / training.model, round_folder(session_folder, round)
    test = target.split("test")
    sealed, _ = evaluate(model_folder, test, "test", round, by, n_min, device, predict)
    write_json(folder / "sealed.json", sealed.to_json())

    feedback = target.split("feedback")
    report, said = evaluate(model_folder, feedback, "feedback", round, by, n_min, device, predict)
    metadata = {"ids": json.dumps(list(said.ids)), "task": said.task}
    data = save({"predictions": np.ascontiguousarray(said.values)}, metadata=metadata)
    write_bytes(folder / "feedback.safetensors", data)
    return report


def read_predictions(
    session_folder: Path,
    round: int,  # noqa: A002 (the name of the record's field)
) -> Predictions:
    """Return the stored predictions on feedback; raises DataError when there are none."""
    path = round_folder(session_folder, round) / "feedback.safetensors"
    try:
        with safe_open(path, framework="np") as file:
            return Predictions(
                ids=json.loads(file.metadata()["ids"]),
                task=file.metadata()["task"],
                values=file.get_tensor("predictions"),
            )
    except (OSError, SafetensorError, KeyError, TypeError) as error:
        raise DataError(
            f"The predictions of round {round} are missing or damaged: {path} ({error}). "
            "Call evaluate_real for this round first."
        ) from error


def read_sealed(session_folder: Path) -> tuple[Report, ...]:
    """Return the reports on the test split, by round. For reports and comparisons alone."""
    paths = sorted((session_folder / "rounds").glob("*/sealed.json"))
    return tuple(Report.model_validate_json(path.read_bytes()) for path in paths)
