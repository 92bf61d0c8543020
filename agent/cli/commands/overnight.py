"""`shaping status`, `stop`, `pause`, `continue`, `resume`: sessions that run on their own."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.commands.common import HomeOption, SetOption, console, continued, resolve, say
from memory.errors import SessionError

if TYPE_CHECKING:
    from agent.autonomous.status import Status
    from agent.config.settings import Settings

app = typer.Typer()

NameArgument = Annotated[
    str | None, typer.Argument(help="Name of the session. [default: the latest one]")
]
MaxHoursOption = Annotated[float | None, typer.Option(help="Hours of work in all, pauses apart.")]
MaxGpuHoursOption = Annotated[float | None, typer.Option(help="Hours with a GPU in all.")]
MaxImagesOption = Annotated[int | None, typer.Option(help="Images in all.")]
TargetScoreOption = Annotated[
    float | None, typer.Option(help="End when the main figure on feedback is as high as this.")
]
PatienceOption = Annotated[
    int | None, typer.Option(help="End after so many rounds without a better score.")
]
DetachOption = Annotated[
    bool, typer.Option("--detach", "-d", help="In the background; survives the terminal.")
]
OnFinishOption = Annotated[
    str | None,
    typer.Option(
        metavar="COMMAND",
        help="Run in a shell at the end, with $SESSION, $SESSION_FOLDER, $SESSION_REPORT and "
        "$SESSION_ENDED_BY.",
    ),
]
WATCH_EVERY_S = 1.0
# A process that has not ended after so long does not come to a safe point any more.
PATIENCE_S = 15.0


@app.command()
def status(
    name: NameArgument = None,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Go on until it ends.")] = False,
    home: HomeOption = None,
) -> None:
    """Show what a session does: round, stage, score, and what is left of its budget."""
    from agent.autonomous.status import read_status, table
    from agent.session.folder import latest
    from eval.report.terminal import draw_table

    folder = resolve(home=home).home
    name = name or latest(folder)
    found = read_status(folder, name)
    if not watch:
        console().print(draw_table(table(found)))
        return
    from rich.live import Live

    with Live(draw_table(table(found)), console=console(), refresh_per_second=4) as live:
        while found.state in ("running", "paused", "stuck"):
            time.sleep(WATCH_EVERY_S)
            found = read_status(folder, name)
            live.update(draw_table(table(found)))


@app.command()
def stop(
    name: NameArgument = None,
    now: Annotated[
        bool,
        typer.Option("--now", help="Within the stage in hand; a process that is stuck is killed."),
    ] = False,
    home: HomeOption = None,
) -> None:
    """End a session after the stage in hand; `shaping resume` goes on."""
    from agent.session import control

    folder, found = _running(resolve(home=home).home, name)
    control.request(folder, "stop_now" if now else "stop")
    if not now:
        say(f"{folder.name} ends after the stage {found.stage!r}. To see when: shaping status -w")
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
def pause(name: NameArgument = None, home: HomeOption = None) -> None:
    """Let a session wait at its next safe point."""
    from agent.session import control

    folder, _ = _running(resolve(home=home).home, name)
    control.request(folder, "pause")
    say(f"{folder.name} waits at its next safe point. To go on: shaping continue {folder.name}")


@app.command("continue")
def continue_(name: NameArgument = None, home: HomeOption = None) -> None:
    """Let a session that waits go on."""
    from agent.session import control

    folder, _ = _running(resolve(home=home).home, name)
    control.request(folder, "continue")
    say(f"{folder.name} goes on.")


@app.command()
def resume(
    name: NameArgument = None,
    max_rounds: Annotated[int | None, typer.Option(help="Rounds in all.")] = None,
    max_hours: MaxHoursOption = None,
    max_gpu_hours: MaxGpuHoursOption = None,
    max_images: MaxImagesOption = None,
    target_score: TargetScoreOption = None,
    patience: PatienceOption = None,
    detach: DetachOption = False,
    on_finish: OnFinishOption = None,
    home: HomeOption = None,
    set_: SetOption = None,
) -> None:
    """Go on with a session by its own settings; what changes its meaning is refused."""
    from agent.session.folder import latest

    folder = resolve(home=home).home
    options = {
        "session.rounds": max_rounds,
        "limits.max_hours": max_hours,
        "limits.max_gpu_hours": max_gpu_hours,
        "limits.max_images": max_images,
        "limits.target_score": target_score,
        "limits.patience": patience,
        "session.on_finish": on_finish,
    }
    start(continued(folder, name or latest(folder), set_, options), detach)


def start(settings: Settings, detach: bool, interactive: bool = False) -> None:
    """Run a session here or in the background, and say where its report is."""
    if detach:
        from agent.autonomous import detached

        begun = detached.start(settings)
        say(f"Session {begun.name} runs in the background (process {begun.pid}).")
        say(f"Log: {begun.log}")
        say(f"To see how it does: shaping status {begun.name} --watch")
    else:
        from agent.autonomous import runner

        say(f"Report: {runner.run(settings, console(), interactive)}")


def _running(home: Path, name: str | None) -> tuple[Path, Status]:
    """Return the folder and the status of a session; raises SessionError if nobody runs it."""
    from agent.autonomous.status import read_status
    from agent.session.folder import folder_of, latest

    name = name or latest(home)
    found = read_status(home, name)
    if found.state not in ("running", "paused", "stuck"):
        raise SessionError(
            f"The session {name!r} does not run: it is {found.state}. To go on: "
            f"shaping resume {name}"
        )
    return folder_of(home, name), found
