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
from memory.errors import DataError
from memory.records import PromptSpec
from prompts.printable import one_line
from tools import tasks
from tools.data.jobs import shards_of
from tools.data.samples import Samples
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
    wanted = {prompt.id for prompt in prompts}
    drawn_in = (
        done
        for done in session.rounds()
        if done.batch and wanted & {q.prompt_id for q in done.batch.quality}
    )
    shards = shards_of(session.folder, drawn_in)
    if not shards:
        return None
    stored = read_shards(shards)
    rows = [row for row, prompt in enumerate(stored.prompt_ids) if prompt in wanted]
    if index is not None:
        rows = [row for row in rows if stored.samples.ids[row].endswith(f"-{index:04d}")]
    if not rows:
        return None
    weights = stored.samples.weights
    # Turns, so that every prompt is seen before one is seen twice.
    turn: dict[str, int] = {}
    order = []
    for row in sorted(rows, key=lambda row: -weights[row]):
        prompt = stored.prompt_ids[row]
        turn[prompt] = turn.get(prompt, 0) + 1
        order.append((turn[prompt], row))
    rows = [row for _, row in sorted(order)][:N_SHOWN]
    chosen = stored.samples.take(rows)
    captions = [
        f"{chosen.ids[i]} {'kept' if chosen.weights[i] >= 1 else f'w {chosen.weights[i]:.2f}'}"
        for i in range(len(rows))
    ]
    return _save(
        session,
        _with_labels(session, target, chosen),
        captions,
        f"prompts-{name}",
        f"generated: {one_line(name, 80)}",
    )


def of_slice(session: Session, target: Target, preference: Preference) -> Picture | None:
    """Return real feedback photographs of a slice, wrongly predicted ones first.

    None when there is no such photograph.
    """
    feedback = target.split("feedback")
    rows = [
        row
        for row, attributes in enumerate(feedback.attributes)
        if all(attributes.get(key) in values for key, values in preference.attributes.items())
    ]
    if not rows:
        return None
    return _of_photographs(session, target, feedback, rows, preference.name)


def of_photograph(session: Session, target: Target, name: str) -> Picture | None:
    """Return one feedback photograph by its id, or None where there is none."""
    feedback = target.split("feedback")
    rows = [row for row, known in enumerate(feedback.ids) if known == name]
    return _of_photographs(session, target, feedback, rows, name) if rows else None


def _of_photographs(
    session: Session, target: Target, feedback: Samples, rows: list[int], name: str
) -> Picture:
    measured = [r.number for r in session.rounds() if r.report]
    caption = f"real photographs: {one_line(name, 80)}"
    if not measured:
        chosen = feedback.take(rows[:N_SHOWN])
        names = [target.class_names[label] for label in chosen.classes]
        return _save(session, chosen.images, names, f"photographs-{name}", caption)
    task = tasks.build(session.settings.dstm.task)
    said = read_predictions(session.folder, measured[-1])
    if list(said.ids) != list(feedback.ids):
        raise DataError("The predictions are of other photographs than the target has now.")
    if said.values.ndim == 2:
        # Classes: the probability of the true one, so that errors come first.
        rows = sorted(rows, key=lambda row: said.values[row][feedback.classes[row]])
    rows = rows[:N_SHOWN]
    images, captions = task.pictures(
        said.values[rows], feedback.take(rows), label_names(target, task)
    )
    return _save(session, images, captions, f"photographs-{name}", caption)


def _with_labels(session: Session, target: Target, samples: Samples) -> np.ndarray:
    from agent.autonomous.report import labelled_pictures

    kinds = tasks.build(session.settings.dstm.task).needs
    return labelled_pictures(samples, kinds, target.pixel_classes)


def _save(
    session: Session, images: np.ndarray, captions: Sequence[str], name: str, caption: str
) -> Picture:
    stem = re.sub(r"[^A-Za-z0-9=._-]+", "-", name).strip("-.")[:80]
    path: Path = session.folder / "shown" / f"{stem}.png"
    columns = max(1, min(4, _WIDTH_PX // images.shape[3]))
    save_montage(path, images, captions, columns)
    return Picture(path, caption)
