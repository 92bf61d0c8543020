"""Run a session round by round until one of its limits is reached."""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from langchain_core.messages import AIMessageChunk
from langchain_core.runnables import RunnableConfig
from langgraph.graph.state import CompiledStateGraph
from langgraph.types import StreamMode
from langsmith.utils import tracing_is_enabled

from agent import brains
from agent.autonomous.copies import read_copies
from agent.autonomous.delivery import no_gain
from agent.autonomous.report import write_report
from agent.autonomous.results import write_results
from agent.autonomous.status import read_delivery
from agent.autonomous.thumbnails import show_start
from agent.brains import Brain, BrainContext, planner_brain, planner_of
from agent.brains.probe import build_probed
from agent.brains.sight import require_sight
from agent.config.settings import Settings, journaled_settings
from agent.loop.approval import ApprovalRequest, journal_answer
from agent.loop.components import Components
from agent.loop.effects import Effects
from agent.loop.graph import build_graph
from agent.loop.live_effects import LiveEffects
from agent.loop.observations import budget_of, session_head
from agent.loop.observer import ConsoleObserver, Observer
from agent.loop.stages import BASELINE, has_baseline, run_baseline
from agent.loop.state import RoundState, new_round
from agent.planners import AttributeDistribution
from agent.session import data_manifest
from agent.session.checkpoints import Checkpoints, checkpoints
from agent.session.control import Control
from agent.session.folder import Session, folder_of, next_name, open_session
from agent.session.limits import Done, Ending, chosen_ending, done_of, ending
from eval.report.delivery import delivery_blocks
from eval.report.terminal import draw
from memory.errors import SessionInUse, SettingsError, Stopped, UntrustedSession
from memory.events import HeadEvent, ResumedEvent
from tools.models.dstm_file import reproducible

if TYPE_CHECKING:
    from rich.console import Console


def run(settings: Settings, console: Console, interactive: bool = False) -> Path:
    """Run, or continue, a session at a terminal; return the path of its report.

    Raises:
        Stopped: A request or a signal ended the session early; its report is written.
    """
    name = settings.session.name or next_name(settings.home, settings.stem)
    ended_by = "error"
    try:
        with open_session(settings, name) as session, _stopped_by_signals(session.control):
            _print(console, f"Session {name} in {session.folder}")
            audited = settings.audit.method != "none"
            observer = ConsoleObserver(console, settings.session.rounds, interactive, audited)
            components = Components.of_session(session, observer)
            _journal_faults(components)
            stopped = None
            try:
                _print(console, components.target.notice, "dim")
                if picture := show_start(components):
                    _print(console, f"Photographs that the session starts from: {picture}")
                if tracing_is_enabled():
                    _print(console, "LangSmith traces are sent: LANGSMITH_TRACING is set.")
                if settings.llm.images and planner_of(settings.brain) is None:
                    text = f"Photographs are sent to {settings.brain}: llm.images is set."
                    _print(console, text)
                end = run_rounds(components)
            except Stopped as error:
                end, stopped = Ending(error.rule, str(error)), error
            ended_by = end.rule
            session.journal.append(end.event(session.n_done()))
            _print(console, f"Ended by {end.rule}: {end.message}")
            report = write_report(settings.home, name, components.without_session())
            for place in write_results(session):
                _print(console, f"Written: {place}")
            if (copies := read_copies(session.folder)) and copies.suspicious:
                _print(console, copies.say())
            if delivery := read_delivery(session.folder):
                draw(console, delivery_blocks(delivery))
            if stopped and end.rule in ("asked", "signal"):
                raise stopped
            return report
    except (SessionInUse, UntrustedSession):
        # In use: the process that holds the session runs the command. Untrusted: it must not run.
        ended_by = ""
        raise
    finally:
        if ended_by:
            _run_at_the_end(settings, name, ended_by)


def _print(console: Console, text: str, style: str | None = None) -> None:
    """Print a text without markup, since names of files and classes may contain brackets."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _journal_faults(components: Components) -> None:
    """Journal the faults left by a crash of the previous run."""
    session = components.session
    journal, last = session.journal, session.control.killed
    if last:
        where = f"in stage {last.stage!r} of round {last.round}" if last.stage else "at its start"
        why = f": {last.why}" if last.why and last.state == "running" else ""
        components.fault(
            "killed", f"The run before was killed {where}{why}. Finished work was kept."
        )
    if journal.torn:
        components.fault(
            "torn journal", f"A torn last line of the journal is in {journal.torn.name}."
        )


def _run_at_the_end(settings: Settings, name: str, ended_by: str) -> None:
    """Run the command `session.on_finish` in a shell, with environment variables on the session."""
    if settings.session.on_finish:
        folder = folder_of(settings.home, name)
        variables = {
            "SESSION": name,
            "SESSION_FOLDER": str(folder),
            "SESSION_REPORT": str(folder / "report.html"),
            "SESSION_ENDED_BY": ended_by,
        }
        command, environment = settings.session.on_finish, os.environ | variables
        subprocess.run(command, shell=True, env=environment, check=False)


def run_rounds(
    components: Components, effects: Effects | None = None, brain: Brain | None = None
) -> Ending:
    """Run the remaining rounds until a limit is reached; return the ending.

    A crashed round continues where it stopped.

    Args:
        components: Components of the session.
        effects: Effects of the session; None: those of the components.
        brain: The brain; None: that of the settings, with its fallback.

    Raises:
        Stopped: At a safe point within a round, if the session is asked to end or its time is up.
    """
    session, control = components.session, components.session.control
    is_resumed = session.journal.get("session", HeadEvent) is not None
    effects, used, fallback = begin(components, effects, brain)
    with checkpoints(session) as saved:
        graph = build_graph(session, effects, used, fallback, saved.saver)
        last = session.n_done()
        if saved.has(last):
            # A crash between the end of the round and the end of its graph left checkpoints.
            _run_round(graph, saved, components, last)
        done: list[Done] = []
        while True:
            first = BASELINE if has_baseline(session.journal) else BASELINE + 1
            for number in range(done[-1].round + 1 if done else first, session.n_done() + 1):
                current = session.round(number)
                assert current is not None  # finished
                done.append(done_of(current))
            n_next = budget_of(session, session.n_done() + 1)
            if end := ending(session.settings, done, control.worked(), control.gpu_s, n_next):
                return end
            if is_resumed:
                data_manifest.check(components.session, components.target, components.fault)
                is_resumed = False
            if end := chosen_ending(session.journal) or no_gain(session, components.target):
                return end
            if not done and effects.begins_with_baseline:
                run_baseline(session.journal, effects)
                continue
            number = session.n_done() + 1
            with control.stage("decide", number):
                _run_round(graph, saved, components, number)


def begin(
    components: Components, effects: Effects | None = None, brain: Brain | None = None
) -> tuple[Effects, Brain, Brain | None]:
    """Check the settings, journal that a session begins or continues, and build parts of its graph.

    Args:
        components: Components of the session.
        effects: Effects of the session; None: those of the components.
        brain: The brain; None: that of the settings.

    Returns:
        Effects, brain, and the fallback planner; None: the brain was given, or is a planner.
    """
    session = components.session
    caveat = "" if has_baseline(session.journal) else check_parts(components)
    _ = components.trainer
    distribution = _open_journal(session, components)
    if caveat:
        components.fault("values assumed", caveat)
    context = BrainContext(distribution, components.target.vocabulary, session.settings.llm)
    used, fallback = (brain, None) if brain else _brains(session, context)
    return effects or LiveEffects(components), used, fallback


def check_parts(components: Components) -> str:
    """Build the model and check the labels, so that errors surface before images are drawn.

    Returns:
        The model's caveat, see `tools.tasks.Model`.

    Raises:
        SettingsError: No model can be built from the settings, or the photographs have no labels
            for the task.
    """
    target, task, names = components.target, components.task, components.label_names
    labels = target.split("feedback").labels
    missing = [kind for kind in task.needs if kind not in labels]
    if not task.needs and len(names) < 2:
        missing = ["classes"]
    if missing:
        raise SettingsError(
            f"dstm.task is {task.name!r}, but the photographs of {target.name!r} have no "
            f"{' and no '.join(missing)}. Set dstm.task={target.task}."
        )
    if components.given_model:
        model, _ = components.given_model
    else:
        with reproducible(0, "cpu"):
            model = task.build_model(target.image_shape, len(names), components.dstm)
    return model.caveat


def _run_round(
    graph: CompiledStateGraph[RoundState], saved: Checkpoints, components: Components, number: int
) -> None:
    """Run a round to its end, from its checkpoint after a crash."""
    config = saved.thread(number)
    # Not get_state().next: it is empty after a crash between a step and its checkpoint.
    step: RoundState | None = None if saved.has(number) else new_round(number)
    stream = components.settings.llm.stream
    while question := _advance(graph, step, config, components.observer, stream):
        answer = components.observer.ask(question)
        journal_answer(components.session.journal, question, answer)
        step = None
    # A finished round is fully journaled; its checkpoints are no longer needed.
    saved.delete(number)


@contextmanager
def _stopped_by_signals(control: Control) -> Iterator[None]:
    """End the session at its next safe point on SIGTERM, or on SIGHUP of a closed terminal."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    # Ignored signals stay ignored, e.g. SIGHUP under nohup.
    before = {
        number: handler
        for number in (signal.SIGTERM, signal.SIGHUP)
        if (handler := signal.getsignal(number)) is not signal.SIG_IGN
    }
    for number in before:
        signal.signal(number, lambda number, frame: control.stop(signal.Signals(number).name))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _advance(
    graph: CompiledStateGraph[RoundState],
    step: RoundState | None,
    config: RunnableConfig,
    observer: Observer,
    stream: bool,
) -> ApprovalRequest | None:
    """Run a round until it ends or asks a person.

    Args:
        graph: Graph of the round.
        step: State of a new round; None: continue after a crash, or after a question whose answer
            is journaled.
        config: Thread of the round.
        observer: Receives the text of a language model while it is written, if `stream` is set.
        stream: Whether to stream that text.

    Returns:
        The question; None: the round has ended.
    """
    modes: list[StreamMode] = ["updates", "messages"] if stream else ["updates"]
    question = None
    part: Any
    for mode, part in graph.stream(step, config, stream_mode=modes, durability="sync"):
        if mode == "updates":
            interrupts = part.get("__interrupt__", ())
            question = interrupts[0].value if interrupts else None
        elif isinstance(part[0], AIMessageChunk):
            arguments = [piece["args"] or "" for piece in part[0].tool_call_chunks]
            observer.token("".join([str(part[0].text), *arguments]))
    return ApprovalRequest.model_validate(question) if question else None


def _open_journal(session: Session, components: Components) -> AttributeDistribution:
    """Journal the head of a new session, or its resumption; return its attribute distribution."""
    settings, interactive = journaled_settings(session.settings), components.observer.interactive
    if head := session.journal.get("session", HeadEvent):
        session.journal.append(ResumedEvent(settings=settings, interactive=interactive))
        return AttributeDistribution.model_validate(head.palette)
    distribution = components.distribution
    data_manifest.begin(session, components.target)
    session.journal.append(
        HeadEvent(
            key="session",
            session=session.name,
            target=components.target.name,
            settings=settings,
            palette=distribution.to_json(),
            **session_head(components.target, interactive),
        )
    )
    return distribution


def _brains(session: Session, context: BrainContext) -> tuple[Brain, Brain | None]:
    """Build the brain of the settings and, for a chat model, its fallback planner."""
    settings, journal = session.settings, session.journal
    brain = build_probed(settings.brain, context, journal)
    require_sight(brain, settings.llm, journal)
    fallback = None
    if planner_of(settings.brain) is None:
        fallback = brains.build(planner_brain(settings.llm.fallback), context)
    return brain, fallback
