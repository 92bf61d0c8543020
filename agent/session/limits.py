"""Stopping rules of a session, evaluated before every round."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from agent.config.settings import Settings
from memory.errors import SettingsError
from memory.events import EndedEvent, RoundDoneEvent
from memory.journal import Journal
from memory.records import Round

HOUR_S = 3600
# Name of the rule that a brain ended the session.
FINISH = "finish"


class Ending(NamedTuple):
    """The rule that ended a session, e.g. "rounds" or "max_hours", and a message with figures."""

    rule: str
    message: str

    def event(self, n_done: int) -> EndedEvent:
        """Return the event for the journal; n_done: number of finished rounds."""
        return EndedEvent(rule=self.rule, message=self.message, round=n_done)


class Best(NamedTuple):
    """The round with the highest main figure on feedback, the earlier one of equals."""

    round: int
    score: float


class Done(NamedTuple):
    """Summary of a finished round for the limits; score: None if nothing was trained."""

    round: int
    score: float | None
    n_made: int
    seconds: float


def done_of(current: Round) -> Done:
    """Return the summary of a round."""
    figure = current.main_figure if current.training else None
    return Done(
        round=current.number,
        score=figure.value if figure else None,
        n_made=current.batch.n_made if current.batch else 0,
        seconds=sum(current.seconds.values()),
    )


def best_round(past: Sequence[Round]) -> Best | None:
    """Return the best round by the main figure on feedback, or None before the first report."""
    return best_of([done_of(current) for current in past])


def best_of(done: Sequence[Done]) -> Best | None:
    """Return the best of the rounds with a score, or None."""
    scores = [Best(one.round, one.score) for one in done if one.score is not None]
    return max(scores, key=lambda best: (best.score, -best.round)) if scores else None


def ending(
    settings: Settings,
    done: Sequence[Done],
    worked_s: float,
    gpu_s: float,
    n_next: int | None = None,
) -> Ending | None:
    """Return the first rule that forbids another round, or None.

    A round that is expected to exceed the time limit, given the duration of the last one, is not
    started.

    Args:
        settings: Settings of the session.
        done: The finished rounds, including round 0, which does not count as a round.
        worked_s: Time worked so far in seconds.
        gpu_s: The part of `worked_s` on a GPU.
        n_next: Images of the next round; None: as in settings.
    """
    limits, session = settings.limits, settings.session
    best, n_next = best_of(done), n_next or session.images_per_round
    if best and limits.target_score is not None and best.score >= limits.target_score:
        return Ending(
            "target_score",
            f"round {best.round} scores {best.score:.3f}, {limits.target_score:g} was wanted",
        )
    if sum(one.round > 0 for one in done) >= session.rounds:
        return Ending("rounds", f"all {session.rounds} rounds are done")
    if best and limits.patience is not None and done[-1].round - best.round >= limits.patience:
        return Ending(
            "patience",
            f"no round since round {best.round} ({best.score:.3f}) was better, "
            f"{limits.patience} had the chance",
        )
    n_made = sum(one.n_made for one in done)
    if limits.max_images is not None and n_made + n_next > limits.max_images:
        if not n_made:
            raise SettingsError(
                f"limits.max_images is {limits.max_images}, fewer than the "
                f"{n_next} images of one round. Raise it, or lower "
                "session.images_per_round."
            )
        return Ending(
            "max_images",
            f"{n_made} images are made and another {n_next} would pass {limits.max_images}",
        )
    last_s = done[-1].seconds if done else 0.0
    for rule, limit, spent_s in (
        ("max_hours", limits.max_hours, worked_s),
        ("max_gpu_hours", limits.max_gpu_hours, gpu_s),
    ):
        if limit is not None and spent_s + (last_s if spent_s else 0) > limit * HOUR_S:
            return Ending(
                rule,
                f"{spent_s / HOUR_S:.3g} of {limit:g} hours are spent and the last round took "
                f"{last_s / HOUR_S:.3g}",
            )
    return None


def chosen_ending(journal: Journal) -> Ending | None:
    """Return the ending that the brain chose in the last round; None once it is journaled.

    So a session that is resumed after it continues.
    """
    done = journal.events(RoundDoneEvent)[-1:]
    if not done or not done[0].ends:
        return None
    number = done[0].round
    if any((e.rule, e.round) == (FINISH, number) for e in journal.events(EndedEvent)):
        return None
    return Ending(FINISH, f"the brain ended the session with round {number}: {done[0].ends}")
