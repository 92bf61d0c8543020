"""What trainings have of photographs: folds, pulls toward them, the share of images beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent.loop.observations import rounds_before
from memory.records import Plan, ShareScore, digest, read_pull
from tools.data.jobs import job_id, run_once
from tools.data.samples import Samples
from tools.data.shards import write_photographs
from tools.data.stored_images import contents
from tools.evaluate_real import joined
from tools.settings import DstmSettings
from tools.targets.cross_fitting import fold_rows
from tools.tasks import Slicing
from tools.train_dstm import Callbacks

if TYPE_CHECKING:
    from agent.loop.components import Components
    from tools.diffusion.guidance import Critic


# Shares of generated images that `dstm.synthetic_share=auto` tries in round 1.
CANDIDATES = (0.1, 1 / 3, 0.6)


class Fold(NamedTuple):
    """A part of the feedback photographs, and the others.

    Attributes:
        name: Of the folder of its model, below that of the round.
        judged: Rows of the feedback photographs.
        real: Shards of the photographs that its model learns from.
    """

    name: str
    judged: NDArray[np.int64]
    real: Sequence[Path]


def folds_of(components: Components) -> list[Fold]:
    """Return the folds; [] where one model judges all, as one that learns no photograph can."""
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
    """Load the DSTM of the round before a plan's, by which its images are pulled, if any are."""
    pulls = [read_pull(prompt.pull)[0] for prompt in plan.prompts if prompt.pull]
    if not pulls:
        return None
    from tools.diffusion.guidance import critic_of
    from tools.models.criteria import load_dstm

    session = components.session
    past = rounds_before(session.journal, plan.round)
    trained = [r.training for r in past if r.report]
    assert trained and trained[-1] is not None  # or the plan would say no pull
    training = trained[-1]
    dstm = load_dstm(session.folder / training.model, components.device)
    if "real" not in pulls:
        return critic_of(dstm, training.sha256)
    photographs, learnt = photographs_to_pull_toward(components)
    return critic_of(dstm, training.sha256, photographs, learnt=learnt)


def photographs_to_pull_toward(components: Components) -> tuple[Samples, bool]:
    """Return photographs that images may be pulled toward, and whether the DSTM learns from them.

    They are those of the splits generator and audit; where it learns from some of them alone, the
    others. None is judged, in folds or otherwise: its image would teach models of it.
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


def share_of(
    components: Components,
    number: int,
    settings: DstmSettings,
    shards: Sequence[Path],
    real: Sequence[Path],
) -> dict[str, Any]:
    """Return the share of round 1, which tries some, as fields of a `Training`.

    Args:
        components: Of the session.
        number: Of the round.
        settings: Of the training, with its seed.
        shards: Of generated images, relative to the session's folder.
        real: Of photographs.
    """
    session = components.session
    past = rounds_before(session.journal, number)
    shares = [t.synthetic_share for r in past if (t := r.training)]
    if known := [share for share in shares if share is not None]:
        return {"synthetic_share": known[-1]}
    scores = try_shares(components, settings, [session.folder / shard for shard in shards], real)
    return {"synthetic_share": best_share(scores), "shares": tuple(scores)}


def try_shares(
    components: Components,
    settings: DstmSettings,
    shards: Sequence[Path],
    real: Sequence[Path],
) -> list[ShareScore]:
    """Return the main figure on feedback by share; each is a job, so none is trained twice.

    Each is a training of its own; the best is kept for the session, and of equal ones the smallest.
    With one training each, differences below two points are mostly chance.

    Args:
        components: Of the session.
        settings: Of the training, with its seed.
        shards: Of generated images, absolute.
        real: Of photographs.
    """
    folder, n_classes = components.session.folder, len(components.label_names)
    task, names = components.task, components.label_names
    feedback, folds = components.target.split("feedback"), folds_of(components)
    parts = [(fold.real, fold.judged) for fold in folds] or [(real, np.arange(len(feedback)))]
    callbacks = Callbacks(components.progress("train", "steps"), components.fault)

    def score(share: float) -> Callable[[], float]:
        def work() -> float:
            changed = settings.model_copy(update={"synthetic_share": share})
            predictions = []
            for known, judged in parts:
                model, _ = components.trainer.train(shards, n_classes, changed, callbacks, known)
                predictions.append(task.predict(model, feedback.images[judged]))
            values = joined(predictions, [judged for _, judged in parts])
            report = task.report(values, feedback, names, 1, "feedback", Slicing())
            return report.metrics[report.main_metric].value

        return work

    scores = []
    for share in CANDIDATES:
        arguments = {
            "share": share,
            "settings": settings.model_dump(mode="json"),
            "images": digest([contents(path).sha256 for path in (*shards, *real)]),
        }
        if folds:
            arguments["folds"] = len(folds)
        job = job_id(folder.name, 1, "synthetic_share", arguments)
        value = run_once(folder / "jobs" / job, arguments, score(share))
        scores.append(ShareScore(share=share, score=value))
    return scores


def best_share(scores: Sequence[ShareScore]) -> float:
    """Return the share of the highest score, of equal ones the smallest."""
    return min(scores, key=lambda one: (-one.score, one.share)).share
