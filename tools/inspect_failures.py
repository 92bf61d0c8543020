"""The tool inspect_failures: finds slices and clusters on which the DSTM fails, with montages."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from eval.candidates import Evaluated
from eval.credit import prompt_influence
from eval.discovery import discover, nearest_prompts
from eval.fixable import evidence_from, fixable, mean_change
from eval.montage import save_montage
from memory.records import Failure, Round
from tools import tasks
from tools.data.jobs import round_folder
from tools.data.samples import Samples
from tools.evaluate_real import Predictions, predictions_on, read_predictions
from tools.models.criteria import Dstm, load_dstm, measure_gradients
from tools.models.embeddings import Embed
from tools.targets import Target, label_names
from tools.tasks import Model, Slicing, Task

N_PICTURES = 8
# Layout of a montage: as many columns as fit into the width, at least two.
_MAX_COLUMNS = 8
_WIDTH_PX = 512

Encode = Callable[[Sequence[str]], Sequence[Sequence[float]]]
"""Encodes texts as vectors, e.g. `memory.minilm`."""


@dataclass(frozen=True)
class Discovery:
    """Methods for discovering failures beyond the slices.

    Attributes:
        embed_with: Builds the image embedding for the search of clusters from the round's model;
            None: search by attributes alone.
        encode: Encodes captions, to name the prompts nearest to a finding; None: none are named.
    """

    embed_with: Callable[[Model], Embed] | None = None
    encode: Encode | None = None


@dataclass(frozen=True)
class _Inspection:
    """A round's predictions on feedback, with the previous rounds."""

    session_folder: Path
    target: Target
    task: Task
    feedback: Samples
    predictions: Predictions
    past: Sequence[Round]
    previous: Round | None


def inspect(
    round: int,  # noqa: A002 (the name of the record's field)
    session_folder: Path,
    target: Target,
    slicing: Slicing,
    past: Sequence[Round] = (),
    discovery: Discovery | None = None,
    device: str = "cpu",
) -> tuple[Failure, ...]:
    """Return the failures of a round on the feedback split, significant ones first.

    The first eight failures and all discovered ones get a montage, rounds/NNN/failures/<id>.png, of
    their wrong photographs, worst first, each with its true and predicted label.

    Args:
        round: Round number; the round must have been evaluated.
        session_folder: Folder of the session.
        target: Target of the session.
        slicing: Slices to test, and the significance level.
        past: Rounds of the session up to this one. The results of a failure's prompts and the
            last-layer gradients of this round's images decide whether the failure can be fixed.
        discovery: Methods for discovering failures beyond the slices; None: slices alone.
        device: Torch device.

    Raises:
        DataError: The round was not evaluated on this target.
    """
    feedback, predictions = predictions_on(target, session_folder, round)
    task = tasks.build(predictions.task)
    current = next((r for r in past if r.number == round), None)
    previous = _report_before(past, round)
    inspection = _Inspection(session_folder, target, task, feedback, predictions, past, previous)
    dstm = None
    if current and current.training:
        dstm = load_dstm(session_folder / current.training.model, device)

    failures = task.failures(predictions.values, feedback, slicing)
    if discovery:
        discovered = _discover(inspection, slicing, discovery, failures, dstm)
        n_significant = sum(failure.significant for failure in failures)
        failures = (*failures[:n_significant], *discovered, *failures[n_significant:])
    if current and dstm and current.batch:
        failures = _assess(inspection, current, failures, dstm)
    return tuple(
        _with_picture(inspection, failure, round)
        if number < N_PICTURES or failure.kind != "slice"
        else failure
        for number, failure in enumerate(failures)
    )


def _discover(
    inspection: _Inspection,
    slicing: Slicing,
    discovery: Discovery,
    known: Sequence[Failure],
    dstm: Dstm | None,
) -> tuple[Failure, ...]:
    """Return failures beyond the `known` slices."""
    embed = discovery.embed_with(dstm.model) if discovery.embed_with and dstm else None
    images = _evaluated(inspection, embed)
    previous = inspection.previous.failures if inspection.previous else ()
    findings = discover(images, slicing.n_min, slicing.alpha, reported=known, previous=previous)
    if discovery.encode:
        return _with_prompts(findings, images, inspection, discovery.encode)
    return tuple(findings)


def _evaluated(inspection: _Inspection, embed: Embed | None) -> Evaluated:
    """Return the input of discovery, without images that have no score."""
    task, feedback = inspection.task, inspection.feedback
    scores = task.scores(inspection.predictions.values, feedback)
    rows = np.flatnonzero(np.isfinite(scores))
    outcomes: tuple[NDArray[np.float64], ...] = (scores[rows, None],)
    losses = 1 - scores[rows]
    groups = None
    if feedback.groups:
        groups = np.unique(np.array(feedback.groups)[rows], return_inverse=True)[1]
    if not task.needs:
        probabilities = inspection.predictions.values[rows].astype(np.float64)
        true = feedback.classes[rows]
        outcomes = np.eye(probabilities.shape[1])[true], probabilities
        losses = 1 - probabilities[np.arange(len(rows)), true]
    return Evaluated(
        ids=[feedback.ids[int(i)] for i in rows],
        errors=np.clip(1 - scores[rows], 0, 1),
        attributes=[feedback.attributes[int(i)] for i in rows],
        outcomes=outcomes,
        classes=feedback.classes[rows],
        embeddings=embed(feedback.images[rows]) if embed else None,
        losses=losses,
        groups=groups,
    )


def _with_prompts(
    findings: Sequence[Failure], images: Evaluated, inspection: _Inspection, encode: Encode
) -> tuple[Failure, ...]:
    """Name the prompts whose texts are nearest to the captions of a finding's photographs."""
    past = inspection.past
    texts = list(dict.fromkeys(p.text for r in past if r.plan for p in r.plan.prompts))
    if not findings or not texts:
        return tuple(findings)
    vocabulary = inspection.target.vocabulary
    captions = [vocabulary.caption(attributes) for attributes in images.attributes]
    distinct = list(dict.fromkeys(captions))
    vectors = np.array(encode([*distinct, *texts]), dtype=np.float64)
    number = {caption: i for i, caption in enumerate(distinct)}
    of_images = vectors[[number[caption] for caption in captions]]
    row = {name: i for i, name in enumerate(images.ids)}

    def with_prompts(failure: Failure) -> Failure:
        if failure.kind == "slice":
            return failure
        members = np.array([row[name] for name in failure.members])
        nearest = nearest_prompts(members, of_images, vectors[len(distinct) :])
        return failure.model_copy(update={"prompts": tuple(texts[i] for i in nearest)})

    return tuple(with_prompts(failure) for failure in findings)


def _assess(
    inspection: _Inspection, current: Round, failures: Sequence[Failure], dstm: Dstm
) -> tuple[Failure, ...]:
    """Add to failures whether they can be fixed, and the agreement of their prompts' gradients.

    The gradients of the loss on this round's images and on the failure's photographs are compared.
    """
    assert current.batch is not None  # checked by the caller
    feedback, past = inspection.feedback, inspection.past
    shards = [inspection.session_folder / shard.file for shard in current.batch.shards]
    gradients = measure_gradients(dstm, shards, feedback)
    changes: dict[str, tuple[float, float]] = {}
    if (previous := inspection.previous) and (chosen_in := _report_before(past, previous.number)):
        # A finding's photographs were chosen by their errors, so these predictions would show an
        # improvement by chance (regression to the mean); both sides of the change are later ones.
        rounds = previous.number, current.number
        findings = [failure for failure in chosen_in.failures if failure.kind != "slice"]
        changes = {failure.id: _change(failure, inspection, rounds) for failure in findings}

    def assessed(failure: Failure) -> Failure:
        photographs = gradients.photographs[_rows(failure, feedback)]
        agreements = prompt_influence(gradients.prompts, gradients.prompt_ids, photographs)
        earlier = [f.agreements for r in past for f in r.failures if f.id == failure.id]
        evidence = evidence_from(
            failure.attributes,
            failure.slice,
            past,
            agreements=[*earlier, agreements],
            changes=[changes[failure.id]] if failure.id in changes else [],
        )
        rounded = {name: float(f"{value:.3g}") for name, value in agreements.items()}
        shown = rounded if failure.significant else {}
        return failure.model_copy(update={"fixable": fixable(evidence), "agreements": shown})

    return tuple(map(assessed, failures))


def _change(
    failure: Failure, inspection: _Inspection, rounds: tuple[int, int]
) -> tuple[float, float]:
    """Return the mean change of the score of a finding's photographs, and its standard error."""
    feedback = inspection.feedback
    rounds_read = [read_predictions(inspection.session_folder, number) for number in rounds]
    places = [{name: row for row, name in enumerate(read.ids)} for read in rounds_read]
    # Photographs may have been added or removed between the rounds.
    rows = [
        row
        for row in _rows(failure, feedback).tolist()
        if all(feedback.ids[row] in place for place in places)
    ]
    photographs = feedback.take(rows)
    before, after = (
        inspection.task.scores(read.values[[place[name] for name in photographs.ids]], photographs)
        for read, place in zip(rounds_read, places, strict=True)
    )
    return mean_change(before, after)


def _report_before(past: Sequence[Round], number: int) -> Round | None:
    return next((r for r in reversed(past) if r.number < number and r.report), None)


def _rows(failure: Failure, feedback: Samples) -> NDArray[np.int64]:
    """Return the rows of a failure's photographs."""
    if failure.kind != "slice":
        row = {name: index for index, name in enumerate(feedback.ids)}
        known = [row[name] for name in failure.members if name in row]
        return np.array(known, dtype=np.int64)
    wanted = failure.attributes.items()
    return np.flatnonzero([wanted <= dict(given).items() for given in feedback.attributes])


def _with_picture(inspection: _Inspection, failure: Failure, round_number: int) -> Failure:
    """Save the montage of a failure's examples; return the failure with its path."""
    feedback, session_folder = inspection.feedback, inspection.session_folder
    row = {name: index for index, name in enumerate(feedback.ids)}
    rows = [row[name] for name in failure.examples]
    path = round_folder(session_folder, round_number) / "failures" / f"{failure.id}.png"
    images, captions = inspection.task.pictures(
        inspection.predictions.values[rows],
        feedback.take(rows),
        label_names(inspection.target, inspection.task),
    )
    columns = min(_MAX_COLUMNS, max(2, _WIDTH_PX // images.shape[3]))
    save_montage(path, images, captions, columns)
    return failure.model_copy(update={"picture": path.relative_to(session_folder).as_posix()})
