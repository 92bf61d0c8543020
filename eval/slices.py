"""Slices: photographs that share attribute values, and how a model does on each."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.stats import false_discovery_control, hypergeom

from eval.metrics import accuracy, auroc, balanced_accuracy, wilson
from memory.errors import DataError, unknown
from memory.records import Failure, Report, SliceScore, digest, slice_key

Attributes = Sequence[Mapping[str, str]]
Indices = NDArray[np.int64]
SliceTable = dict[str, Indices]


def slice_table(attributes: Attributes, by: Sequence[tuple[str, ...]], n_min: int) -> SliceTable:
    """Return the members of every slice with at least `n_min` photographs, by the slice's key.

    attributes: one mapping per photograph. by: which attributes to cross, e.g. ("wafer",) and
    ("wafer", "severity"). A photograph that lacks one of them is in no slice of that crossing.
    """
    members: dict[str, list[int]] = {}
    for names in dict.fromkeys(tuple(sorted(set(names))) for names in by):
        crossing: dict[str, list[int]] = defaultdict(list)
        for index, known in enumerate(attributes):
            if all(name in known for name in names):
                crossing[slice_key({name: known[name] for name in names})].append(index)
        members |= {key: crossing[key] for key in sorted(crossing)}
    return {
        key: np.array(indices, dtype=np.int64)
        for key, indices in members.items()
        if len(indices) >= n_min
    }


def select(table: SliceTable, key: str) -> Indices:
    """Return the members of one slice; raises DataError when it is empty or too small."""
    if key not in table:
        raise DataError(
            f"The slice {key!r} has no photographs, or too few to measure. "
            + unknown("slice", key, table)
        )
    return table[key]


def score_slices(
    correct: NDArray[np.bool_], table: SliceTable, attributes: Attributes
) -> tuple[SliceScore, ...]:
    """Return the accuracy of every slice of a table; `correct` is (n,), one per photograph."""
    scores = []
    for key, members in table.items():
        n_correct = int(correct[members].sum())
        scores.append(
            SliceScore(
                key=key,
                attributes=_shared(key, attributes[int(members[0])]),
                accuracy=wilson(n_correct, len(members)),
                n_correct=n_correct,
            )
        )
    return tuple(scores)


def worst(slices: Sequence[SliceScore], n_min: int) -> str | None:
    """Return the key of the slice with the lowest accuracy; of equal ones the largest.

    None if no slice has `n_min` photographs.
    """
    measured = [score for score in slices if score.accuracy.n >= n_min]
    if not measured:
        return None
    return min(measured, key=lambda s: (s.accuracy.value, -s.accuracy.n, s.key)).key


def build_report(
    round: int,  # noqa: A002 (the name of the record's field)
    split: str,
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    attributes: Attributes,
    by: Sequence[tuple[str, ...]],
    n_min: int,
) -> Report:
    """Return how a classifier does on one split.

    labels: (n,). probabilities: (n, n_classes). The metrics are accuracy, balanced_accuracy,
    auroc (two classes only) and worst_slice (if a slice has `n_min` photographs). Raises
    DataError for an empty split, unequal lengths and probabilities that are not finite.
    """
    _check(labels, probabilities, attributes)
    n_classes = probabilities.shape[1]
    predictions = probabilities.argmax(1)
    slices = score_slices(
        labels == predictions, slice_table(attributes, by, max(1, n_min)), attributes
    )
    metrics = {
        "accuracy": accuracy(labels, predictions),
        "balanced_accuracy": balanced_accuracy(labels, predictions, n_classes),
    }
    if n_classes == 2:
        metrics["auroc"] = auroc(labels, probabilities[:, 1])
    worst_slice = worst(slices, n_min)
    for score in slices:
        if score.key == worst_slice:
            metrics["worst_slice"] = score.accuracy
    return Report(round=round, split=split, metrics=metrics, slices=slices, worst_slice=worst_slice)


def find_failures(
    labels: NDArray[np.int64],
    probabilities: NDArray[np.floating],
    attributes: Attributes,
    ids: Sequence[str],
    by: Sequence[tuple[str, ...]],
    n_min: int,
    alpha: float = 0.05,
    n_examples: int = 16,
) -> tuple[Failure, ...]:
    """Return the slices on which a classifier errs more often than on the rest.

    Each slice with `n_min` photographs is tested against all others, "as good as the rest", by
    Fisher's exact test (one-sided), corrected for the number of slices tried; `significant` means
    a q-value of at most `alpha`. Sorted: significant ones first, then by q-value, then by error
    rate. The id depends on the slice alone, so a failure keeps it over the rounds. Examples are
    wrong photographs, those first whose true class got the least probability. Raises DataError
    as `build_report` does.
    """
    _check(labels, probabilities, attributes)
    wrong = labels != probabilities.argmax(1)
    n, n_wrong = len(labels), int(wrong.sum())
    # A slice that holds every photograph has no rest to be compared with.
    table = {
        key: members
        for key, members in slice_table(attributes, by, max(1, n_min)).items()
        if len(members) < n
    }
    p_values = [
        float(hypergeom.sf(wrong[members].sum() - 1, n, n_wrong, len(members)))
        for members in table.values()
    ]
    true_probability = probabilities[np.arange(n), labels]
    found = []
    for (key, members), p_value, q_value in zip(
        table.items(), p_values, benjamini_hochberg(p_values), strict=True
    ):
        wrong_members = members[wrong[members]]
        error_rate = wilson(len(wrong_members), len(members))
        rest_error_rate = (n_wrong - len(wrong_members)) / (n - len(members))
        if error_rate.value <= rest_error_rate:
            continue
        order = np.argsort(true_probability[wrong_members], kind="stable")[:n_examples]
        found.append(
            Failure(
                id=digest(key),
                slice=key,
                attributes=_shared(key, attributes[int(members[0])]),
                n=len(members),
                n_wrong=len(wrong_members),
                error_rate=error_rate,
                rest_error_rate=rest_error_rate,
                p_value=min(1.0, p_value),
                q_value=q_value,
                significant=q_value <= alpha,
                examples=tuple(ids[int(i)] for i in wrong_members[order]),
            )
        )
    return tuple(
        sorted(found, key=lambda f: (not f.significant, f.q_value, -f.error_rate.value, f.slice))
    )


def benjamini_hochberg(p_values: Sequence[float]) -> list[float]:
    """Return the q-value of every p-value (Benjamini and Hochberg 1995); none for none.

    A q-value is the share of false discoveries to expect among all that are at least as small.
    """
    if not p_values:
        return []
    adjusted = false_discovery_control(np.clip(p_values, 0, 1), method="bh")
    return [float(q) for q in adjusted]


def _shared(key: str, member: Mapping[str, str]) -> dict[str, str]:
    """Return the attributes that a slice's key names, read from one of its members."""
    return {name: value for name, value in member.items() if f" {name}={value} " in f" {key} "}


def _check(
    labels: NDArray[np.int64], probabilities: NDArray[np.floating], attributes: Attributes
) -> None:
    if len(labels) == 0:
        raise DataError("The split has no photographs, so there is nothing to measure.")
    if probabilities.ndim != 2 or not len(labels) == len(probabilities) == len(attributes):
        raise DataError(
            f"{len(labels)} labels, {len(attributes)} attributes and probabilities of shape "
            f"{probabilities.shape} do not belong together; expected shape (n, n_classes)."
        )
    if not np.isfinite(probabilities).all():
        raise DataError(
            "The model's probabilities are not all finite: its training has diverged. Train "
            "again with a lower learning rate."
        )
