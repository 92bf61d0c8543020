"""On which photographs the DSTM fails: significant slices and pictures of their errors."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.montage import save_montage
from memory.errors import DataError
from memory.records import Failure
from tools import tasks
from tools.evaluate import read_predictions
from tools.jobs import round_folder
from tools.targets import Target, label_names

N_PICTURES = 8
# Of a montage: as many columns as fit, at least two.
_MAX_COLUMNS = 8
_WIDTH_PX = 512


def inspect(
    round: int,  # noqa: A002 (the name of the record's field)
    session_folder: Path,
    target: Target,
    by: Sequence[tuple[str, ...]],
    n_min: int,
    alpha: float = 0.05,
) -> tuple[Failure, ...]:
    """Return the failures of a round on feedback, significant ones first.

    The first eight get a picture, rounds/NNN/failures/<id>.png: their wrong photographs, worst
    first, each beside what is true and what the DSTM predicted. Raises DataError when the
    round was not evaluated, or on another target.
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

    return (*map(with_picture, failures[:N_PICTURES]), *failures[N_PICTURES:])
