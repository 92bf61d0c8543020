"""Viewer that steps through a recorded session in a terminal, one decision at a time.

Only the positions of steps are kept in memory; events are read when a step is shown, so that
sessions of a thousand rounds take little memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console, RenderableType
from rich.rule import Rule
from rich.table import Table as RichTable
from rich.text import Text

from eval.report.blocks import (
    Line,
    Picture,
    Table,
    failure_lines,
    plain_text,
    plan_lines,
    plan_table,
    report_table,
    verdict_text,
)
from eval.report.terminal import draw, draw_table
from eval.report.text import estimate_text
from memory.events import (
    AnswerEvent,
    BatchEvent,
    CreditsEvent,
    Event,
    FailuresEvent,
    FallbackEvent,
    GeneratorEvent,
    HeadEvent,
    IllegalCallEvent,
    LessonEvent,
    ModelCallEvent,
    OpeningEvent,
    PlanEvent,
    ReportEvent,
    ResumedEvent,
    RoundDoneEvent,
    StageEvent,
    ToolCallEvent,
    ToolsEvent,
    TrainingEvent,
    VerdictEvent,
    parse_event,
)
from memory.journal import rounds, scan
from memory.records import Plan, Verdict
from prompts.printable import printable

# Lines of a message that are shown unless the whole message is requested.
SHOWN_LINES = 14
HELP = (
    "n or Enter: next   p: previous   j ROUND: jump   /TEXT: search   s: pictures   "
    "m: whole messages   q: quit"
)


@dataclass(frozen=True)
class RecordedStep:
    """A step of the viewer, with one decision: the bytes start..end of the journal."""

    round: int
    start: int
    end: int


@dataclass(frozen=True)
class Recording:
    """An indexed journal and its folder."""

    folder: Path
    steps: Sequence[RecordedStep]

    def events(self, step: RecordedStep) -> list[Event]:
        """Read the events of a step."""
        return [parse_event(line) for line in self._bytes(step).splitlines()]

    def search(self, text: str, after: int) -> int | None:
        """Return the first step after `after`, cyclically, that contains a text in any case."""
        n = len(self.steps)
        places = ((after + offset) % n for offset in range(1, n + 1))
        lowered = text.lower()
        return next(
            (i for i in places if lowered in self._bytes(self.steps[i]).decode().lower()), None
        )

    def at_round(self, round_number: int) -> int | None:
        """Return the first step of a round, or None."""
        return next((i for i, s in enumerate(self.steps) if s.round == round_number), None)

    def _bytes(self, step: RecordedStep) -> bytes:
        with (self.folder / "journal.jsonl").open("rb") as handle:
            handle.seek(step.start)
            return handle.read(step.end - step.start)


def open_recording(folder: Path) -> Recording:
    """Index the journal of a session folder; an unfinished last line is left out.

    A step begins with each round, and with each further model call.

    Raises:
        SessionError: The journal does not exist, or this version cannot read a line of it.
    """
    starts, end = [(0, 0)], 0
    last_round, has_call = 0, False
    for event, n_bytes in scan(folder / "journal.jsonl"):
        round_number = event.round_number or last_round
        is_call = isinstance(event, ModelCallEvent)
        if round_number != last_round or (is_call and has_call):
            starts.append((round_number, end))
            has_call = False
        last_round, has_call = round_number, has_call or is_call
        end += n_bytes
    ends = [start for _, start in starts[1:]] + [end]
    steps = [
        RecordedStep(number, start, end) for (number, start), end in zip(starts, ends, strict=True)
    ]
    return Recording(folder, [step for step in steps if step.end > step.start])


def walk(recording: Recording, console: Console, read: Callable[[], str]) -> None:
    """Show a recording step by step; read: returns the next command, see HELP."""
    place, whole = 0, False
    show_step(recording, place, console, whole)
    console.print(Text(HELP, style="dim"))
    last = len(recording.steps) - 1
    while (command := read().strip()) != "q":
        goal: int | None = place
        problem = ""
        if command in ("", "n"):
            goal, problem = place + 1, "This is the last step."
        elif command == "p":
            goal, problem = place - 1, "This is the first step."
        elif command == "m":
            whole = not whole
        elif command == "s":
            show_pictures(recording, place, console)
            continue
        elif command.startswith("j"):
            wanted = command[1:].strip()
            goal = recording.at_round(int(wanted)) if wanted.isdecimal() else None
            problem = f"There is no round {wanted!r}."
        elif command.startswith("/") and len(command) > 1:
            goal = recording.search(command[1:], place)
            problem = f"{command[1:]!r} was not found."
        else:
            goal, problem = None, HELP
        if goal is None or not 0 <= goal <= last:
            console.print(Text(problem, style="dim"))
        else:
            place = goal
            show_step(recording, place, console, whole)


def print_all(recording: Recording, console: Console) -> None:
    """Print all steps."""
    for place in range(len(recording.steps)):
        show_step(recording, place, console, whole=False)


def show_step(recording: Recording, place: int, console: Console, whole: bool) -> None:
    """Print a step; whole: whether long messages are shown in full."""
    step = recording.steps[place]
    events = recording.events(step)
    title = [f"step {place + 1} of {len(recording.steps)}"]
    if step.round:
        title.append(f"round {step.round}")
    if call := next((event for event in events if isinstance(event, ModelCallEvent)), None):
        title += [call.phase, printable(call.author), f"{call.seconds:.2f} s"]
        title += [f"{call.tokens.total} tokens"] if call.tokens.total else []
    rule = Rule(Text(" | ".join(title), style="bold cyan"), align="left", style="cyan")
    console.print(rule)
    for event in events:
        for shown in _show(event, whole):
            console.print(shown)


def _show(event: Event, whole: bool) -> Iterator[RenderableType]:
    """Yield the renderables of an event."""
    match event:
        case OpeningEvent() | ToolsEvent() | CreditsEvent() | LessonEvent() | GeneratorEvent():
            return  # shown with another event
        case HeadEvent():
            yield _head(event)
        case ModelCallEvent():
            yield from _model_call(event, whole)
        case ToolCallEvent():
            yield _labelled("result", event.result, "", whole)
        case PlanEvent():
            yield from _plan(event.plan, whole)
        case BatchEvent(batch=batch):
            share = batch.n_kept / batch.n_made if batch.n_made else 0.0
            made = f"{batch.n_made} images made, {batch.n_kept} kept ({share:.2f})"
            yield _labelled("batch", f"{made}, job {batch.job_id}", "green")
        case TrainingEvent(training=done):
            figures = f"{done.n_images} images, {done.n_steps} steps, loss {done.final_loss:.3f}"
            yield _labelled("training", f"{figures}, weights {done.sha256[:12]}", "green")
        case ReportEvent(report=report):
            title = f"report on {report.split}"
            yield draw_table(report_table(report, title, None if whole else 5))
        case FailuresEvent():
            yield _failures(event, whole)
        case VerdictEvent():
            yield from _verdict(event.verdict)
        case IllegalCallEvent():
            yield _labelled("illegal", event.problem, "red", whole)
        case FallbackEvent():
            yield _labelled("fallback", event.reason, "yellow", whole)
        case StageEvent():
            yield _labelled("stage", f"{event.stage} took {event.seconds:.2f} s", "dim")
        case ResumedEvent():
            yield Rule(Text(f"resumed {event.time}", style="yellow"), style="yellow")
        case AnswerEvent():
            answer = {"question": event.question, "answer": event.answer}
            yield _labelled("person", _dump(answer), "magenta", whole)
        case RoundDoneEvent():
            yield _labelled("round done", event.summary, "bold")
        case _:
            yield _labelled(event.kind, _dump({"time": event.time} | event.content()), "dim", whole)


def _labelled(label: str, text: str, style: str = "", whole: bool = True) -> RenderableType:
    lines = printable(text).splitlines() or [""]
    left = len(lines) - SHOWN_LINES
    if not whole and left > 0:
        lines = [*lines[:SHOWN_LINES], f"... {left} more lines (m shows them)"]
    grid = RichTable.grid(padding=(0, 1))
    grid.add_column(width=16, justify="right", style="bold dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(label), Text("\n".join(lines), style=style))
    return grid


def _head(event: HeadEvent) -> RenderableType:
    budget = event.settings["session"]
    rows = {
        "session": event.session,
        "recorded": event.time,
        "target": event.target,
        "brain": event.settings["brain"],
        "budget": f"{budget['rounds']} rounds of {budget['images_per_round']} images",
        "seed": budget["seed"],
        "record": f"version {event.record}",
    }
    return draw_table(Table((), [[name, printable(value)] for name, value in rows.items()]))


def _model_call(event: ModelCallEvent, whole: bool) -> Iterator[RenderableType]:
    for message in event.messages:
        label = {"human": "user", "tool": message.name or "tool"}.get(message.role, message.role)
        style = "red" if message.status == "error" else "dim"
        yield _labelled(label[:16], message.content, style, whole)
    yield _labelled("may call", ", ".join(event.tools), "dim")
    if event.answer.content:
        yield _labelled("answers", event.answer.content, "", whole)
    for call in event.answer.tool_calls:
        # A plan is shown as a table when it is accepted.
        arguments = _dump(call.args) if call.args and call.name != "propose_plan" else ""
        yield _labelled("calls", f"{call.name} {arguments}", "bold", whole)


def _plan(plan: Plan, whole: bool) -> Iterator[RenderableType]:
    limit = len(plan.prompts) if whole else SHOWN_LINES
    yield draw_table(plan_table(plan, limit=limit, by_id=True))
    if limit < len(plan.prompts):
        yield Text(f"  and {len(plan.prompts) - limit} more prompts (m shows them)", "dim")
    yield _labelled("plan", plain_text(plan_lines(plan)))
    for warning in plan.warnings:
        yield _labelled("warning", warning, "yellow")


def _failures(event: FailuresEvent, whole: bool) -> RenderableType:
    n_pictures = sum(bool(failure.picture) for failure in event.failures)
    lines = [*failure_lines(event.failures), Line(f"{n_pictures} pictures (s shows them)")]
    is_worse = any(failure.significant for failure in event.failures)
    return _labelled("failures", plain_text(lines), "yellow" if is_worse else "", whole)


def _verdict(verdict: Verdict) -> Iterator[RenderableType]:
    style = {True: "green", False: "red", None: "dim"}[verdict.held]
    yield _labelled("hypothesis", verdict_text(verdict), style)
    before, after = estimate_text(verdict.before), estimate_text(verdict.after)
    yield _labelled("", f"{before} before, {after} after", "dim")


def _dump(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def show_pictures(recording: Recording, place: int, console: Console) -> None:
    """Print the pictures of a step's round as coloured blocks: images by prompt, then failures."""
    round_number = recording.steps[place].round
    shown = [*pictures(recording, round_number)]
    draw(console, shown, "blocks")
    if not shown:
        console.print(Text(f"There are no pictures of round {round_number}.", style="dim"))


def pictures(recording: Recording, round_number: int) -> Iterator[Picture]:
    """Yield the pictures of a round: a strip of images for every prompt, and the failures."""
    from agent.autonomous.thumbnails import prompt_thumbnails

    folder = recording.folder
    steps = (step for step in recording.steps if step.round == round_number)
    events = [event for step in steps for event in recording.events(step)]
    for current in rounds(events):
        texts = {prompt.id: prompt.text for prompt in current.plan.prompts} if current.plan else {}
        strips = prompt_thumbnails(folder, current.batch) if current.batch else {}
        for prompt_id, data in strips.items():
            yield Picture(data, printable(f"{prompt_id} {texts.get(prompt_id, '')}"))
        for failure in current.failures:
            if failure.picture and (folder / failure.picture).is_file():
                caption = printable(f"failures of {failure.slice}")
                yield Picture(folder / failure.picture, caption)
