"""Thumbnails of a session's images, with their labels in colours, and the legend of these."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.colours import below_one_another, depth_bar, legend
from eval.montage import montage_png
from memory.errors import DataError
from memory.records import Batch
from tools.data.jobs import round_folder
from tools.data.samples import Images
from tools.data.shards import encode_png, read_shards
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
        shards = read_shards([folder / shard.file for shard in batch.shards])
    except DataError:
        return {}
    return _strips(shards.samples.images, shards.prompt_ids, N_SHOWN)


def labelled_thumbnails(
    folder: Path, batch: Batch, kinds: Sequence[str], class_names: Sequence[str]
) -> dict[str, bytes]:
    """Return a PNG strip of every prompt of a batch with labels, by its id.

    See `labelled_pictures` for `kinds` and `class_names`. Raises DataError without the shards.
    """
    shards = read_shards([folder / shard.file for shard in batch.shards])
    images = labelled_pictures(shards.samples, kinds, class_names)
    columns = min(N_SHOWN // 2, max(1, _WIDTH_PX // images.shape[3]))
    return _strips(images, shards.prompt_ids, columns)


def legend_of(kinds: Sequence[str], class_names: Sequence[str]) -> bytes | None:
    """Return a PNG that explains the colours of `labelled_pictures`; None where none is needed."""
    pictures = [legend(class_names)] if "segmentation" in kinds else []
    pictures += [depth_bar(*DEPTH_M)] if "depth" in kinds else []
    return encode_png(below_one_another(pictures)) if pictures else None


def _strips(images: Images, prompt_ids: Sequence[str], columns: int) -> dict[str, bytes]:
    """Return a PNG strip of the first images of every prompt, by its id."""
    strips = {}
    for prompt_id in dict.fromkeys(prompt_ids):
        rows = [i for i, name in enumerate(prompt_ids) if name == prompt_id][:N_SHOWN]
        strips[prompt_id] = montage_png(images[rows], None, columns, 1)
    return strips
