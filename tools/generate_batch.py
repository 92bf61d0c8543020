"""The stage generate_batch: a plan's images, drawn, audited and stored shard by shard."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from memory.errors import SettingsError
from memory.records import Batch, Plan, PromptQuality, PromptSpec, Shard
from tools.data.drawn import ImageRequest
from tools.data.jobs import job_id, round_folder, run_once, write_missing
from tools.data.samples import Dense, Samples
from tools.data.shards import read_shards, write_shard
from tools.generators import Generator, can_be_pulled

if TYPE_CHECKING:
    from tools.diffusion.guidance import Critic


class Judge(Protocol):
    """Weighs generated images by how well their labels fit, e.g. `tools.labelers.audit`."""

    def judge(
        self, samples: Samples, confidence: Dense
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """Return how sure the labels are, 0..1, weight in 0..1 and kept, each (n,).

        confidence: the generator's own, see `tools.data.drawn.Drawn`. Kept images weigh 1. What is
        said of an image does not depend on the others.
        """
        ...


@dataclass(frozen=True)
class Order:
    """The shards of a batch: for each the (prompt, index) pairs of its images, and what all share.

    critic: the DSTM that pulls images, or None.
    """

    pieces: Sequence[Sequence[tuple[PromptSpec, int]]]
    seed: int
    class_names: Sequence[str]
    critic: Critic | None = None


class Crew(Protocol):
    """Makes shards elsewhere, as `make_shard` makes them here: see `tools.compute.cluster`."""

    def write_missing(
        self, paths: Sequence[Path], order: Order, done: Callable[[int], None]
    ) -> None:
        """Create those of `paths` that do not exist, as `tools.data.jobs.write_missing` does.

        In any order; done: called with the number of files that are there, and now and then while
        nothing changes, since the work may be left where it is called.
        """
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
    critic: Critic | None = None,
    crew: Crew | None = None,
) -> Batch:
    """Draw, audit and store the images of a plan.

    Idempotent: shards that are on disk are kept, so after a crash the same call draws only what
    is missing and returns the same batch. `progress` gets images done and images in all. critic:
    the DSTM by which prompts with a pull are drawn; raises SettingsError for such a prompt without
    a critic, or with a generator that cannot be pulled. crew: makes the shards in place of this
    process; what comes of it is the same.
    """
    arguments: dict[str, Any] = {
        "prompts": [p.model_dump(mode="json", exclude={"why"}) for p in plan.prompts],
        "seed": seed,
        "generator": generator.identity,
        "shard_size": shard_size,
    }
    if any(prompt.pull for prompt in plan.prompts):
        if critic is None or not can_be_pulled(generator):
            raise SettingsError(
                f"Prompts of the plan are pulled, but {_why_not(critic, generator)}. Leave `pull` "
                "out of the plan, and generator.pull out of the settings."
            )
        arguments["critic"] = critic.sha256
    job = job_id(session_folder.name, plan.round, "generate_batch", arguments)
    wanted = [(prompt, index) for prompt in plan.prompts for index in range(prompt.count)]
    pieces = [wanted[start : start + shard_size] for start in range(0, len(wanted), shard_size)]
    folder = round_folder(session_folder, plan.round)
    paths = [folder / f"data-{number:05d}.parquet" for number in range(len(pieces))]

    order = Order(pieces, seed, class_names, critic)

    def done(n_shards: int) -> None:
        progress(min(n_shards * shard_size, len(wanted)), len(wanted))

    def work() -> dict[str, Any]:
        if crew is None:
            write_missing(paths, lambda n: make_shard(order, n, generator, judge), done)
        else:
            crew.write_missing(paths, order, done)
        stored = read_shards(paths)
        owner = np.array(stored.prompt_ids)
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
            quality=tuple(
                prompt_quality(prompt.id, stored.samples.weights[owner == prompt.id])
                for prompt in plan.prompts
            ),
        )
        return batch.to_json()

    job_folder = session_folder / "jobs" / job
    if not all(path.exists() for path in paths):
        (job_folder / "result.json").unlink(missing_ok=True)
    return Batch.model_validate(run_once(job_folder, arguments, work))


def make_shard(order: Order, number: int, generator: Generator, judge: Judge) -> bytes:
    """Draw and audit the images of one shard; return its parquet file."""
    piece = order.pieces[number]
    samples, confidence = draw(piece, order.seed, generator, order.class_names, order.critic)
    _, weights, _ = judge.judge(samples, confidence)
    return write_shard(
        replace(samples, weights=weights),
        [prompt.text for prompt, _ in piece],
        [prompt.id for prompt, _ in piece],
        [index for _, index in piece],
        order.class_names,
    )


def draw_samples(
    wanted: Sequence[tuple[PromptSpec, int]],
    seed: int,
    generator: Generator,
    class_names: Sequence[str],
) -> Samples:
    """Draw (prompt, index) pairs; the class is the prompt's."""
    return draw(wanted, seed, generator, class_names)[0]


def draw(
    wanted: Sequence[tuple[PromptSpec, int]],
    seed: int,
    generator: Generator,
    class_names: Sequence[str],
    critic: Critic | None = None,
) -> tuple[Samples, Dense]:
    """Draw as `draw_samples`; return the generator's confidence in labels of pixels, too.

    critic: pulls the images of prompts that have a pull.
    """

    def request(prompt: PromptSpec, index: int) -> ImageRequest:
        number = class_names.index(prompt.class_name)
        pull = critic.pull(prompt, index, number) if critic else None
        adapters = prompt.adapters or {}
        return ImageRequest(prompt.text, prompt.id, index, seed, prompt.guidance, pull, adapters)

    requests = [request(prompt, index) for prompt, index in wanted]
    drawn = generator.draw(requests)
    samples = Samples(
        images=drawn.images,
        classes=np.array([class_names.index(p.class_name) for p, _ in wanted], dtype=np.int64),
        attributes=[prompt.attributes for prompt, _ in wanted],
        ids=[f"{prompt.id}-{index:04d}" for prompt, index in wanted],
        labels=drawn.labels,
    )
    return samples, drawn.confidence


def _why_not(critic: Critic | None, generator: Generator) -> str:
    if critic is None:
        return "no DSTM has been trained yet"
    return f"the generator {generator.name!r} cannot be pulled"


def prompt_quality(prompt_id: str, weights: NDArray[np.float64]) -> PromptQuality:
    """Return what the audit made of a prompt's images, of their weights, (n,), n at least 1."""
    return PromptQuality(
        prompt_id=prompt_id,
        n_made=len(weights),
        n_kept=int((weights >= 1).sum()),
        mean_weight=float(weights.mean()),
    )
