"""Strips of a prompt's first images, read from the shards of a round or from a bundle."""

from __future__ import annotations

from pathlib import Path

from eval.montage import montage_png
from memory.errors import DataError
from memory.records import Batch
from tools.dataset import read_shards
from tools.jobs import round_folder

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
    strips = {}
    for prompt_id in dict.fromkeys(found.prompt_ids):
        own = [i for i, name in enumerate(found.prompt_ids) if name == prompt_id][:SHOWN]
        strips[prompt_id] = montage_png(found.samples.images[own], None, SHOWN, 1)
    return strips
