"""Photographs used besides generated images: folds of the feedback split, and pull targets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.loop.observations import rounds_before
from memory.records import Plan, read_pull
from tools.data.samples import Samples
from tools.data.shards import write_photographs
from tools.targets.cross_fitting import fold_rows

if TYPE_CHECKING:
    from agent.loop.components import Components
    from tools.diffusion.guidance import Critic


class Fold(NamedTuple):
    """A fold of the feedback photographs, and the photographs its model is trained on.

    Attributes:
        name: Name of the model's folder within that of the round.
        judged: Rows of the feedback photographs in the fold, (n,).
        real: Shards of the photographs that the model is trained on.
    """

    name: str
    judged: NDArray[np.int64]
    real: Sequence[Path]


def folds_of(components: Components) -> list[Fold]:
    """Return the folds; [] without `feedback.folds` or if the DSTM trains on no photographs."""
    settings = components.settings
    n_folds, seed = settings.feedback.folds, settings.session.seed
    if n_folds is None or not components.learnt_from([])[1]:
        return []
    feedback = components.target.split("feedback")
    photographs = components.photographs(settings.dstm.real_images, seed)
    folds = []
    for number, rows in enumerate(fold_rows(feedback, n_folds, seed)):
        judged = {feedback.ids[row] for row in rows}
        others = [row for row, name in enumerate(photographs.ids) if name not in judged]
        real = write_photographs(
            photographs.take(others), settings.home / "cache", components.target.class_names
        )
        folds.append(Fold(f"fold-{number}", rows, real))
    return folds


def critic_for(plan: Plan, components: Components) -> Critic | None:
    """Load the DSTM of the previous round as critic of a plan's images; None if none is pulled."""
    pulls = [read_pull(prompt.pull)[0] for prompt in plan.prompts if prompt.pull]
    if not pulls:
        return None
    from tools.diffusion.guidance import critic_of
    from tools.models.criteria import load_dstm

    session = components.session
    past = rounds_before(session.journal, plan.round)
    trained = [r.training for r in past if r.report]
    assert trained and trained[-1] is not None  # otherwise the plan would have no pull
    training = trained[-1]
    dstm = load_dstm(session.folder / training.model, components.device)
    if "real" not in pulls:
        return critic_of(dstm, training.sha256)
    photographs, learnt = photographs_to_pull_toward(components)
    return critic_of(dstm, training.sha256, photographs, learnt=learnt)


def photographs_to_pull_toward(components: Components) -> tuple[Samples, bool]:
    """Return the photographs that images may be pulled toward, and whether the DSTM trains on them.

    These are the splits generator and audit, or generator alone with `feedback.folds`; if the DSTM
    trains on only some of them, the others. Photographs that are used to evaluate the DSTM are
    never included, since images pulled toward them would leak them into the training data.
    """
    settings = components.settings
    everything = components.photographs(None, 0)
    if settings.feedback.folds:
        everything = components.target.split("generator")
    if settings.dstm.train_on == "synthetic":
        return everything, False
    learnt = set(components.photographs(settings.dstm.real_images, settings.session.seed).ids)
    others = [row for row, name in enumerate(everything.ids) if name not in learnt]
    return (everything.take(others), False) if others else (everything, True)
