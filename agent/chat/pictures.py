"""Pictures of a session on demand: generated images and real photographs as montages."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent.autonomous.thumbnails import labelled_pictures
from agent.steering.preferences import Preference
from eval.montage import save_montage
from eval.report.blocks import Picture
from memory.errors import DataError
from memory.records import PromptSpec
from prompts.printable import one_line
from tools import tasks
from tools.data.jobs import shards_of
from tools.data.shards import read_shards
from tools.evaluate_real import read_predictions
from tools.targets import Target, label_names

if TYPE_CHECKING:
    from agent.session.folder import Session

N_SHOWN = 16
_WIDTH_PX = 512


def of_prompts(
    session: Session, target: Target, prompts: Sequence[PromptSpec], name: str, index: int | None
) -> Picture | None:
    """Return generated images of prompts, those the audit rejects last; None before there are any.

    index: of one image of the prompt, or None for up to 16 of all.
    """
    ids = {prompt.id for prompt in prompts}
    batches = [r for r in session.rounds() if r.batch]
    shards = shards_of(
        session.folder,
        (r for r in batches if r.batch and ids & {q.prompt_id for q in r.batch.quality}),
    )
    if not shards:
        return None
    stored = read_shards(shards)
    ending = "" if index is None else f"-{index:04d}"
    rows = [
        row
        for row, prompt in enumerate(stored.prompt_ids)
        if prompt in ids and stored.samples.ids[row].endswith(ending)
    ]
    if not rows:
        return None
    weights = stored.samples.weights
    # Turns, so that every prompt is seen before one is seen twice.
    turns: Counter[str] = Counter()
    order = []
    for row in sorted(rows, key=lambda row: -weights[row]):
        turns[stored.prompt_ids[row]] += 1
        order.append((turns[stored.prompt_ids[row]], row))
    chosen = stored.samples.take([row for _, row in sorted(order)][:N_SHOWN])
    captions = [
        f"{name} {'kept' if weight >= 1 else f'w {weight:.2f}'}"
        for name, weight in zip(chosen.ids, chosen.weights, strict=True)
    ]
    kinds = tasks.build(session.settings.dstm.task).needs
    images = labelled_pictures(chosen, kinds, target.pixel_classes)
    caption = f"generated: {one_line(name, 80)}"
    return _save(session, images, captions, f"prompts-{name}", caption)


def of_slice(session: Session, target: Target, preference: Preference) -> Picture | None:
    """Return real feedback photographs of a slice, wrongly predicted ones first, or None."""
    rows = [
        row
        for row, attributes in enumerate(target.split("feedback").attributes)
        if all(attributes.get(key) in names for key, names in preference.attributes.items())
    ]
    return _of_photographs(session, target, rows, preference.name) if rows else None


def of_photograph(session: Session, target: Target, name: str) -> Picture | None:
    """Return one feedback photograph by its id, or None where there is none."""
    rows = [row for row, id_ in enumerate(target.split("feedback").ids) if id_ == name]
    return _of_photographs(session, target, rows, name) if rows else None


def _of_photographs(session: Session, target: Target, rows: list[int], name: str) -> Picture:
    feedback = target.split("feedback")
    measured = [r.number for r in session.rounds() if r.report]
    if not measured:
        chosen = feedback.take(rows[:N_SHOWN])
        images, captions = chosen.images, [target.class_names[label] for label in chosen.classes]
    else:
        task = tasks.build(session.settings.dstm.task)
        predictions = read_predictions(session.folder, measured[-1])
        if list(predictions.ids) != list(feedback.ids):
            raise DataError("The predictions are of other photographs than the target has now.")
        values = predictions.values
        if values.ndim == 2:
            # Classes: the probability of the true one, so that errors come first.
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
