"""The stage generate_batch: a plan's images, drawn, audited and stored shard by shard."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from memory.records import Batch, Plan, PromptQuality, PromptSpec, Shard
from tools.dataset import read_shards, write_shard
from tools.generators import Generator, ImageRequest
from tools.jobs import job_id, round_folder, run_once, write_missing
from tools.samples import Samples


class Judge(Protocol):
    """Weighs generated images by how well their label fits, e.g. `tools.labelers.audit`."""

    def judge(
        self, samples: Samples
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Return p(label), weight in 0..1 and kept, each (n,)."""
        ...


def generate_batch(
    plan: Plan,
    session_folder: Path,
    seed: int,
    generator: Generator,
    judge: Judge,
    class_names: Sequence[str],
    shard_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Batch:
    """Draw, audit and store the images of a plan.

    Idempotent: shards that are on disk are kept, so after a crash the same call draws only what
    is missing and returns the same batch. `progress` gets images done and images in all.
    """
    arguments: dict[str, Any] = {
        "prompts": [p.model_dump(mode="json", exclude={"why"}) for p in plan.prompts],
        "seed": seed,
        "generator": generator.identity,
        "shard_size": shard_size,
    }
    job = job_id(session_folder.name, plan.round, "generate_batch", arguments)
    wanted = [(prompt, index) for prompt in plan.prompts for index in range(prompt.count)]
    pieces = [wanted[start : start + shard_size] for start in range(0, len(wanted), shard_size)]
    folder = round_folder(session_folder, plan.round)
    paths = [folder / f"data-{number:05d}.parquet" for number in range(len(pieces))]

    def make(number: int) -> bytes:
        piece = pieces[number]
        samples = draw_samples(piece, seed, generator, class_names)
        _, weights, _ = judge.judge(samples)
        return write_shard(
            replace(samples, weights=weights),
            [prompt.text for prompt, _ in piece],
            [prompt.id for prompt, _ in piece],
            [index for _, index in piece],
            class_names,
        )

    def done(n_shards: int) -> None:
        progress(min(n_shards * shard_size, len(wanted)), len(wanted))

    def work() -> dict[str, Any]:
        write_missing(paths, make, done)
        stored = read_shards(paths)
        batch = Batch(
            round=plan.round,
            job_id=job,
            shards=tuple(
                Shard(
                    file=str(path.relative_to(session_folder)),
                    n_images=len(piece),
                    sha256=hashlib.sha256(path.read_bytes()).hexdigest(),
                )
                for path, piece in zip(paths, pieces, strict=True)
            ),
            quality=_quality(plan.prompts, stored.prompt_ids, stored.samples.weights),
        )
        return batch.to_json()

    job_folder = session_folder / "jobs" / job
    if not all(path.exists() for path in paths):
        (job_folder / "result.json").unlink(missing_ok=True)
    return Batch.model_validate(run_once(job_folder, arguments, work))


def draw_samples(
    wanted: Sequence[tuple[PromptSpec, int]],
    seed: int,
    generator: Generator,
    class_names: Sequence[str],
) -> Samples:
    """Draw (prompt, index) pairs; the label is the prompt's class."""
    requests = [
        ImageRequest(prompt.text, prompt.id, index, seed, prompt.guidance)
        for prompt, index in wanted
    ]
    drawn = generator.draw(requests)
    return Samples(
        images=drawn.images,
        classes=np.array([class_names.index(p.class_name) for p, _ in wanted], dtype=np.int64),
        attributes=[prompt.attributes for prompt, _ in wanted],
        ids=[f"{prompt.id}-{index:04d}" for prompt, index in wanted],
        labels=drawn.labels,
    )


def _quality(
    prompts: Sequence[PromptSpec], prompt_ids: Sequence[str], weights: NDArray[np.float64]
) -> tuple[PromptQuality, ...]:
    owner = np.array(prompt_ids)
    result = []
    for prompt in prompts:
        own = weights[owner == prompt.id]
        result.append(
            PromptQuality(
                prompt_id=prompt.id,
                n_made=len(own),
                n_kept=int((own >= 1).sum()),
                mean_weight=float(own.mean()),
            )
        )
    return tuple(result)
