"""Walks through a recorded session at a terminal, one decision after the other.

A journal is indexed by where its lines begin and read again where it is looked at, so that a
session of a thousand rounds opens at once and takes little memory.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rich.console import Console, RenderableType
from rich.panel import Panel
from rich.rule import Rule
from rich.table import Table
from rich.text import Text

from eval.report.blocks import Picture, plan_table, report_table
from eval.report.terminal import draw, draw_table
from eval.report.text import estimate_text, signed
from memory.errors import SessionError
from memory.events import SCHEMA, Event
from memory.files import storage_error
from memory.records import Batch, Plan, Report, Verdict
from prompts.printable import printable

# Lines of a message that are shown unless all are asked for.
SHOWN_LINES = 14
HELP = (
    "n or Enter: next   p: previous   j ROUND: jump   /TEXT: search   s: pictures   "
    "m: whole messages   q: quit"
)


@dataclass(frozen=True)
class Step:
    """One decision: lines first..last-1 of the journal, the first of which is what led to it."""

    round: int
    first: int
    last: int


@dataclass
class Recording:
    """An indexed journal and the folder that it lies in."""

    folder: Path
    steps: list[Step] = field(default_factory=list)
    _starts: list[int] = field(default_factory=list)

    @property
    def journal(self) -> Path:
        """The path of the journal."""
        return self.folder / "journal.jsonl"

    def events(self, step: Step) -> list[Event]:
        """Read the events of a step."""
        start, end = self._starts[step.first], self._starts[step.last]
        with self.journal.open("rb") as handle:
            handle.seek(start)
            return [json.loads(line) for line in handle.read(end - start).splitlines()]

    def search(self, text: str, after: int) -> int | None:
        """Return the first step behind `after`, going round, that holds a text in any case."""
        wanted = text.lower()
        n = len(self.steps)
        with self.journal.open("rb") as handle:
            for offset in range(1, n + 1):
                place = (after + offset) % n
                step = self.steps[place]
                handle.seek(self._starts[step.first])
                data = handle.read(self._starts[step.last] - self._starts[step.first])
                if wanted in data.decode().lower():
                    return place
        return None

    def at_round(self, round_number: int) -> int | None:
        """Return the first step of a round, or None."""
        return next((i for i, s in enumerate(self.steps) if s.round == round_number), None)


def open_recording(folder: Path) -> Recording:
    """Index the journal of a session folder; an unfinished last line is left out.

    Raises SessionError when there is none, when a line is damaged, or of another schema.
    """
    recording = Recording(folder)
    starts, marks = [0], [(0, 0)]
    last_round, has_call = 0, False
    try:
        with recording.journal.open("rb") as handle:
            for n, line in enumerate(handle):
                if not line.endswith(b"\n"):
                    break
                event = _parse(line, recording.journal, n + 1)
                starts.append(starts[-1] + len(line))
                round_number = _round_of(event) or last_round
                is_call = event["kind"] == "model_call"
                if round_number != last_round or (is_call and has_call):
                    marks.append((n, round_number))
                    has_call = False
                last_round, has_call = round_number, has_call or is_call
    except FileNotFoundError as error:
        raise SessionError(
            f"There is no journal at {recording.journal}; is it a session's folder?"
        ) from error
    except OSError as error:
        raise storage_error(recording.journal, error) from error
    n_lines = len(starts) - 1
    ends = [mark[0] for mark in marks[1:]] + [n_lines]
    recording._starts = starts
    recording.steps = [
        Step(round_number, first, end)
        for (first, round_number), end in zip(marks, ends, strict=True)
        if end > first
    ]
    return recording


def _parse(line: bytes, path: Path, number_: int) -> Event:
    try:
        event: Event = json.loads(line.decode())
        if event["schema"] != SCHEMA or not isinstance(event["kind"], str):
            raise ValueError(f"schema {event['schema']}, this program knows {SCHEMA}")
    except (ValueError, TypeError, KeyError) as error:
        raise SessionError(
            f"{path}, line {number_} is no event of a journal that this version reads: {error}. "
            "Restore the file, or use the version that wrote it."
        ) from error
    return event


def walk(recording: Recording, console: Console, read: Callable[[], str]) -> None:
    """Show a recording step by step, as `read` says what comes next."""
    place, whole = 0, False
    show_step(recording, place, console, whole)
    console.print(Text(HELP, style="dim"))
    last = len(recording.steps) - 1
    while True:
        command = read().strip()
        told = ""
        if command == "q":
            return
        if command in ("", "n"):
            told = "" if place < last else "This is the last step."
            place = min(place + 1, last)
        elif command == "p":
            told = "" if place else "This is the first step."
            place = max(place - 1, 0)
        elif command == "m":
            whole = not whole
        elif command == "s":
            show_pictures(recording, place, console)
            continue
        elif command.startswith("j"):
            wanted = command[1:].strip()
            found = recording.at_round(int(wanted)) if wanted.isdecimal() else None
            told = "" if found is not None else f"There is no round {wanted!r}."
            place = place if found is None else found
        elif command.startswith("/") and len(command) > 1:
            found = recording.search(command[1:], place)
            told = "" if found is not None else f"{command[1:]!r} is nowhere."
            place = place if found is None else found
        else:
            told = HELP
        if told:
            console.print(Text(told, style="dim"))
        else:
            show_step(recording, place, console, whole)


def print_all(recording: Recording, console: Console) -> None:
    """Print every step."""
    for place in range(len(recording.steps)):
        show_step(recording, place, console, whole=False)


def show_step(recording: Recording, place: int, console: Console, whole: bool) -> None:
    """Print one step."""
    step = recording.steps[place]
    events = recording.events(step)
    call = next((e for e in events if e["kind"] == "model_call"), None)
    title = f"step {place + 1} of {len(recording.steps)}"
    if step.round:
        title += f" | round {step.round}"
    if call:
        tokens = call["tokens"]["prompt"] + call["tokens"]["answer"]
        title += f" | {call['phase']} | {printable(call['author'])} | {call['seconds']:.2f} s"
        title += f" | {tokens} tokens" if tokens else ""
    console.print(Rule(Text(title, style="bold cyan"), align="left", style="cyan"))
    for event in events:
        for shown in _show(event, whole):
            console.print(shown)


def _show(event: Event, whole: bool) -> Iterator[RenderableType]:
    """Yield what a person sees of an event."""
    show = _SHOWN.get(event["kind"])
    if show is not None:
        yield from show(event, whole)
    elif event["kind"] not in _HIDDEN:
        data = {k: v for k, v in event.items() if k not in ("schema", "kind", "key", "chain")}
        yield _labelled(event["kind"], json.dumps(data, ensure_ascii=False), "dim", whole)


def _labelled(label: str, text: str, style: str = "", whole: bool = True) -> RenderableType:
    lines = printable(text).splitlines() or [""]
    left = len(lines) - SHOWN_LINES
    if not whole and left > 0:
        lines = [*lines[:SHOWN_LINES], f"... {left} more lines (m shows them)"]
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=16, justify="right", style="bold dim", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(Text(label), Text("\n".join(lines), style=style))
    return grid


def _session(event: Event, whole: bool) -> Iterator[RenderableType]:
    settings = event["settings"]
    budget = settings["session"]
    grid = Table.grid(padding=(0, 2))
    rows = {
        "session": event["session"],
        "recorded": event["time"],
        "target": event["target"],
        "brain": settings["brain"],
        "budget": f"{budget['rounds']} rounds of {budget['images_per_round']} images",
        "seed": budget["seed"],
        "record": f"version {event.get('record', 0)}",
    }
    for name, value in rows.items():
        grid.add_row(Text(name, style="bold dim"), Text(printable(value)))
    yield Panel(grid, expand=False, border_style="cyan")


def _model_call(event: Event, whole: bool) -> Iterator[RenderableType]:
    for message in event["messages"]:
        label = {"human": "told", "tool": message.get("name") or "tool"}.get(
            message["role"], message["role"]
        )
        failed = message.get("status") == "error"
        yield _labelled(str(label)[:16], message["content"], "red" if failed else "dim", whole)
    yield _labelled("may call", ", ".join(event["tools"]), "dim")
    answer = event["answer"]
    if answer["content"]:
        yield _labelled("says", answer["content"], "", whole)
    for call in answer["tool_calls"]:
        arguments = call["args"]
        said = "" if call["name"] == "propose_plan" else json.dumps(arguments, ensure_ascii=False)
        yield _labelled("calls", f"{call['name']} {said if said != '{}' else ''}", "bold", whole)


def _plan(event: Event, whole: bool) -> Iterator[RenderableType]:
    plan = Plan.model_validate(event["plan"])
    limit = len(plan.prompts) if whole else SHOWN_LINES
    yield draw_table(plan_table(plan, limit=limit, by_id=True))
    if limit < len(plan.prompts):
        yield Text(f"  and {len(plan.prompts) - limit} more prompts (m shows them)", "dim")
    yield _labelled("why", plan.why)
    if plan.hypothesis:
        expects = f"{signed(plan.hypothesis.expected_change)} on {plan.hypothesis.slice}"
        yield _labelled("expects", expects)
    for trial in plan.trials:
        yield _labelled("trial", f"{trial.n_images} images of {trial.slice}")
    for warning in plan.warnings:
        yield _labelled("warning", warning, "yellow")


def _batch(event: Event, whole: bool) -> Iterator[RenderableType]:
    batch = Batch.model_validate(event["batch"])
    share = batch.n_kept / batch.n_made if batch.n_made else 0.0
    told = f"{batch.n_made} images made, {batch.n_kept} kept ({share:.2f}), job {batch.job_id}"
    yield _labelled("batch", told, "green")


def _training(event: Event, whole: bool) -> Iterator[RenderableType]:
    done = event["training"]
    told = f"{done['n_images']} images, {done['n_steps']} steps, loss {done['final_loss']:.3f}"
    yield _labelled("training", f"{told}, weights {done['sha256'][:12]}", "green")


def _report(event: Event, whole: bool) -> Iterator[RenderableType]:
    report = Report.model_validate(event["report"])
    title = f"report on {report.split}"
    yield draw_table(report_table(report, title, None if whole else 5))


def _failures(event: Event, whole: bool) -> Iterator[RenderableType]:
    found = [f for f in event["failures"] if f["significant"]]
    told = [f"{f['slice']} (error {f['error_rate']['value']:.2f}, n {f['n']})" for f in found]
    pictures = sum(bool(f["picture"]) for f in event["failures"])
    head = f"{len(found)} slices are significantly worse; {pictures} pictures (s shows them)"
    yield _labelled("failures", "\n".join([head, *told]), "yellow" if found else "", whole)


def _verdict(event: Event, whole: bool) -> Iterator[RenderableType]:
    verdict = Verdict.model_validate(event["verdict"])
    expected = verdict.hypothesis
    outcome = {True: "held", False: "did not hold", None: "was not measured"}[verdict.held]
    change = "" if verdict.change is None else f", measured {signed(verdict.change)}"
    told = f"{signed(expected.expected_change)} on {expected.slice}{change}: it {outcome}"
    style = {True: "green", False: "red", None: "dim"}[verdict.held]
    yield _labelled("hypothesis", told, style)
    yield _labelled("", f"{estimate_text(verdict.before)} before", "dim")
    yield _labelled("", f"{estimate_text(verdict.after)} after", "dim")


def _illegal(event: Event, whole: bool) -> Iterator[RenderableType]:
    yield _labelled("illegal", event["problem"], "red", whole)


def _fallback(event: Event, whole: bool) -> Iterator[RenderableType]:
    yield _labelled("fallback", event.get("reason", ""), "yellow", whole)


def _stage(event: Event, whole: bool) -> Iterator[RenderableType]:
    yield _labelled("stage", f"{event['stage']} took {event['seconds']:.2f} s", "dim")


def _resumed(event: Event, whole: bool) -> Iterator[RenderableType]:
    yield Rule(Text(f"resumed {event['time']}", style="yellow"), style="yellow")


def _answer(event: Event, whole: bool) -> Iterator[RenderableType]:
    said = {k: v for k, v in event.items() if k in ("question", "answer", "verdict", "text", "by")}
    yield _labelled("person", json.dumps(said, ensure_ascii=False), "magenta", whole)


def _tool_call(event: Event, whole: bool) -> Iterator[RenderableType]:
    yield _labelled("result", event["result"], "", whole)


def _round_done(event: Event, whole: bool) -> Iterator[RenderableType]:
    yield _labelled("round done", event["summary"], "bold")


_SHOWN: dict[str, Callable[[Event, bool], Iterator[RenderableType]]] = {
    "session": _session,
    "model_call": _model_call,
    "tool_call": _tool_call,
    "plan": _plan,
    "batch": _batch,
    "training": _training,
    "report": _report,
    "failures": _failures,
    "verdict": _verdict,
    "illegal_call": _illegal,
    "fallback": _fallback,
    "stage": _stage,
    "resumed": _resumed,
    "answer": _answer,
    "round_done": _round_done,
}
# Seen in another event already.
_HIDDEN = frozenset(["opening", "tools", "credits", "lesson", "generator"])


def show_pictures(recording: Recording, place: int, console: Console) -> None:
    """Print the pictures of a step's round as coloured blocks: prompts' images, then failures."""
    round_number = recording.steps[place].round
    shown = 0
    for picture in pictures(recording, round_number):
        draw(console, [picture], "blocks")
        shown += 1
    if not shown:
        console.print(Text(f"There are no pictures of round {round_number}.", style="dim"))


def pictures(recording: Recording, round_number: int) -> Iterator[Picture]:
    """Yield pictures: a strip of every prompt's images, and the failures."""
    from agent.autonomous.thumbnails import prompt_strips

    folder = recording.folder
    texts: dict[str, str] = {}
    found: list[tuple[str, str]] = []
    batch = None
    for step in recording.steps:
        if step.round != round_number:
            continue
        for event in recording.events(step):
            if event["kind"] == "plan":
                texts = {p["id"]: p["text"] for p in event["plan"]["prompts"]}
            elif event["kind"] == "batch":
                batch = Batch.model_validate(event["batch"])
            elif event["kind"] == "failures":
                found = [(f["slice"], f["picture"]) for f in event["failures"] if f["picture"]]
    if batch:
        for prompt_id, data in prompt_strips(folder, batch).items():
            yield Picture(data, printable(f"{prompt_id} {texts.get(prompt_id, '')}"))
    for name, picture in found:
        if (folder / picture).is_file():
            yield Picture(folder / picture, printable(f"failures of {name}"))


def _round_of(event: Event) -> int:
    holder = event.get(event["kind"])
    if "round" not in event and isinstance(holder, dict):
        return int(holder.get("round", 0))
    return int(event.get("round", 0))
