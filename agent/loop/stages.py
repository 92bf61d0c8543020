"""The stages train, evaluate and inspect, each journaled once, and round 0, which consists of them.

Round 0 is the baseline for generated images: a DSTM trained on the user's photographs alone and
evaluated before anything is drawn. It has no plan and no images and does not count as a round of
the budget; the first plan is based on its failures.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from agent.loop.effects import Effects
from agent.loop.observations import rounds_before
from agent.loop.state import EventLog, SessionView, record_version
from eval.credit import credit, settle
from eval.effects import effects_of
from eval.report.blocks import verdict_text
from memory.events import (
    CreditsEvent,
    FailuresEvent,
    LessonEvent,
    ReportEvent,
    StageEvent,
    TrainingEvent,
    VerdictEvent,
)
from memory.records import Failure, Lesson, Report, Training

BASELINE = 0


@contextmanager
def timed(journal: EventLog, effects: Effects, stage: str, number: int) -> Iterator[None]:
    """Run a stage of a round, show it, and journal its duration once."""
    started = effects.worked_s()
    with effects.stage(stage, number):
        yield
    seconds = round(effects.worked_s() - started, 3)
    key = f"stage/{number}/{stage}"
    journal.append(StageEvent(key=key, round=number, stage=stage, seconds=seconds))


def train(journal: EventLog, effects: Effects, number: int) -> Training:
    """Train the DSTM of a round and journal the training."""
    with timed(journal, effects, "train", number):
        training = effects.train(number)
    return journal.append(TrainingEvent(key=f"training/{number}", training=training)).training


def say_training(training: Training) -> str:
    """Describe a training: its data, steps and loss, and what was selected."""
    real = f" and {training.n_real} photographs" if training.n_real else ""
    text = (
        f"Trained on {training.n_images} images{real}, {training.n_steps} steps, "
        f"final loss {training.final_loss:.3f}."
    )
    if training.shares:
        tried = ", ".join(f"{one.share:.2f}: {one.score:.3f}" for one in training.shares)
        text += (
            f" Of the shares of generated images that were tried on feedback ({tried}), "
            f"{training.synthetic_share:.2f} is kept."
        )
    if chosen := training.selection:
        text += (
            f" Of this round's {chosen.n_candidates} images {chosen.n_chosen} were chosen by "
            f"{chosen.method}."
        )
    return text


def evaluate(journal: EventLog, effects: Effects, training: Training) -> Report:
    """Evaluate the DSTM of a round on the feedback photographs and journal the report."""
    number = training.round
    with timed(journal, effects, "evaluate", number):
        report = effects.evaluate(training)
    return journal.append(ReportEvent(key=f"report/{number}", report=report)).report


def inspect(journal: EventLog, effects: Effects, number: int) -> tuple[Failure, ...]:
    """Return the failures of the DSTM of a round; they are found and journaled only once."""
    key = f"failures/{number}"
    if recorded := journal.get(key, FailuresEvent):
        return recorded.failures
    with timed(journal, effects, "inspect", number):
        failures = effects.inspect(number)
    return journal.append(FailuresEvent(key=key, round=number, failures=failures)).failures


def learn(session: SessionView, report: Report) -> None:
    """Journal the credits of an evaluated round, and the verdict and lesson of its hypothesis.

    Events that the journal already contains are not written again.
    """
    number = report.round
    current = session.journal.round(number)
    assert current is not None and current.plan is not None and current.batch is not None
    reports = [r.report for r in rounds_before(session.journal, number) if r.report]
    before = reports[-1] if reports else None
    version = record_version(session.journal)
    effects = effects_of(current.plan, before, report, version)
    credits_ = credit(current.plan, current.batch, report.slices, effects)
    session.journal.append(
        CreditsEvent(key=f"credits/{number}", round=number, credits=tuple(credits_))
    )
    if current.plan.hypothesis is None:
        return
    verdict = settle(current.plan.hypothesis, before, report, effects)
    session.journal.append(VerdictEvent(key=f"verdict/{number}", round=number, verdict=verdict))
    lesson = Lesson(
        id=f"{session.name}/{number}",
        round=number,
        text=f"{current.plan.why} {verdict_text(verdict)}"[:600],
        slice=verdict.hypothesis.slice,
        held=verdict.held,
    )
    session.journal.append(LessonEvent(key=f"lesson/{number}", lesson=lesson))


def has_baseline(journal: EventLog) -> bool:
    """Return whether round 0 has ended."""
    return journal.get(f"failures/{BASELINE}", FailuresEvent) is not None


def run_baseline(journal: EventLog, effects: Effects) -> None:
    """Run round 0, or resume it, in a session that begins with one."""
    if not effects.begins_with_baseline or has_baseline(journal):
        return
    recorded = journal.get(f"training/{BASELINE}", TrainingEvent)
    training = recorded.training if recorded else train(journal, effects, BASELINE)
    if journal.get(f"report/{BASELINE}", ReportEvent) is None:
        evaluate(journal, effects, training)
    inspect(journal, effects, BASELINE)
    current = journal.round(BASELINE)
    assert current is not None  # it has just ended
    effects.observer.round_done(current)
