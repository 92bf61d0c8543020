"""The tool analyse: scores and counts of feedback photographs, grouped by columns of a table."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from eval.report.text import estimate_text
from eval.slices import mean_score
from memory.errors import ToolError, unknown
from memory.records import slice_key
from tools import tasks
from tools.evaluate_real import predictions_on
from tools.targets import Target

# Groups in an answer, lowest scores first.
MAX_GROUPS = 20


def analyse(
    number: int, session_folder: Path, target: Target, by: Sequence[str], where: Mapping[str, str]
) -> str:
    """Return the mean score and the size of groups of feedback photographs, one per line.

    Columns are the attributes, "class" and, for image classification, "predicted".

    Args:
        number: Round number; the round must have been evaluated.
        session_folder: Folder of the session.
        target: Target of the session.
        by: Columns to group by; empty: one group of all photographs.
        where: Filter, attribute value by column.

    Raises:
        ToolError: A column or value does not exist.
        DataError: The round was not evaluated on the target.
    """
    feedback, predictions = predictions_on(target, session_folder, number)
    task = tasks.build(predictions.task)
    scores, _ = task.tested(predictions.values, feedback)
    classes = {"class": feedback.classes}
    if not task.needs:
        classes["predicted"] = predictions.values.argmax(1)
    table = [
        {**attributes, **{name: target.class_names[index[row]] for name, index in classes.items()}}
        for row, attributes in enumerate(feedback.attributes)
    ]
    values: dict[str, set[str]] = defaultdict(set)
    for photograph in table:
        for column, value in photograph.items():
            values[column].add(value)
    for column in (*by, *where):
        if column not in values:
            raise ToolError(unknown("column", column, values))
        if column in where and where[column] not in values[column]:
            raise ToolError(unknown(f"value of {column}", where[column], values[column]))
    groups: dict[str, list[int]] = defaultdict(list)
    for row, photograph in enumerate(table):
        has_columns = all(column in photograph for column in by)
        if np.isfinite(scores[row]) and has_columns and where.items() <= photograph.items():
            groups[slice_key({column: photograph[column] for column in by})].append(row)
    means = {name: mean_score(scores[rows]) for name, rows in groups.items()}
    lines = [
        f"- {name or 'all'}: {estimate_text(means[name], 2)}"
        for name in sorted(means, key=lambda name: means[name].value)
    ]
    n_left = len(lines) - MAX_GROUPS
    left = [f"... and {n_left} more groups"] if n_left > 0 else []
    condition = f", {slice_key(where)}" if where else ""
    figure = "mean score" if task.needs else "accuracy"
    head = f"Feedback photographs after round {number}{condition}, {figure} and number by group:"
    return "\n".join([head, *lines[:MAX_GROUPS], *left])
