"""Pictures of a session: its first photographs, thumbnails of prompts, and the legend of labels."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.colours import below_one_another, depth_bar, legend
from eval.montage import montage_png, save_montage
from memory.errors import DataError
from memory.records import Batch
from tools.data.jobs import round_folder
from tools.data.samples import Samples
from tools.data.shards import encode_png
from tools.data.stored_images import StoredImages
from tools.look_at import DEPTH_M, labelled_pictures

if TYPE_CHECKING:
    from agent.loop.components import Components

# Images per prompt, and width in pixels of a row of images with labels.
N_SHOWN = 8
_WIDTH_PX = 384
# Montage of the first photographs: columns, rows, and pixels of a tile.
_COLUMNS, _ROWS, _TILE_PX = 8, 8, 128
START = "shown/photographs.png"


def show_start(components: Components) -> Path | None:
    """Save a montage of photographs that the DSTM may be trained on.

    They are sorted by class and by the attributes of the first entry of `feedback.slices`.

    Args:
        components: Components of an open session.

    Returns:
        The file in the session folder; None: it exists already, or there are no photographs.
    """
    settings, path = components.settings, components.session.folder / START
    if path.exists():
        return None
    photographs = components.photographs(settings.dstm.real_images, settings.session.seed)
    names, by = components.target.class_names, (settings.feedback.slices or ((),))[0]
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row in np.random.default_rng(0).permutation(len(photographs)):
        values = [
            photographs.attributes[row][key] for key in by if key in photographs.attributes[row]
        ]
        rows[", ".join([names[photographs.classes[row]], *values])].append(int(row))
    n_each = max(1, _COLUMNS * _ROWS // max(1, len(rows)))
    tiles = [(name, row) for name in sorted(rows) for row in rows[name][:n_each]]
    tiles = tiles[: _COLUMNS * _ROWS]
    if not tiles:
        return None
    shown = photographs.take([row for _, row in tiles])
    pictures = labelled_pictures(shown, components.task.needs, components.target.pixel_classes)
    scale = max(1, _TILE_PX // pictures.shape[3])
    columns = max(1, min(_COLUMNS, _COLUMNS * _TILE_PX // (pictures.shape[3] * scale)))
    save_montage(path, pictures, [name for name, _ in tiles], columns, scale)
    return path


def thumbnail_path(folder: Path, round_number: int, prompt_id: str) -> Path:
    """Return the path of the thumbnails of a prompt in a bundle."""
    return round_folder(folder, round_number) / "prompts" / f"{prompt_id}.png"


def prompt_thumbnails(folder: Path, batch: Batch) -> dict[str, bytes]:
    """Return a PNG strip of each prompt of a batch by id; {}: no thumbnails or images exist."""
    paths = {q.prompt_id: thumbnail_path(folder, batch.round, q.prompt_id) for q in batch.quality}
    stored = {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
    if stored:
        return stored
    try:
        return {
            name: montage_png(samples.images, None, N_SHOWN, 1)
            for name, samples in _first_images(folder, batch)
        }
    except DataError:
        return {}


def labelled_thumbnails(
    folder: Path, batch: Batch, kinds: Sequence[str], class_names: Sequence[str]
) -> dict[str, bytes]:
    """Return a PNG strip of each prompt of a batch by id, with labels beside the images.

    Args:
        folder: Folder of the session.
        batch: The batch.
        kinds: Kinds of labels, see `labelled_pictures`.
        class_names: Names of the pixel classes.

    Raises:
        DataError: A shard is missing.
    """
    strips = {}
    for name, samples in _first_images(folder, batch):
        images = labelled_pictures(samples, kinds, class_names)
        columns = min(N_SHOWN // 2, max(1, _WIDTH_PX // images.shape[3]))
        strips[name] = montage_png(images, None, columns, 1)
    return strips


def legend_of(kinds: Sequence[str], class_names: Sequence[str]) -> bytes | None:
    """Return a PNG legend of the colours of `labelled_pictures`; None: no labels have colours."""
    pictures = [legend(class_names)] if "segmentation" in kinds else []
    pictures += [depth_bar(*DEPTH_M)] if "depth" in kinds else []
    return encode_png(below_one_another(pictures)) if pictures else None


def _first_images(folder: Path, batch: Batch) -> Iterator[tuple[str, Samples]]:
    """Yield the id of each prompt with its first `N_SHOWN` images."""
    stored = StoredImages([folder / shard.file for shard in batch.shards], chosen=False)
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(stored.prompt_ids):
        if len(rows[name]) < N_SHOWN:
            rows[name].append(row)
    for name, of_prompt in rows.items():
        yield name, stored.take(of_prompt)
