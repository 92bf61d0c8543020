"""Does discovery find failures that were planted? Decides what images are embedded with.

    python -m agent.bench_discovery --embeddings dstm,mtdm --seeds 5

Ten failures are planted among the photographs of the generator split of elpv: up to five pairs
of attribute values, and changes of 40 photographs each that no attribute names (turned, blurred,
noisy, lit by a glare, inverted, striped, partly covered). A made-up classifier errs on 70% of them
and on 10% of the others. A failure is found if one of the first ten findings consists of it by at
least half and holds a third of it; a finding is false if less than half of it was planted.
"""

from __future__ import annotations

import argparse
import itertools
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from scipy.ndimage import gaussian_filter

from eval.discovery import Evaluated, discover
from eval.slices import slice_table
from memory.files import write_json
from memory.records import Failure
from tools import targets, tasks
from tools.embed import Embed, embed_by_dstm, embed_by_imagenet, embed_by_mtdm
from tools.samples import Images, Samples
from tools.settings import TrainSettings

N_PLANTED, N_PAIRS, N_CHANGED = 10, 5, 40
BASE, PLANTED = 0.1, 0.7
N_MIN = 15
# Attributes of elpv that the classes do not follow from.
ATTRIBUTES = ("wafer", "brightness", "dark_area", "where", "contrast", "busbars")


class Planted(NamedTuple):
    """The planted failures by their names, the changed images, and which images err."""

    members: Mapping[str, NDArray[np.int64]]
    images: Images
    changed: NDArray[np.int64]
    wrong: NDArray[np.int64]


def plant(samples: Samples, seed: int, failing: bool = True) -> Planted:
    """Plant ten failures; without `failing` all images err equally often.

    No value of an attribute may have been planted in more than 40% of its images, or it would
    describe the failures better than the pairs.
    """
    rng = np.random.default_rng(seed)
    n = len(samples)
    values = slice_table(samples.attributes, [(name,) for name in ATTRIBUTES], 1)
    pairs = slice_table(samples.attributes, list(itertools.combinations(ATTRIBUTES, 2)), 20)
    used = np.zeros(n, bool)
    members: dict[str, NDArray[np.int64]] = {}
    for key in rng.permutation(sorted(pairs)):
        own, trial = pairs[key], used.copy()
        trial[own] = True
        clear = len(own) <= 70 and used[own].mean() < 0.2
        if clear and len(members) < N_PAIRS and all(trial[v].mean() < 0.4 for v in values.values()):
            members[str(key)], used = own, trial
    images, changed = samples.images.copy(), []
    for name in rng.permutation(sorted(CHANGES))[: N_PLANTED - len(members)]:
        own = np.sort(rng.choice(np.flatnonzero(~used), N_CHANGED, replace=False))
        used[own] = True
        altered = CHANGES[name](samples.images[own].astype(np.float64), rng)
        images[own] = altered.clip(0, 255).astype(np.uint8)
        members[str(name)] = own
        changed.append(own)
    chance = np.where(used & failing, PLANTED, BASE)
    wrong = (rng.random(n) < chance).astype(np.int64)
    return Planted(members, images, np.concatenate(changed), wrong)


def evaluated(
    samples: Samples, planted: Planted, embeddings: NDArray[np.float64] | None
) -> Evaluated:
    """Return the photographs as a classifier of two classes has seen them."""
    classes = samples.classes
    return Evaluated(
        ids=samples.ids,
        errors=planted.wrong.astype(np.float64),
        attributes=samples.attributes,
        outcomes=(np.eye(2)[classes], np.eye(2)[(classes + planted.wrong) % 2]),
        classes=classes,
        embeddings=embeddings,
    )


def judge(found: tuple[Failure, ...], samples: Samples, planted: Planted) -> tuple[set[str], int]:
    """Return the planted failures that were found, and the number of false findings."""
    every = set(np.concatenate(list(planted.members.values())).tolist())
    row = {name: i for i, name in enumerate(samples.ids)}
    names, n_false = set(), 0
    for failure in found:
        own = {row[name] for name in failure.members} or {
            i
            for i, known in enumerate(samples.attributes)
            if failure.attributes.items() <= known.items()
        }
        n_false += len(own & every) < len(own) / 2
        for name, rows in planted.members.items():
            both = len(own & set(rows.tolist()))
            if both >= len(own) / 2 and both >= len(rows) / 3:
                names.add(name)
    return names, n_false


def embeddings_of(embed: Embed, samples: Samples) -> Callable[[Planted], NDArray[np.float64]]:
    """Return a function that embeds planted images, those that did not change only once."""
    plain = embed(samples.images)

    def look(planted: Planted) -> NDArray[np.float64]:
        vectors = plain.copy()
        vectors[planted.changed] = embed(planted.images[planted.changed])
        return vectors

    return look


def build_embed(name: str, audit: Samples) -> Embed:
    """Return an embedding; the DSTM is trained on the audit split, which it is not tried on."""
    if name == "imagenet":
        return embed_by_imagenet()
    if name == "mtdm":
        from tools.generators.mtdm import load_pipeline, weights_folder

        return embed_by_mtdm(load_pipeline(weights_folder("bundled:solar")))
    from tools.train import train_model

    model, _, _ = train_model(audit, tasks.build("classification"), 2, TrainSettings())
    return embed_by_dstm(model)


def main() -> None:
    """Run the benchmark and write its figures as JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--embeddings", default="dstm,mtdm", help="dstm, mtdm, imagenet")
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--first-seed", type=int, default=200)
    parser.add_argument("--cache", type=Path, default=Path("shaping-home/cache"))
    parser.add_argument("--output", type=Path, default=Path("bench-discovery.json"))
    chosen = parser.parse_args()
    console = Console(highlight=False)
    target = targets.build("elpv", chosen.cache)
    samples = target.split("generator")
    seeds = range(chosen.first_seed, chosen.first_seed + chosen.seeds)
    table = Table(
        "embedded by", "found of 10", "false of all findings", "with nothing planted", "s"
    )
    result: dict[str, dict[str, list[int]]] = {}
    for name in ["", *chosen.embeddings.split(",")]:
        look = embeddings_of(build_embed(name, target.split("audit")), samples) if name else None
        found, false, n_found, null, seconds = [], [], [], [], 0.0
        for seed in seeds:
            for failing in (True, False):
                planted = plant(samples, seed, failing)
                images = evaluated(samples, planted, look(planted) if look else None)
                started = time.process_time()
                failures = discover(images, N_MIN)
                seconds += time.process_time() - started
                if not failing:
                    null.append(len(failures))
                    continue
                names, n_false = judge(failures, samples, planted)
                found.append(len(names))
                false.append(n_false)
                n_found.append(len(failures))
        result[name or "attributes alone"] = {
            "found": found,
            "false": false,
            "findings": n_found,
            "findings with nothing planted": null,
        }
        table.add_row(
            name or "attributes alone",
            f"{np.mean(found):.1f} ({', '.join(map(str, found))})",
            f"{sum(false)} of {sum(n_found)}",
            f"{sum(null)} in {len(null)} trials",
            f"{seconds / (2 * len(seeds)):.2f}",
        )
        console.print(
            table.row_count, name or "attributes alone", result[name or "attributes alone"]
        )
    console.print(table)
    write_json(chosen.output, result)


def _glare(images: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    y, x = np.mgrid[: images.shape[2], : images.shape[3]]
    light: NDArray[np.float64] = 150 * np.exp(-((y - 12) ** 2 + (x - 50) ** 2) / 150)
    return images + light


def _cover(images: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    covered = images.copy()
    covered[:, :, 36:58, 6:28] = 30
    return covered


CHANGES: dict[str, Callable[[NDArray[np.float64], np.random.Generator], NDArray[np.float64]]] = {
    "turned": lambda images, rng: np.rot90(images, 1, (2, 3)),
    "blurred": lambda images, rng: gaussian_filter(images, (0, 0, 1.5, 1.5)),
    "noisy": lambda images, rng: images + rng.normal(0, 20, images.shape),
    "glare": _glare,
    "inverted": lambda images, rng: 255 - images,
    "striped": lambda images, rng: (
        images + 25 * np.sign(np.sin(np.arange(images.shape[3]) * np.pi / 3))
    ),
    "covered": _cover,
}


if __name__ == "__main__":
    main()
