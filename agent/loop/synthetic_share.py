"""Choice of the share of generated images in training by `dstm.synthetic_share=auto`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.loop.observations import rounds_before
from agent.loop.photographs import folds_of
from memory.records import ShareScore, digest
from tools.data.jobs import job_id, run_once
from tools.data.stored_images import contents
from tools.evaluate_real import joined
from tools.settings import DstmSettings
from tools.tasks import Slicing
from tools.train_dstm import Callbacks

if TYPE_CHECKING:
    from agent.loop.components import Components

# Shares of generated images that `dstm.synthetic_share=auto` tries in round 1.
CANDIDATES = (0.1, 1 / 3, 0.6)


def chosen_share(
    components: Components,
    number: int,
    settings: DstmSettings,
    shards: Sequence[Path],
    real: Sequence[Path],
) -> dict[str, Any]:
    """Return the share of generated images, as fields of a `Training`.

    The first round with images tries `CANDIDATES`; later rounds reuse the share chosen there.

    Args:
        components: Components of the session.
        number: Number of the round.
        settings: Settings of the training, with its seed.
        shards: Shards of generated images, relative to the session's folder.
        real: Shards of photographs.
    """
    session = components.session
    past = rounds_before(session.journal, number)
    shares = [t.synthetic_share for r in past if (t := r.training)]
    if chosen := [share for share in shares if share is not None]:
        return {"synthetic_share": chosen[-1]}
    scores = try_shares(components, settings, [session.folder / shard for shard in shards], real)
    return {"synthetic_share": best_share(scores), "shares": tuple(scores)}


def try_shares(
    components: Components,
    settings: DstmSettings,
    shards: Sequence[Path],
    real: Sequence[Path],
) -> list[ShareScore]:
    """Train a DSTM with each candidate share and return the main figure on feedback.

    Each training is a job, so it is not repeated after a crash. As there is one training per share,
    differences below two points are mostly chance.

    Args:
        components: Components of the session.
        settings: Settings of the training, with its seed.
        shards: Shards of generated images, absolute paths.
        real: Shards of photographs.
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
            for photos, judged in parts:
                model, _ = components.trainer.train(shards, n_classes, changed, callbacks, photos)
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
    """Return the share with the highest score, the smallest of them in a tie."""
    return min(scores, key=lambda one: (-one.score, one.share)).share
