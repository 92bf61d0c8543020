"""A trained model supplied by the user: evaluated unchanged, as the baseline of a session."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from memory.errors import SettingsError
from memory.records import Training
from tools.data.jobs import job_id, round_folder
from tools.models.dstm_file import load_model, save_model
from tools.settings import TrainSettings
from tools.targets import Target, label_names
from tools.tasks import Model, Task
from tools.tasks.classification import load_classifier
from tools.tasks.dense import DenseTask, load_trained


def load_given(
    folder: Path, task: Task, target: Target, settings: TrainSettings
) -> tuple[Model, dict[str, Any]]:
    """Return the model in a folder, and the metadata for its model.json in a session.

    Args:
        folder: `best/` of an earlier session, or a trained model of transformers.
        task: Task of the session.
        target: Target whose classes the model must predict, in the same order.
        settings: Training settings of the session's DSTM, used for the gradients of its loss.

    Raises:
        SettingsError: The folder has no model, or its task, classes or image shape differ.
        WeightsError: The model cannot be loaded.
    """
    wanted: Sequence[str] | None = label_names(target, task)
    names: Sequence[str] | None
    if (folder / "model.json").is_file():
        model, meta = load_model(folder)
        if meta["task"] != task.name:
            raise SettingsError(
                f"The model in {folder} has learnt the task {meta['task']!r}, but the session's is "
                f"{task.name!r}. Give a model of that task, or set dstm.task={meta['task']}."
            )
        names = meta["class_names"]
    elif (folder / "config.json").is_file():
        model = _load_transformers_model(folder, task)
        network: Any = model.network
        labels: dict[int, str] = network.config.id2label
        names = [str(labels[i]) for i in range(len(labels))]
        if isinstance(task, DenseTask) and task.n_outputs is not None:
            names = wanted = None  # it predicts numbers
    else:
        raise SettingsError(
            f"There is no model in {folder}: it has neither a model.json, as best/ of a session "
            "has, nor a config.json, as a model of transformers has."
        )
    if names is not None and list(names) != list(wanted or ()):
        raise SettingsError(
            f"The model in {folder} predicts the classes {', '.join(names)}, but the target "
            f"{target.name!r} has {', '.join(wanted or ())}, in this order. Give a model of these "
            "classes; transformers reads their names from id2label of config.json."
        )
    try:
        task.predict(model, np.zeros((1, *target.image_shape), np.uint8))
    except (RuntimeError, ValueError) as error:
        raise SettingsError(
            f"The model in {folder} cannot predict photographs of {target.name!r}, whose shape is "
            f"{target.image_shape}: {error}"
        ) from error
    meta = {"task": task.name, "class_names": list(label_names(target, task))}
    return model, meta | {"settings": settings.model_dump(mode="json")}


def adopt(session_folder: Path, model: Model, meta: dict[str, Any]) -> Training:
    """Copy a given model into a session as the model of round 0.

    Returns:
        A training record with zero steps and images.
    """
    model_folder = round_folder(session_folder, 0)
    sha256 = save_model(model_folder, model, meta)
    return Training(
        round=0,
        job_id=job_id(session_folder.name, 0, "given", sha256),
        model=model_folder.relative_to(session_folder).as_posix(),
        n_images=0,
        n_steps=0,
        final_loss=0.0,
        sha256=sha256,
    )


def _load_transformers_model(folder: Path, task: Task) -> Model:
    if not task.needs:
        return load_classifier(folder)
    if isinstance(task, DenseTask) and task.n_outputs in (None, 1):
        return load_trained(folder, task.head)
    raise SettingsError(
        f"A model of transformers cannot be given for the task {task.name!r}; give best/ of a "
        "session."
    )
