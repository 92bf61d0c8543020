"""Search for near copies of photographs among generated images; the result is in copies.json."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from agent.loop.components import Components
from eval.copies import Copies, Pair, copies_by_prompt
from eval.montage import montage_png
from memory.files import read_record, write_json
from memory.records import Round
from tools.data.jobs import shards_of
from tools.data.stored_images import StoredImages
from tools.models.copies import CopyFinder

FILE = "copies.json"
# Most images that are searched, which bounds the time; pairs in the picture.
_N_MOST = 500
_N_PAIRS = 8


def write_copies(
    folder: Path, components: Components, past: Sequence[Round]
) -> tuple[Copies, bytes] | None:
    """Search up to 500 random images of a session for near copies, and write `copies.json`.

    Args:
        folder: Folder of the session.
        components: Components of the session; their copy finder has the training photographs.
        past: All rounds.

    Returns:
        The result and a PNG of the closest pairs; None if `audit.copies` is off or there are no
        images.
    """
    shards = shards_of(folder, past)
    if components.settings.audit.copies == "off" or not shards:
        (folder / FILE).unlink(missing_ok=True)
        return None
    copies, picture = copies_of(shards, components.copy_finder)
    write_json(folder / FILE, copies.to_json())
    return copies, picture


def copies_of(shards: Sequence[Path], finder: CopyFinder) -> tuple[Copies, bytes]:
    """Search up to 500 random images of shards for near copies; also return a PNG of pairs."""
    images = StoredImages(shards)
    rows = np.random.default_rng(0).permutation(len(images))[:_N_MOST]
    samples = images.take(np.sort(rows))
    nearest, scores = finder.search(samples.images)
    closest = np.argsort(scores, kind="stable")[:_N_PAIRS]
    prompts = [name.rpartition("-")[0] for name in samples.ids]
    copies = finder.summary(scores).model_copy(
        update={
            "prompts": copies_by_prompt(prompts, finder.is_copy(scores).tolist()),
            "pairs": tuple(
                Pair(
                    image=samples.ids[i], photograph=finder.ids[nearest[i]], score=float(scores[i])
                )
                for i in closest
            ),
        }
    )
    both = np.stack([samples.images[closest], finder.photographs[nearest[closest]]], 1)
    names = [name for p in copies.pairs for name in (f"{p.image} ({p.score:.2f})", p.photograph)]
    return copies, montage_png(both.reshape(-1, *both.shape[2:]), names, 4)


def read_copies(folder: Path) -> Copies | None:
    """Return the result stored by the last report of a session; None: there is none."""
    return read_record(folder / FILE, Copies)
