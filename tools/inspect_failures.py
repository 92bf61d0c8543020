"""On which photographs the DSTM fails: slices and clusters, with pictures of their errors."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.candidates import Evaluated
from eval.credit import prompt_influence
from eval.discovery import discover, nearest_prompts
from eval.fixable import evidence_from, fixable
from eval.montage import save_montage
from memory.errors import DataError
from memory.records import Failure, Round
from tools import tasks
from tools.data.jobs import round_folder
from tools.data.samples import Samples
from tools.evaluate_real import Predictions, read_predictions
from tools.models.criteria import load_dstm
from tools.models.embeddings import Embed
from tools.models.gradients import Gradients, measure_gradients
from tools.targets import Target, label_names
from tools.tasks import Model, Task

N_PICTURES = 8
# Of a montage: as many columns as fit, at least two.
_MAX_COLUMNS = 8
_WIDTH_PX = 512

Encode = Callable[[Sequence[str]], Sequence[Sequence[float]]]
"""Turns texts into vectors, e.g. `memory.minilm`."""


def inspect(
    round: int,  # noqa: A002 (the name of the record's field)
    session_folder: Path,
    target: Target,
    by: Sequence[tuple[str, ...]],
    n_min: int,
    alpha: float = 0.05,
    past: Sequence[Round] = (),
    discovery: bool = False,
    embed_with: Callable[[Model], Embed] | None = None,
    encode: Encode | None = None,
    device: str = "cpu",
) -> tuple[Failure, ...]:
    """Return the failures of a round on feedback, significant ones first.

    The first eight, and all that were discovered, get a picture, rounds/NNN/failures/<id>.png:
    their wrong photographs, worst first, each beside what is true and what the DSTM predicted.

    past: the session's rounds up to this one; what they say of a failure's prompts, and the
    last-layer gradients of this round's images, tell whether it can be fixed. discovery: look for
    failures that the slices do not explain; embed_with: embeds images for clusters, given the
    round's model, None for attributes alone; encode: of captions, for the nearest prompts. Raises
    DataError when the round was not evaluated, or on another target.
    """
    feedback = target.split("feedback")
    predictions = read_predictions(session_folder, round)
    if list(predictions.ids) != list(feedback.ids):
        raise DataError(
            f"The predictions of round {round} are of other photographs than the feedback split "
            f"of {target.name!r}. Use the session's own target, or evaluate the round again."
        )
    task = tasks.build(predictions.task)
    failures = task.failures(predictions.values, feedback, by, n_min, alpha)
    current = next((r for r in past if r.number == round), None)
    last = next((r for r in reversed(past) if r.number < round and r.report), None)
    dstm = None
    if current and current.training:
        dstm = load_dstm(session_folder / current.training.model, device)
    if discovery:
        embed = embed_with(dstm.model) if embed_with and dstm else None
        images = _evaluated(task, predictions, feedback, embed)
        found = discover(
            images, n_min, alpha, reported=failures, previous=last.failures if last else ()
        )
        if encode:
            found = _with_prompts(found, images, past, target, encode)
        n_significant = sum(failure.significant for failure in failures)
        failures = (*failures[:n_significant], *found, *failures[n_significant:])
    if current and dstm and current.batch:
        shards = [session_folder / shard.file for shard in current.batch.shards]
        gradients = measure_gradients(dstm, shards, feedback)
        changes = {
            f.id: _change(f, feedback, task, session_folder, (last.number, round))
            for f in (last.failures if last else ())
            if last and f.kind != "slice"
        }
        failures = tuple(
            judged(failure, feedback, past, gradients, changes.get(failure.id))
            for failure in failures
        )
    row = {name: index for index, name in enumerate(feedback.ids)}

    def with_picture(failure: Failure) -> Failure:
        rows = [row[name] for name in failure.examples]
        path = round_folder(session_folder, round) / "failures" / f"{failure.id}.png"
        images, captions = task.pictures(
            predictions.values[rows], feedback.take(rows), label_names(target, task)
        )
        columns = min(_MAX_COLUMNS, max(2, _WIDTH_PX // images.shape[3]))
        save_montage(path, images, captions, columns)
        picture = path.relative_to(session_folder).as_posix()
        return failure.model_copy(update={"picture": picture})

    return tuple(
        with_picture(failure) if number < N_PICTURES or failure.kind != "slice" else failure
        for number, failure in enumerate(failures)
    )


def _evaluated(
    task: Task, predictions: Predictions, feedback: Samples, embed: Embed | None
) -> Evaluated:
    """Return what discovery looks at, images without a score left out."""
    scores = task.scores(predictions.values, feedback)
    rows = np.flatnonzero(np.isfinite(scores))
    outcomes: tuple[NDArray[np.float64], ...] = (scores[rows, None],)
    losses = 1 - scores[rows]
    if not task.needs:
        said = predictions.values[rows].astype(np.float64)
        true = feedback.classes[rows]
        outcomes = np.eye(said.shape[1])[true], said
        losses = 1 - said[np.arange(len(rows)), true]
    return Evaluated(
        ids=[feedback.ids[int(i)] for i in rows],
        errors=np.clip(1 - scores[rows], 0, 1),
        attributes=[feedback.attributes[int(i)] for i in rows],
        outcomes=outcomes,
        classes=feedback.classes[rows],
        embeddings=embed(feedback.images[rows]) if embed else None,
        losses=losses,
    )


def _with_prompts(
    found: Sequence[Failure],
    images: Evaluated,
    past: Sequence[Round],
    target: Target,
    encode: Encode,
) -> tuple[Failure, ...]:
    """Name the prompts so far whose texts are nearest to what a finding's photographs show."""
    texts = list(dict.fromkeys(p.text for r in past if r.plan for p in r.plan.prompts))
    if not found or not texts:
        return tuple(found)
    captions = [target.vocabulary.caption(attributes) for attributes in images.attributes]
    distinct = list(dict.fromkeys(captions))
    vectors = np.array(encode([*distinct, *texts]), dtype=np.float64)
    number = {caption: i for i, caption in enumerate(distinct)}
    own = vectors[[number[caption] for caption in captions]]
    row = {name: i for i, name in enumerate(images.ids)}

    def named(failure: Failure) -> Failure:
        if failure.kind == "slice":
            return failure
        members = np.array([row[name] for name in failure.members])
        nearest = nearest_prompts(members, own, vectors[len(distinct) :])
        return failure.model_copy(update={"prompts": tuple(texts[i] for i in nearest)})

    return tuple(named(failure) for failure in found)


def judged(
    failure: Failure,
    feedback: Samples,
    past: Sequence[Round],
    gradients: Gradients,
    change: tuple[float, float] | None = None,
) -> Failure:
    """Add to a failure how its prompts' gradients agree with it, and whether it can be fixed.

    past: rounds up to the failure's own; change: of the photographs' score in that round with its
    standard error, where it is no slice of the reports.
    """
    agreements = prompt_influence(
        gradients.images, gradients.prompt_ids, gradients.photographs[_rows(failure, feedback)]
    )
    earlier = [f.agreements for r in past for f in r.failures if f.id == failure.id]
    evidence = evidence_from(
        failure.attributes,
        failure.slice,
        past,
        agreements=[*earlier, agreements],
        changes=[change] if change else [],
    )
    kept = {name: float(f"{value:.3g}") for name, value in agreements.items()}
    return failure.model_copy(
        update={
            "fixable": fixable(evidence),
            "agreements": kept if failure.significant else {},
        }
    )


def _change(
    failure: Failure, feedback: Samples, task: Task, session_folder: Path, rounds: tuple[int, int]
) -> tuple[float, float]:
    """Return how the score of a finding's photographs changed, and the standard error of that."""
    rows = _rows(failure, feedback)
    before, after = (
        task.scores(read_predictions(session_folder, number).values[rows], feedback.take(rows))
        for number in rounds
    )
    change = (after - before)[np.isfinite(after - before)]
    # An observation of no change: a few photographs that all stay as they are say little.
    spread = float(np.sqrt((change**2).sum() + 1) / (len(change) + 1))
    return float(change.sum() / (len(change) + 1)), spread / math.sqrt(len(change) + 1)


def _rows(failure: Failure, feedback: Samples) -> NDArray[np.int64]:
    """Return the rows of a failure's photographs."""
    if failure.kind != "slice":
        row = {name: index for index, name in enumerate(feedback.ids)}
        return np.array([row[name] for name in failure.members], dtype=np.int64)
    own = failure.attributes.items()
    return np.flatnonzero([own <= dict(known).items() for known in feedback.attributes])
