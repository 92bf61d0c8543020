"""The tool evaluate_real: evaluates a DSTM on real photographs.

The agent sees the metrics of the `feedback` split. Metrics and predictions on `test` are written to
sealed files that only `read_sealed` and `read_predictions` open, for reports and comparisons.
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
from tools.tasks import Model, Slicing

if TYPE_CHECKING:
    from tools.targets import Target

_FILES = {"test": "sealed.safetensors", "feedback": "feedback.safetensors"}

Judge = tuple[Path, NDArray[np.int64]]
"""The folder of a model, and the rows of the photographs that it predicts, (m,)."""

Predict = Callable[[str, Model, Images], NDArray[Any]]
"""Called with a task name, a model and images; returns what `tools.tasks.Task.predict` returns."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of a DSTM for a split.

    Attributes:
        ids: Image ids, n.
        task: Name of the task.
        values: (n, ...), see `tools.tasks.Task.predict`.
    """

    ids: Sequence[str]
    task: str
    values: NDArray[Any]


def evaluate_real(
    round: int,  # noqa: A002 (the name of the record's field)
    session_folder: Path,
    training: Training,
    target: Target,
    slicing: Slicing,
    device: str = "cpu",
    predict: Predict | None = None,
    judges: Sequence[Judge] = (),
) -> Report:
    """Evaluate a round's DSTM; return the report on the feedback split.

    Writes to rounds/NNN: the predictions on feedback, for `inspect_failures`, and the sealed report
    and predictions on the test split, which are not returned.

    Args:
        round: Round number.
        session_folder: Folder of the session.
        training: Training record of the round's DSTM.
        target: Target whose splits are predicted.
        slicing: Slices to measure.
        device: Torch device.
        predict: Runs the prediction elsewhere; None: on `device`.
        judges: Models that each predict a part of the feedback photographs (cross-fitting); (): the
            round's DSTM predicts all.
    """
    model_folder, folder = session_folder / training.model, round_folder(session_folder, round)
    reports = {}
    for split, file in _FILES.items():
        by = judges if split == "feedback" else ()
        reports[split], predictions = evaluate(
            model_folder, target.split(split), split, round, slicing, device, predict, by
        )
        metadata = {"ids": json.dumps(list(predictions.ids)), "task": predictions.task}
        data = save({"predictions": np.ascontiguousarray(predictions.values)}, metadata=metadata)
        write_bytes(folder / file, data)
    write_json(folder / "sealed.json", reports["test"].to_json())
    return reports["feedback"]


def evaluate(
    model_folder: Path,
    samples: Samples,
    split: str,
    round: int,  # noqa: A002 (the name of the record's field)
    slicing: Slicing,
    device: str = "cpu",
    predict: Predict | None = None,
    judges: Sequence[Judge] = (),
) -> tuple[Report, Predictions]:
    """Return the report of a saved model on samples, and its predictions.

    Args:
        model_folder: Folder with model.json.
        samples: Samples of the split.
        split: Name of the split.
        round: Round number.
        slicing: Slices to measure.
        device: Torch device.
        predict: Runs the prediction elsewhere; None: on `device`.
        judges: Models that each predict a part of the samples, and together all; (): the model.

    Raises:
        WeightsError: The model cannot be loaded.
        DataError: The split is empty.
    """
    parts = []
    for folder, rows in judges or [(model_folder, np.arange(len(samples)))]:
        model, meta = load_model(folder, device)
        task = tasks.build(meta["task"])
        images = samples.images[rows]
        parts.append(
            predict(meta["task"], model, images) if predict else task.predict(model, images)
        )
    values = joined(parts, [rows for _, rows in judges])
    report = task.report(values, samples, meta["class_names"], round, split, slicing)
    return report, Predictions(samples.ids, task.name, values)


def joined(parts: Sequence[NDArray[Any]], rows: Sequence[NDArray[np.int64]]) -> NDArray[Any]:
    """Merge the predictions of several models into one array.

    Args:
        parts: Predictions of each model, (m, ...).
        rows: Positions of each model's predictions in the result, (m,); () for a single model.
    """
    values = np.concatenate(parts)
    return values[np.argsort(np.concatenate(rows))] if rows else values


def read_predictions(
    session_folder: Path,
    round: int,  # noqa: A002 (the name of the record's field)
    split: str = "feedback",
) -> Predictions:
    """Return the stored predictions on a split.

    Predictions on `test` are for reports and comparisons only.

    Raises:
        DataError: The predictions are missing or damaged.
    """
    path = round_folder(session_folder, round) / _FILES[split]
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


def predictions_on(
    target: Target,
    session_folder: Path,
    round: int,  # noqa: A002 (the name of the record's field)
) -> tuple[Samples, Predictions]:
    """Return the feedback photographs of a target, and a round's predictions for them.

    Raises:
        DataError: The predictions are missing or belong to other photographs.
    """
    feedback, predictions = target.split("feedback"), read_predictions(session_folder, round)
    if list(predictions.ids) != list(feedback.ids):
        raise DataError(
            f"The predictions of round {round} are of other photographs than the feedback split "
            f"of {target.name!r}. Use the session's own target, or evaluate the round again."
        )
    return feedback, predictions


def read_sealed(session_folder: Path) -> tuple[Report, ...]:
    """Return the reports on the test split by round, for reports and comparisons only."""
    paths = sorted((session_folder / "rounds").glob("*/sealed.json"))
    return tuple(Report.model_validate_json(path.read_bytes()) for path in paths)
