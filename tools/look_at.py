"""The tool look_at: photographs and generated images of a slice, side by side in one picture."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from eval.colours import below_one_another, label_colours, side_by_side
from eval.montage import SHEET_PX, montage
from memory.errors import DataError
from memory.records import Round
from tools import tasks
from tools.data.jobs import shards_of
from tools.data.samples import Images, Samples
from tools.data.shards import encode_png
from tools.data.stored_images import StoredImages
from tools.evaluate_real import predictions_on
from tools.targets import Target, label_names

# Maximum number of tiles per row; half as many if they are wide.
N_TILES = 4
# Height per row for two lines of caption and the space between tiles.
_MARGIN_PX = 40
# Range of the colour scale of depth.
DEPTH_M = (2.0, 100.0)

Tiles = tuple[Images, list[str]]


class Shown(NamedTuple):
    """A PNG file and its description in words."""

    png: bytes
    text: str


def look_at(
    number: int,
    session_folder: Path,
    target: Target,
    past: Sequence[Round],
    name: str,
    where: Mapping[str, str],
    members: Collection[str] = (),
    prompts: Collection[str] = (),
) -> Shown:
    """Return photographs that a round predicted wrong and right, with generated images.

    The worst predictions come first. For pixel-wise tasks, the photographs are divided into those
    with the lowest and with the highest scores.

    Args:
        number: Round number; the round must have been evaluated.
        session_folder: Folder of the session.
        target: Target of the session.
        past: Rounds of the session up to this one.
        name: Name of the slice or cluster, for the description.
        where: Attribute values of the photographs.
        members: Ids of the photographs; replaces `where`.
        prompts: Ids of the prompts whose images are shown.

    Raises:
        DataError: No photograph matches, or the round was not evaluated on the target.
    """
    feedback, predictions = predictions_on(target, session_folder, number)
    task = tasks.build(predictions.task)
    scores, sure = task.tested(predictions.values, feedback)
    rows = [
        row
        for row, attributes in enumerate(feedback.attributes)
        if (feedback.ids[row] in members if members else where.items() <= attributes.items())
    ]
    rows = [row for row in rows if np.isfinite(scores[row])]
    if not rows:
        raise DataError(f"No feedback photograph is of {name!r}.")
    rows.sort(key=lambda row: (scores[row], 0 if sure is None else sure[row]))
    n_wrong = sum(scores[row] < 1 for row in rows) if not task.needs else -(-len(rows) // 2)
    kinds = ("of low score", "of high score") if task.needs else ("wrong", "right")
    tiles_by_kind = {
        kind: task.pictures(predictions.values[few], feedback.take(few), label_names(target, task))
        for kind, few in zip(
            kinds, (rows[:n_wrong][:N_TILES], rows[n_wrong:][::-1][:N_TILES]), strict=True
        )
        if few
    }
    n_by_kind = dict(zip(kinds, (n_wrong, len(rows) - n_wrong), strict=True))
    drawn = generated(session_folder, past, prompts, N_TILES, task.needs, target.pixel_classes)
    if drawn:
        tiles_by_kind["generated"], n_by_kind["generated"] = drawn
    parts = [f"{n} {kind}" for kind, n in n_by_kind.items()]
    text = f"{name} after round {number}: photographs and images that are {', '.join(parts)}. "
    text += f"The picture has a row of up to {N_TILES} for each of: {', '.join(tiles_by_kind)}"
    text += ", with TRUTH as PREDICTION below a photograph." if not task.needs else "."
    return Shown(_sheet(tiles_by_kind), text)


def generated(
    session_folder: Path,
    past: Sequence[Round],
    prompts: Collection[str],
    n: int,
    kinds: Sequence[str],
    class_names: Sequence[str],
    ending: str = "",
) -> tuple[Tiles, int] | None:
    """Return up to n generated images of prompts, and the number that exist; None if none do.

    Images with the highest weights come first; every prompt contributes one image before any
    contributes a second.

    Args:
        session_folder: Folder of the session.
        past: Rounds of the session.
        prompts: Ids of the prompts.
        n: Maximum number of images.
        kinds: Kinds of pixel labels shown beside an image, see `labelled_pictures`.
        class_names: Class names of segmentation.
        ending: Suffix of the ids of images to include.
    """
    drawing_rounds = [
        r for r in past if r.batch and any(q.prompt_id in prompts for q in r.batch.quality)
    ]
    if not drawing_rounds:
        return None
    stored = StoredImages(shards_of(session_folder, drawing_rounds), chosen=False)
    of_prompt: dict[str, list[int]] = {}
    for row in sorted(range(len(stored)), key=lambda row: -stored.weights[row]):
        if stored.prompt_ids[row] in prompts and stored.ids[row].endswith(ending):
            of_prompt.setdefault(stored.prompt_ids[row], []).append(row)
    turns = sorted((turn, row) for rows in of_prompt.values() for turn, row in enumerate(rows))
    if not turns:
        return None
    chosen = stored.take([row for _, row in turns[:n]])
    captions = [
        f"{name} {'kept' if weight >= 1 else f'w {weight:.2f}'}"
        for name, weight in zip(chosen.ids, chosen.weights, strict=True)
    ]
    return (labelled_pictures(chosen, kinds, class_names), captions), len(turns)


def labelled_pictures(samples: Samples, kinds: Sequence[str], class_names: Sequence[str]) -> Images:
    """Return images with their colour-coded labels to the right.

    Args:
        samples: Images with labels.
        kinds: Kinds of labels to show if present, e.g. "depth".
        class_names: Class names of segmentation.
    """
    colours = label_colours(samples.labels, kinds, class_names, DEPTH_M)
    return side_by_side(samples.images, *colours) if colours else samples.images


def _sheet(tiles_by_kind: Mapping[str, Tiles]) -> bytes:
    """Return tiles as a PNG file of at most SHEET_PX, with a row per kind."""
    widest = max(images.shape[3] / images.shape[2] for images, _ in tiles_by_kind.values())
    columns = N_TILES if widest <= 1.5 else N_TILES // 2
    box = SHEET_PX // columns - 8, SHEET_PX // len(tiles_by_kind) - _MARGIN_PX
    rows = []
    for kind, (images, captions) in tiles_by_kind.items():
        tiles = _fitted(side_by_side(images[:columns]), *box)
        titles = [f"{kind}: {caption}" for caption in captions[:columns]]
        row = montage(tiles, titles, columns, scale=1)
        rows.append(np.asarray(row).transpose(2, 0, 1))
    return encode_png(below_one_another(rows))


def _fitted(images: Images, width: int, height: int) -> Images:
    """Return RGB images scaled to the largest size that fits into a box."""
    scale = min(width / images.shape[3], height / images.shape[2])
    size = max(1, int(images.shape[3] * scale)), max(1, int(images.shape[2] * scale))
    return np.stack(
        [
            np.asarray(Image.fromarray(image.transpose(1, 2, 0)).resize(size)).transpose(2, 0, 1)
            for image in np.ascontiguousarray(images)
        ]
    )
