"""Thumbnails of a session's images, with their labels in colours, and the legend of these."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path

from eval.colours import below_one_another, depth_bar, legend
from eval.montage import montage_png
from memory.errors import DataError
from memory.records import Batch
from tools.data.jobs import round_folder
from tools.data.samples import Samples
from tools.data.shards import encode_png
from tools.data.stored_images import StoredImages
from tools.look_at import DEPTH_M, labelled_pictures

# Images of a prompt that are shown, with labels in rows of about so many pixels.
N_SHOWN = 8
_WIDTH_PX = 384


def thumbnail_path(folder: Path, round_number: int, prompt_id: str) -> Path:
    """Return where a bundle keeps the thumbnails of a prompt."""
    return round_folder(folder, round_number) / "prompts" / f"{prompt_id}.png"


def prompt_thumbnails(folder: Path, batch: Batch) -> dict[str, bytes]:
    """Return a PNG strip of every prompt of a batch, by its id; {} where no image is left."""
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
    """Return a PNG strip of every prompt of a batch with labels, by its id.

    See `labelled_pictures` for `kinds` and `class_names`. Raises DataError without the shards.
    """
    strips = {}
    for name, samples in _first_images(folder, batch):
        images = labelled_pictures(samples, kinds, class_names)
        columns = min(N_SHOWN // 2, max(1, _WIDTH_PX // images.shape[3]))
        strips[name] = montage_png(images, None, columns, 1)
    return strips


def legend_of(kinds: Sequence[str], class_names: Sequence[str]) -> bytes | None:
    """Return a PNG that explains the colours of `labelled_pictures`; None where none is needed."""
    pictures = [legend(class_names)] if "segmentation" in kinds else []
    pictures += [depth_bar(*DEPTH_M)] if "depth" in kinds else []
    return encode_png(below_one_another(pictures)) if pictures else None


def _first_images(folder: Path, batch: Batch) -> Iterator[tuple[str, Samples]]:
    """Yield the id of every prompt with its first images."""
    stored = StoredImages([folder / shard.file for shard in batch.shards], chosen=False)
    rows: defaultdict[str, list[int]] = defaultdict(list)
    for row, name in enumerate(stored.prompt_ids):
        if len(rows[name]) < N_SHOWN:
            rows[name].append(row)
    for name, of_prompt in rows.items():
        yield name, stored.take(of_prompt)
