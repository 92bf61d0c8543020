"""A session that runs by itself: round after round until one of its limits is reached."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph

from agent import brains
from agent.autonomous.report import write_report
from agent.autonomous.results import write_results
from agent.brains import Brain, BrainContext, planner_brain, planner_of
from agent.brains.probe import with_mode
from agent.config.settings import Settings, journaled_settings
from agent.loop.approval import ApprovalDecision, ApprovalRequest
from agent.loop.components import Components
from agent.loop.effects import Effects, LiveEffects
from agent.loop.graph import build_graph
from agent.loop.observations import session_head
from agent.loop.observer import ConsoleObserver
from agent.loop.state import RoundState, new_round
from agent.planners import AttributeDistribution, distribution_of
from agent.session import data_manifest
from agent.session.checkpoints import Checkpoints, checkpoints
from agent.session.control import Control
from agent.session.folder import Session, folder_of, next_name, open_session
from agent.session.limits import Done, Ending, done_of, ending
from memory.errors import SessionInUse, Stopped

if TYPE_CHECKING:
    from rich.console import Console


def run(settings: Settings, console: Console, interactive: bool = False) -> Path:
    """Run, or go on running, a session at a terminal; return the path of its report.

    Raises Stopped, its report written, when somebody or a signal ended the session early.
    """
    name = settings.session.name or next_name(settings.home, settings.stem)
    ended_by = "error"
    try:
        with open_session(settings, name) as session, _stopped_by_sigterm(session.control):
            _say(console, f"Session {name} in {session.folder}")
            observer = ConsoleObserver(console, settings.session.rounds, interactive)
            bench = Components.of_session(session, observer)
            _tell_faults(bench)
            stopped = None
            try:
                _say(console, bench.target.notice, "dim")
                end = run_rounds(bench)
            except Stopped as error:
                end, stopped = Ending(error.rule, str(error)), error
            ended_by = end.rule
            n_done = session.n_done()
            session.journal.append("ended", rule=end.rule, told=end.told, round=n_done)
            _say(console, f"Ended by {end.rule}: {end.told}")
            report = write_report(settings.home, name)
            for place in write_results(session):
                _say(console, f"Written: {place}")
            if stopped and end.rule in ("asked", "signal"):
                raise stopped
            return report
    except SessionInUse:
        # It has not ended: the process that holds it runs the command at its end.
        ended_by = ""
        raise
    finally:
        if ended_by:
            _run_at_the_end(settings, name, ended_by)


def _say(console: Console, text: str, style: str | None = None) -> None:
    """Print a text as it stands: names of files and classes may hold brackets, no markup."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _tell_faults(bench: Components) -> None:
    """Journal what a crash of the run before has left behind."""
    journal, last = bench.session.journal, bench.control.killed
    if last:
        where = f"in stage {last.stage!r} of round {last.round}" if last.stage else "at its start"
        why = f": {last.why}" if last.why and last.state == "running" else ""
        bench.fault("killed", f"The run before was killed {where}{why}. Finished work was kept.")
    if journal.torn:
        bench.fault("torn journal", f"A torn last line of the journal is in {journal.torn.name}.")


def _run_at_the_end(settings: Settings, name: str, ended_by: str) -> None:
    """Run the command of the settings, which may send a message or switch the machine off."""
    if settings.session.on_finish:
        folder = folder_of(settings.home, name)
        told = {
            "SESSION": name,
            "SESSION_FOLDER": str(folder),
            "SESSION_REPORT": str(folder / "report.html"),
            "SESSION_ENDED_BY": ended_by,
        }
        subprocess.run(settings.session.on_finish, shell=True, env=os.environ | told, check=False)


def run_rounds(
    bench: Components, effects: Effects | None = None, brain: Brain | None = None
) -> Ending:
    """Run the rounds that are left until a limit is reached; return which one.

    A crashed round goes on where it stopped. effects, brain: None for those of the components and
    of the settings. Raises Stopped at a safe point within a round when the session is asked to end
    or its time is over.
    """
    session, control = bench.session, bench.control
    known = session.journal.get("session") is not None
    # So that what is wrong with it is said before anything is drawn.
    _ = bench.trainer
    palette = _open_journal(session, bench)
    context = BrainContext(palette, bench.target.vocabulary, session.settings.llm)
    built, fallback = (brain, None) if brain else _brains(session, context)
    with checkpoints(session) as kept:
        graph = build_graph(session, effects or LiveEffects(bench), built, fallback, kept.saver)
        last = session.n_done()
        if kept.has(last):
            # A crash came between the end of the round and the last event of its graph.
            _run_round(graph, kept, bench, last)
        done: list[Done] = []
        while True:
            for number in range(len(done) + 1, session.n_done() + 1):
                current = session.round(number)
                assert current is not None  # it has ended
                done.append(done_of(current))
            if end := ending(session.settings, done, control.worked(), control.gpu_s):
                return end
            if known:
                data_manifest.check(bench.session, bench.target, bench.fault)
                known = False
            with control.stage("decide", len(done) + 1):
                _run_round(graph, kept, bench, len(done) + 1)


def _run_round(
    graph: CompiledStateGraph[RoundState], kept: Checkpoints, bench: Components, number: int
) -> None:
    """Run a round to its end, from where a crash has left it."""
    config = kept.thread(number)
    # Not get_state().next: it is empty after a crash between a step and its checkpoint.
    step: RoundState | None = None if kept.has(number) else new_round(number)
    while question := _advance(graph, step, config):
        _journal_answer(bench.session, question, bench.observer.ask(question))
        step = None
    # The journal holds what a finished round needs; its checkpoints only cost space.
    kept.delete(number)


@contextmanager
def _stopped_by_sigterm(control: Control) -> Iterator[None]:
    """Let SIGTERM end the session at its next safe point."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = signal.signal(signal.SIGTERM, lambda number, frame: control.stop("SIGTERM"))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _advance(
    graph: CompiledStateGraph[RoundState], step: RoundState | None, config: RunnableConfig
) -> ApprovalRequest | None:
    """Run a round until it ends (None) or a person is asked (the question).

    A step None goes on where the round stopped: after a crash, or at a question whose answer the
    journal holds by now.
    """
    state: Any = graph.invoke(step, config, durability="sync")
    interrupts = state.get("__interrupt__", ())
    return ApprovalRequest.model_validate(interrupts[0].value) if interrupts else None


def _journal_answer(session: Session, question: ApprovalRequest, answer: ApprovalDecision) -> None:
    """Record what a person answered, before anything comes of it."""
    data: dict[str, Any] = {"key": question.key, "round": question.round}
    if question.kind == "words":
        session.journal.append("answer", **data, question=question.text, answer=answer.text)
    else:
        said = {"verdict": answer.verdict, "why": answer.text, "by": answer.by}
        session.journal.append("approval", **data, **said)


def _open_journal(session: Session, bench: Components) -> AttributeDistribution:
    """Journal what the session is, or that it goes on, and return its palette."""
    known = session.journal.get("session")
    if known:
        session.journal.append(
            "resumed",
            settings=journaled_settings(session.settings),
            interactive=bench.observer.interactive,
        )
        return AttributeDistribution.model_validate(known["palette"])
    palette = distribution_of(bench.target)
    data_manifest.begin(session, bench.target)
    session.journal.append(
        "session",
        key="session",
        session=session.name,
        target=bench.target.name,
        settings=journaled_settings(session.settings),
        palette=palette.to_json(),
        **session_head(bench.target, bench.observer.interactive),
    )
    return palette


def _brains(session: Session, context: BrainContext) -> tuple[Brain, Brain | None]:
    """Build the brain of the settings and, behind a chat model, the planner that steps in."""
    settings, journal = session.settings, session.journal
    brain = with_mode(brains.build(settings.brain, context), settings.llm, journal)
    fallback = None
    if planner_of(settings.brain) is None:
        fallback = brains.build(planner_brain(settings.llm.fallback), context)
    return brain, fallback
