"""The photographs that a DSTM learns from, as shards beside the target's cache.

They are read like generated images, and stay where the target's small images are: nothing of them
is copied into a session.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from memory.files import write_bytes
from memory.records import digest
from tools.data.samples import Samples, content_digest
from tools.data.shards import write_shard

_N_PER_SHARD = 512


def stratified(samples: Samples, n: int, seed: int) -> Samples:
    """Return n of the samples in their order: of each class the same share and at least one.

    With one seed the smaller of two subsets is part of the larger one, apart from what "at least
    one" adds.

    Args:
        samples: Are all returned where there are no more than n.
        n: Number of images; more where there are more classes.
        seed: Of the random order within a class.
    """
    if len(samples) <= n:
        return samples
    order = np.random.default_rng(seed).permutation(len(samples))
    # The k-th of m images of a class comes when a share of (k + 1/2) / m of each is taken.
    place = np.empty(len(samples))
    is_first = np.zeros(len(samples), dtype=bool)
    for number in np.unique(samples.classes):
        members = order[samples.classes[order] == number]
        place[members] = (np.arange(len(members)) + 0.5) / len(members)
        is_first[members[0]] = True
    ranked = np.lexsort((place, ~is_first))
    return samples.take(np.sort(ranked[: max(n, int(is_first.sum()))]))


def write_photographs(samples: Samples, cache: Path, class_names: Sequence[str]) -> list[Path]:
    """Write photographs as shards of a folder named by their content; return the shards' paths.

    Args:
        samples: The photographs.
        cache: HOME/cache.
        class_names: Of the target.
    """
    folder = cache / f"real-{digest([content_digest(samples), list(samples.ids)])}"
    paths: list[Path] = []
    for start in range(0, len(samples), _N_PER_SHARD):
        paths.append(folder / f"data-{len(paths):03d}.parquet")
        if not paths[-1].exists():
            part = samples.take(range(start, min(start + _N_PER_SHARD, len(samples))))
            n = len(part)
            shard = write_shard(part, [""] * n, ["photograph"] * n, range(n), class_names)
            write_bytes(paths[-1], shard)
    return paths
