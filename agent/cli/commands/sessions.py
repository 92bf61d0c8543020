"""Unattended sessions: run, resume, status, stop, pause, continue, list, report and export."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from agent.cli.commands import options
from agent.cli.commands.common import (
    confirm,
    console,
    continued,
    going_on,
    home_of,
    resolve,
    say,
    say_table,
    session_of,
)
from memory.errors import NotPretrained, SessionError

if TYPE_CHECKING:
    from agent.autonomous.status import Status
    from agent.config.settings import Settings

app = typer.Typer()

WATCH_EVERY_S = 1.0
# Seconds that `stop --now` waits for a process to reach a safe point.
PATIENCE_S = 15.0


@app.command()
def run(
    ctx: typer.Context,
    preset: options.Preset = None,
    target: options.Target = None,
    rounds: Annotated[
        int | None, typer.Option("--max-rounds", "--rounds", help="Total number of rounds.")
    ] = None,
    images_per_round: options.Images = None,
    session: Annotated[
        str | None, typer.Option(help="Name of the session; an existing one is continued.")
    ] = None,
    seed: options.Seed = None,
    brain: Annotated[
        str | None,
        typer.Option(help="What decides: policy:PLANNER, openai:MODEL, ollama:MODEL."),
    ] = None,
    baseline: options.Model = None,
    max_tokens: Annotated[
        int | None, typer.Option(help="Total number of tokens of a language model.")
    ] = None,
    max_usd: Annotated[
        float | None, typer.Option(help="Total cost of it in US dollars; needs llm.prices.")
    ] = None,
    max_hours: options.MaxHours = None,
    max_gpu_hours: options.MaxGpuHours = None,
    max_images: options.MaxImages = None,
    target_score: options.TargetScore = None,
    patience: options.Patience = None,
    interactive: Annotated[
        bool, typer.Option("--interactive", "-i", help="Let the agent ask you questions.")
    ] = False,
    detach: options.Detach = False,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Show settings, first plan and estimates; write nothing."),
    ] = False,
    on_finish: options.OnFinish = None,
    compute: Annotated[
        str | None,
        typer.Option(metavar="local|ray[:ADDRESS]", help="Where images are drawn and audited."),
    ] = None,
    memory_url: options.MemoryUrl = None,
    trust: options.Trust = False,
    home: options.Home = None,
    set_: options.Set = None,
) -> None:
    """Run a session, or continue it, until a limit is reached, and write its report.

    The same command continues a session that was killed or stopped. With --session, but without
    PRESET and --target, an existing session continues with its stored settings.
    """
    if not dry_run:
        _start(_settings_to_run(ctx), detach, interactive)
        return
    from agent.autonomous.dry_run import leave_no_home, show

    ctx.with_resource(leave_no_home(home_of(home)))
    try:
        settings = _settings_to_run(ctx)
    except NotPretrained as error:
        say(f"{error.notice}\n\nNo plan or estimate yet: {error.todo}")
    else:
        show(settings, console())


def _settings_to_run(ctx: typer.Context) -> Settings:
    """Return the settings of a new session, or of the one that `run` continues."""
    from agent.session.folder import has_session, stored_settings

    given = ctx.params
    name, is_new = given["session"], given["preset"] or given["target"]
    if name and not is_new and has_session(base := home_of(given["home"]), name):
        return continued(ctx, base, name)
    settings = resolve(ctx)
    settings = settings if given["dry_run"] else going_on(settings)
    name = settings.session.name
    if name and has_session(settings.home, name):
        confirm(settings, stored_settings(settings.home, name), name, given["trust"])
    return settings


@app.command()
def resume(
    ctx: typer.Context,
    name: options.Name = None,
    rounds: Annotated[
        int | None, typer.Option("--max-rounds", help="Total number of rounds.")
    ] = None,
    max_hours: options.MaxHours = None,
    max_gpu_hours: options.MaxGpuHours = None,
    max_images: options.MaxImages = None,
    target_score: options.TargetScore = None,
    patience: options.Patience = None,
    detach: options.Detach = False,
    on_finish: options.OnFinish = None,
    trust: options.Trust = False,
    take_over: Annotated[
        bool, typer.Option("--take-over", help="If the machine that ran the session is gone.")
    ] = False,
    home: options.Home = None,
    set_: options.Set = None,
) -> None:
    """Continue a session with its stored settings; changes that affect its results are refused."""
    from agent.session.control import take_over_from_other_host
    from agent.session.folder import folder_of

    base, name = session_of(home, name)
    settings = continued(ctx, base, name)
    if take_over:
        take_over_from_other_host(folder_of(base, name))
    _start(settings, detach)


@app.command()
def status(
    name: options.Name = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Update until it ends.")] = False,
    home: options.Home = None,
) -> None:
    """Show the round, stage, score and remaining budget of a session."""
    from agent.autonomous.status import read_status, table
    from eval.report.delivery import delivery_blocks
    from eval.report.terminal import draw, draw_table

    folder, name = session_of(home, name)
    current = read_status(folder, name)
    if not watch:
        console().print(draw_table(table(current)))
        if current.delivery:
            draw(console(), delivery_blocks(current.delivery))
        return
    from rich.live import Live

    with Live(draw_table(table(current)), console=console(), refresh_per_second=4) as live:
        while current.state in ("running", "paused", "stuck"):
            time.sleep(WATCH_EVERY_S)
            current = read_status(folder, name)
            live.update(draw_table(table(current)))


@app.command()
def stop(
    name: options.Name = None,
    now: Annotated[
        bool,
        typer.Option("--now", help="End within the current stage; a stuck process is killed."),
    ] = False,
    home: options.Home = None,
) -> None:
    """End a session after the current stage; `shaping resume` continues it."""
    from agent.session import control

    folder, running = _running(home, name)
    control.request(folder, "stop_now" if now else "stop")
    if not now:
        say(f"{folder.name} ends after the stage {running.stage!r}. To see when: shaping status -w")
        return
    deadline = time.monotonic() + PATIENCE_S
    while control.condition(folder).state in ("running", "paused"):
        if time.monotonic() > deadline:
            say(
                f"{folder.name} has not come to a safe point for {PATIENCE_S:.0f} s. It ends at "
                "the next one; finished work is kept."
            )
            return
        time.sleep(0.2)
    beat = control.read_heartbeat(folder)
    if control.condition(folder).state == "stuck" and beat:
        if not beat.holder.alive():
            raise SessionError(
                f"{folder.name} is stuck in process {beat.holder.pid} on {beat.holder.host}. End "
                "it there."
            )
        os.kill(beat.holder.pid, signal.SIGKILL)
        say(f"{folder.name} was stuck; process {beat.holder.pid} is killed.")
    say(f"{folder.name} has ended. To go on: shaping resume {folder.name}")


@app.command()
def pause(name: options.Name = None, home: options.Home = None) -> None:
    """Pause a session at its next safe point."""
    name = _request("pause", home, name)
    say(f"{name} waits at its next safe point. To go on: shaping continue {name}")


@app.command("continue")
def continue_(name: options.Name = None, home: options.Home = None) -> None:
    """Continue a paused session."""
    say(f"{_request('continue', home, name)} goes on.")


@app.command()
def sessions(home: options.Home = None) -> None:
    """List the sessions, the latest first."""
    from agent.session.folder import list_sessions

    folder = home_of(home)
    infos = list_sessions(folder)
    rows = [
        [
            info.name,
            info.data,
            f"{info.rounds_done}/{info.rounds}",
            "" if info.score is None else f"{info.score:.3f}",
            info.updated[:16].replace("T", " "),
            info.state,
        ]
        for info in infos
    ]
    if rows:
        say_table(["session", "data", "rounds", "score", "updated (UTC)", "state"], rows)
        if damaged := [info for info in infos if info.problem]:
            say(f"{len(damaged)} damaged:")
            for info in damaged:
                say(f"  {info.name}: {' '.join(info.problem.split())}")
    else:
        say(f"There are no sessions under {folder} yet. Start one with: shaping run")


@app.command()
def report(
    name: options.Name = None,
    home: options.Home = None,
) -> None:
    """Write the report of a session again."""
    from agent.autonomous.report import write_report

    say(f"Report: {write_report(*session_of(home, name))}")


@app.command()
def export(
    name: options.Name = None,
    format_: Annotated[
        Literal["imagefolder", "parquet", "coco", "webdataset"],
        typer.Option("--format", "-f", help="coco: for segmentation only."),
    ] = "parquet",
    output: Annotated[
        Path | None, typer.Option("--output", "-o", help="[default: export-NAME-FORMAT]")
    ] = None,
    home: options.Home = None,
) -> None:
    """Export the images of a session as a data set with a card; it loads with `datasets`."""
    from agent.autonomous.results import source_of
    from tools.data import export as exporting

    folder, name = session_of(home, name)
    place = output or Path(f"export-{name}-{format_}")
    n_images = exporting.export(source_of(folder, name), format_, place)
    say(f"{n_images} images of the session {name} in {place}")
    say("To load them: " + exporting.loading(format_, place))


def _start(settings: Settings, detach: bool, interactive: bool = False) -> None:
    """Run a session here and print its report's path, or start it in the background."""
    if detach:
        from agent.autonomous import detached

        begun = detached.start(settings)
        say(f"Session {begun.name} runs in the background (process {begun.pid}).")
        say(f"Log: {begun.log}")
        say(f"To watch it: shaping status {begun.name} --watch")
    else:
        from agent.autonomous import runner

        say(f"Report: {runner.run(settings, console(), interactive)}")


def _request(word: Literal["pause", "continue"], home: Path | None, name: str | None) -> str:
    """Send a request to a running session; return its name."""
    from agent.session import control

    folder, _ = _running(home, name)
    control.request(folder, word)
    return folder.name


def _running(home: Path | None, name: str | None) -> tuple[Path, Status]:
    """Return the folder and the status of a running session; raises SessionError for others."""
    from agent.autonomous.status import read_status
    from agent.session.folder import folder_of

    base, name = session_of(home, name)
    status = read_status(base, name)
    if status.state not in ("running", "paused", "stuck"):
        raise SessionError(
            f"The session {name!r} is not running: it is {status.state}. To go on: "
            f"shaping resume {name}"
        )
    return folder_of(base, name), status
