"""The tool generate_batch: draws, verifies and stores the images of a plan, shard by shard."""

from __future__ import annotations

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
from tools.data.shards import write_shard
from tools.data.stored_images import contents
from tools.generators import Generator, supports

if TYPE_CHECKING:
    from tools.diffusion.guidance import Critic
    from tools.labelers.audit import AuditScores
    from tools.models.copies import CopyFinder


class LabelVerifier(Protocol):
    """Weights generated images by how well they match their labels, e.g. `tools.labelers.audit`."""

    def verify(self, samples: Samples, confidence: Dense) -> AuditScores:
        """Return confidence and weight, both in 0..1, and whether an image is kept, each (n,).

        Kept images have weight 1. The result for an image does not depend on other images.

        Args:
            samples: Generated images with their labels.
            confidence: The generator's confidence in its labels, see `tools.data.drawn.Drawn`.
        """


@dataclass(frozen=True)
class WithoutCopies:
    """A `LabelVerifier` that rejects near copies of photographs and leaves the rest to `judge`."""

    judge: LabelVerifier
    finder: CopyFinder

    def verify(self, samples: Samples, confidence: Dense) -> AuditScores:
        """Return the scores of `judge`, with weight 0 and not kept for near copies."""
        confidences, weights, kept = self.judge.verify(samples, confidence)
        copied = self.finder.is_copy(self.finder.search(samples.images)[1])
        return confidences, np.where(copied, 0, weights), kept & ~copied


@dataclass(frozen=True)
class ShardSpec:
    """Specification of the shards of a batch.

    Attributes:
        pieces: (prompt, index) pairs of the images of each shard.
        seed: Seed of the session.
        class_names: Class names of the target.
        critic: DSTM that guides the images; None: no guidance by a DSTM.
    """

    pieces: Sequence[Sequence[tuple[PromptSpec, int]]]
    seed: int
    class_names: Sequence[str]
    critic: Critic | None = None


class ShardExecutor(Protocol):
    """Creates shards elsewhere, identical to those of `make_shard`: see `tools.compute.cluster`."""

    def write_missing(
        self, paths: Sequence[Path], spec: ShardSpec, done: Callable[[int], None]
    ) -> None:
        """Create those of `paths` that do not exist, in any order.

        Args:
            paths: One path per shard of `spec`.
            spec: Specification of the shards.
            done: Called with the number of finished files, also periodically while nothing
                changes; may raise to stop the work.
        """


@dataclass(frozen=True)
class Workshop:
    """The generator and verifier of a session.

    Attributes:
        generator: Draws the images.
        verifier: Weights the images.
        class_names: Class names of the target.
        critic: DSTM that guides prompts with a `pull`; None: no DSTM has been trained yet.
        executor: Creates the shards in other processes with identical results. None: this process.
    """

    generator: Generator
    verifier: LabelVerifier
    class_names: Sequence[str]
    critic: Critic | None = None
    executor: ShardExecutor | None = None


def generate_batch(
    plan: Plan,
    session_folder: Path,
    seed: int,
    workshop: Workshop,
    shard_size: int,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Batch:
    """Draw, verify and store the images of a plan.

    Idempotent: existing shards are kept, so a repeated call after a crash draws only the missing
    ones and returns the same batch.

    Args:
        plan: Plan of a round.
        session_folder: Session folder; shards are written to its rounds/NNN/data-*.parquet.
        seed: Seed of the session.
        workshop: Generator and verifier.
        shard_size: Images per shard, at least 1.
        progress: Called with the number of finished images and the total.

    Raises:
        SettingsError: A prompt has a `pull`, but there is no critic, or the generator does not
            support guidance by one.
    """
    arguments = _job_arguments(plan, seed, workshop, shard_size)
    job = job_id(session_folder.name, plan.round, "generate_batch", arguments)
    images = [(prompt, index) for prompt in plan.prompts for index in range(prompt.count)]
    pieces = [images[start : start + shard_size] for start in range(0, len(images), shard_size)]
    spec = ShardSpec(pieces, seed, workshop.class_names, workshop.critic)
    folder = round_folder(session_folder, plan.round)
    paths = [folder / f"data-{number:05d}.parquet" for number in range(len(pieces))]

    def done(n_shards: int) -> None:
        progress(min(n_shards * shard_size, len(images)), len(images))

    def work() -> dict[str, Any]:
        if workshop.executor is None:
            generator, verifier = workshop.generator, workshop.verifier
            write_missing(paths, lambda n: make_shard(spec, n, generator, verifier), done)
        else:
            workshop.executor.write_missing(paths, spec, done)
        return _summary(plan, job, session_folder, paths, pieces).to_json()

    job_folder = session_folder / "jobs" / job
    if not all(path.exists() for path in paths):
        (job_folder / "result.json").unlink(missing_ok=True)
    return Batch.model_validate(run_once(job_folder, arguments, work))


def _job_arguments(plan: Plan, seed: int, workshop: Workshop, shard_size: int) -> dict[str, Any]:
    """Return everything that determines the shards, as JSON values.

    Raises:
        SettingsError: See `generate_batch`.
    """
    arguments: dict[str, Any] = {
        "prompts": [p.model_dump(mode="json", exclude={"why"}) for p in plan.prompts],
        "seed": seed,
        "generator": workshop.generator.identity,
        "shard_size": shard_size,
    }
    if any(prompt.pull for prompt in plan.prompts):
        reason = None
        if workshop.critic is None:
            reason = "no DSTM has been trained yet"
        elif not supports(workshop.generator, "accepts_feedback"):
            reason = f"the generator {workshop.generator.name!r} cannot be guided"
        if workshop.critic is None or reason:
            raise SettingsError(
                f"Prompts of the plan have a `pull`, but {reason}. Leave `pull` out of the plan, "
                "and generator.pull out of the settings."
            )
        arguments["critic"] = workshop.critic.sha256
    return arguments


def _summary(
    plan: Plan,
    job: str,
    session_folder: Path,
    paths: Sequence[Path],
    pieces: Sequence[Sequence[tuple[PromptSpec, int]]],
) -> Batch:
    """Return the record of a batch whose shards are all written."""
    stored = [contents(path) for path in paths]
    weights = np.concatenate([part.weights for part in stored])
    prompt_of_image = np.array([prompt.id for piece in pieces for prompt, _ in piece])
    return Batch(
        round=plan.round,
        job_id=job,
        shards=tuple(
            Shard(
                file=str(path.relative_to(session_folder)),
                n_images=len(piece),
                sha256=part.sha256,
            )
            for path, piece, part in zip(paths, pieces, stored, strict=True)
        ),
        quality=tuple(
            prompt_quality(prompt.id, weights[prompt_of_image == prompt.id])
            for prompt in plan.prompts
        ),
    )


def make_shard(
    spec: ShardSpec, number: int, generator: Generator, verifier: LabelVerifier
) -> bytes:
    """Draw and verify the images of one shard; return its parquet file."""
    piece = spec.pieces[number]
    samples, confidence = draw(piece, spec.seed, generator, spec.class_names, spec.critic)
    _, weights, _ = verifier.verify(samples, confidence)
    return write_shard(
        replace(samples, weights=weights),
        [prompt.text for prompt, _ in piece],
        [prompt.id for prompt, _ in piece],
        [index for _, index in piece],
        spec.class_names,
    )


def draw(
    images: Sequence[tuple[PromptSpec, int]],
    seed: int,
    generator: Generator,
    class_names: Sequence[str],
    critic: Critic | None = None,
) -> tuple[Samples, Dense]:
    """Draw images; return them with the generator's confidence in their pixel labels.

    Args:
        images: n pairs (prompt, index); an image has the class of its prompt.
        seed: Seed of the session.
        generator: Draws the images.
        class_names: Class names of the target.
        critic: DSTM that guides the images of prompts with a `pull`; None: no guidance by a DSTM.
    """

    def request(prompt: PromptSpec, index: int) -> ImageRequest:
        class_index = class_names.index(prompt.class_name)
        feedback = critic.guidance(prompt, index, class_index) if critic else None
        adapters = prompt.adapters or {}
        return ImageRequest(
            prompt.text, prompt.id, index, seed, prompt.guidance, feedback, adapters
        )

    drawn = generator.draw([request(prompt, index) for prompt, index in images])
    samples = Samples(
        images=drawn.images,
        classes=np.array([class_names.index(p.class_name) for p, _ in images], dtype=np.int64),
        attributes=[prompt.attributes for prompt, _ in images],
        ids=[f"{prompt.id}-{index:04d}" for prompt, index in images],
        labels=drawn.labels,
    )
    return samples, drawn.confidence


def prompt_quality(prompt_id: str, weights: NDArray[np.float64]) -> PromptQuality:
    """Summarise the weights of a prompt's images, (n,), n at least 1."""
    return PromptQuality(
        prompt_id=prompt_id,
        n_made=len(weights),
        n_kept=int((weights >= 1).sum()),
        mean_weight=float(weights.mean()),
    )
