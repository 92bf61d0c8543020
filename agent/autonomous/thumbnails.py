"""Thumbnails of a prompt's first images, read from the shards of a round or from a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.montage import montage_png
from memory.errors import DataError
from memory.records import Batch
from tools.data.jobs import round_folder
from tools.data.samples import Images
from tools.data.shards import read_shards

N_SHOWN = 8


def strip_path(folder: Path, round_number: int, prompt_id: str) -> Path:
    """Return where a bundle keeps the thumbnails of a prompt."""
    return round_folder(folder, round_number) / "prompts" / f"{prompt_id}.png"


def prompt_strips(folder: Path, batch: Batch) -> dict[str, bytes]:
    """Return a PNG strip of every prompt of a batch, by its id; {} where no image is left."""
    paths = {q.prompt_id: strip_path(folder, batch.round, q.prompt_id) for q in batch.quality}
    stored = {name: path.read_bytes() for name, path in paths.items() if path.is_file()}
    if stored:
        return stored
    try:
        shards = read_shards([folder / shard.file for shard in batch.shards])
    except DataError:
        return {}
    return strips_of(shards.samples.images, shards.prompt_ids, N_SHOWN, N_SHOWN)


def strips_of(
    images: Images, prompt_ids: Sequence[str], limit: int, columns: int
) -> dict[str, bytes]:
    """Return a PNG strip of the first images of every prompt, by its id.

    Args:
        images: (n, c, h, w).
        prompt_ids: prompt of each image, (n,).
        limit: images of a prompt that are shown.
        columns: of a strip.
    """
    strips = {}
    for prompt_id in dict.fromkeys(prompt_ids):
        rows = [i for i, name in enumerate(prompt_ids) if name == prompt_id][:limit]
        strips[prompt_id] = montage_png(images[rows], None, columns, 1)
    return strips
