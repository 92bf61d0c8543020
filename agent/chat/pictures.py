"""Pictures of a session on demand: generated images and real photographs as montages."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent.steering.preferences import Preference
from eval.montage import save_montage
from eval.report.blocks import Picture
from memory.records import PromptSpec
from prompts.printable import one_line
from tools import tasks
from tools.evaluate_real import predictions_on
from tools.look_at import generated
from tools.targets import Target, label_names

if TYPE_CHECKING:
    from agent.session.folder import Session

N_SHOWN = 16
_WIDTH_PX = 512


def of_prompts(
    session: Session, target: Target, prompts: Sequence[PromptSpec], name: str, index: int | None
) -> Picture | None:
    """Return a montage of generated images of prompts, rejected ones last; None: there are none.

    Args:
        session: The session.
        target: Target of the session.
        prompts: The prompts.
        name: What they have in common, for the caption and the file name.
        index: Index of a single image of a prompt; None: up to 16 images of all prompts.
    """
    kinds = tasks.build(session.settings.dstm.task).needs
    ids = {prompt.id for prompt in prompts}
    ending = "" if index is None else f"-{index:04d}"
    drawn = generated(
        session.folder, session.rounds(), ids, N_SHOWN, kinds, target.pixel_classes, ending
    )
    if drawn is None:
        return None
    (images, captions), _ = drawn
    caption = f"generated: {one_line(name, 80)}"
    return _save(session, images, captions, f"prompts-{name}", caption)


def of_slice(session: Session, target: Target, preference: Preference) -> Picture | None:
    """Return a montage of feedback photographs of a slice; None: there are none.

    In classification, photographs with a low probability of the true class come first.
    """
    rows = [
        row
        for row, attributes in enumerate(target.split("feedback").attributes)
        if all(attributes.get(key) in names for key, names in preference.attributes.items())
    ]
    return _of_photographs(session, target, rows, preference.name) if rows else None


def of_photograph(session: Session, target: Target, name: str) -> Picture | None:
    """Return one feedback photograph by its id; None: unknown id."""
    rows = [row for row, id_ in enumerate(target.split("feedback").ids) if id_ == name]
    return _of_photographs(session, target, rows, name) if rows else None


def _of_photographs(session: Session, target: Target, rows: list[int], name: str) -> Picture:
    measured = [r.number for r in session.rounds() if r.report]
    if not measured:
        chosen = target.split("feedback").take(rows[:N_SHOWN])
        images, captions = chosen.images, [target.class_names[label] for label in chosen.classes]
    else:
        feedback, predictions = predictions_on(target, session.folder, measured[-1])
        task, values = tasks.build(predictions.task), predictions.values
        if values.ndim == 2:
            # Classification: by the probability of the true class, so that errors come first.
            rows = sorted(rows, key=lambda row: values[row][feedback.classes[row]])
        rows = rows[:N_SHOWN]
        names = label_names(target, task)
        images, captions = task.pictures(values[rows], feedback.take(rows), names)
    caption = f"real photographs: {one_line(name, 80)}"
    return _save(session, images, captions, f"photographs-{name}", caption)


def _save(
    session: Session, images: np.ndarray, captions: Sequence[str], name: str, caption: str
) -> Picture:
    stem = re.sub(r"[^A-Za-z0-9=._-]+", "-", name).strip("-.")[:80]
    path: Path = session.folder / "shown" / f"{stem}.png"
    columns = max(1, min(4, _WIDTH_PX // images.shape[3]))
    save_montage(path, images, captions, columns)
    return Picture(path, caption)
