"""The tool analyse: how many photographs a round predicted how well, by columns of a table."""

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

# Lines of an answer, the lowest scores first.
MAX_GROUPS = 20


def analyse(
    number: int, session_folder: Path, target: Target, by: Sequence[str], where: Mapping[str, str]
) -> str:
    """Return mean score and number of the feedback photographs by groups, in lines of text.

    Columns are the attributes, "class" and, of image classes, "predicted".

    Args:
        number: Of the round, which was evaluated.
        session_folder: Of the session.
        target: Of the session.
        by: Columns whose values make the groups; none for a single one.
        where: Values that all photographs have.

    Raises:
        ToolError: There is no such column or value.
        DataError: The round was not evaluated on the target.
    """
    feedback, predictions = predictions_on(target, session_folder, number)
    task = tasks.build(predictions.task)
    scores, _ = task.tested(predictions.values, feedback)
    classes = {"class": feedback.classes}
    if not task.needs:
        classes["predicted"] = predictions.values.argmax(1)
    table = [
        {**attributes, **{name: target.class_names[of[row]] for name, of in classes.items()}}
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
    of = f", {slice_key(where)}" if where else ""
    figure = "mean score" if task.needs else "accuracy"
    head = f"Feedback photographs after round {number}{of}, {figure} and number by group:"
    return "\n".join([head, *lines[:MAX_GROUPS], *left])
