"""Strips of a prompt's first images, read from the shards of a round or from a bundle."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.montage import montage_png
from memory.errors import DataError
from memory.records import Batch
from tools.data.jobs import round_folder
from tools.data.samples import Images
from tools.data.shards import read_shards

SHOWN = 8


def strip_path(folder: Path, round_number: int, prompt_id: str) -> Path:
    """Return where a bundle keeps the strip of a prompt."""
    return round_folder(folder, round_number) / "prompts" / f"{prompt_id}.png"


def prompt_strips(folder: Path, batch: Batch) -> dict[str, bytes]:
    """Return a PNG strip of every prompt of a batch, by its id; {} where no image is left."""
    ids = [quality.prompt_id for quality in batch.quality]
    stored = {name: strip_path(folder, batch.round, name) for name in ids}
    if any(path.is_file() for path in stored.values()):
        return {name: path.read_bytes() for name, path in stored.items() if path.is_file()}
    try:
        found = read_shards([folder / shard.file for shard in batch.shards])
    except DataError:
        return {}
    return strips_of(found.samples.images, found.prompt_ids, SHOWN, SHOWN)


def strips_of(
    images: Images, prompt_ids: Sequence[str], most: int, columns: int
) -> dict[str, bytes]:
    """Return a PNG strip of at most so many images of every prompt, by its id.

    images: (n, c, h, w); prompt_ids: whose they are, (n,).
    """
    strips = {}
    for prompt_id in dict.fromkeys(prompt_ids):
        own = [i for i, name in enumerate(prompt_ids) if name == prompt_id][:most]
        strips[prompt_id] = montage_png(images[own], None, columns, 1)
    return strips
