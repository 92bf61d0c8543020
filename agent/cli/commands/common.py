"""Helpers of all commands: settings and printing."""

from __future__ import annotations

import os
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich.console import Console

from agent.cli.commands.options import PRESET
from memory.errors import SettingsError

if TYPE_CHECKING:
    from agent.config.settings import Settings

QUOTES = "A path with blanks needs quotes: --target 'folder:PATH'."

# Settings by the names of the command parameters that set them.
SETTINGS = {
    "rounds": "session.rounds",
    "images_per_round": "session.images_per_round",
    "session": "session.name",
    "seed": "session.seed",
    "on_finish": "session.on_finish",
    "brain": "brain",
    "baseline": "session.baseline",
    "max_tokens": "llm.max_tokens",
    "max_usd": "llm.max_usd",
    "max_hours": "limits.max_hours",
    "max_gpu_hours": "limits.max_gpu_hours",
    "max_images": "limits.max_images",
    "target_score": "limits.target_score",
    "patience": "limits.patience",
    "compute": "compute.place",
    "memory_url": "memory.url",
    "home": "home",
}


def changes(ctx: typer.Context) -> list[str]:
    """Return the settings given to a command as "key=value": of --set, then of its options."""
    given = ctx.params
    options = [
        f"{SETTINGS[name]}={value}"
        for name, value in given.items()
        if name in SETTINGS and value is not None
    ]
    return [*(given.get("set_") or []), *options]


def resolve(
    ctx: typer.Context,
    *more: str,
    first: Sequence[str] = (),
    preset: str = PRESET,
    needs_weights: bool = True,
) -> Settings:
    """Resolve the settings of a command from its parameters `preset`, `target` and SETTINGS.

    Args:
        ctx: Context with the parameters of the command.
        more: Further "key=value" that override the parameters.
        first: Further "key=value" that the parameters override.
        preset: The default preset.
        needs_weights: Whether an MTDM must have been trained for a user's own data.
    """
    values = [*first, *changes(ctx), *more]
    given, target = ctx.params.get("preset"), ctx.params.get("target")
    return settings_of(given or (None if target else preset), values, target, needs_weights)


def settings_of(
    preset: str | None, values: Sequence[str], target: str | None = None, needs_weights: bool = True
) -> Settings:
    """Return the settings of a preset, or of a user's own data.

    Args:
        preset: A preset, or the path of a .yaml file; None: the default preset.
        values: Further settings as "key=value".
        target: A user's own data as NAME:PATH; None: those of the preset.
        needs_weights: Whether an MTDM must have been trained for a user's own data.

    Raises:
        SettingsError: Both a preset and data are given, or data in place of a preset.
    """
    from agent.config.settings import load_settings

    if target is None:
        _refuse_data(preset or PRESET)
        return _given(load_settings(preset or PRESET, values, os.environ))
    if preset is not None:
        raise SettingsError(
            f"--target {target} decides its settings itself, so the preset {preset!r} would not be "
            "used. Leave out the one or the other; single settings go with --set KEY=VALUE. "
            f"{QUOTES}"
        )
    from agent.loop.observer import counted
    from agent.loop.user_dataset import user_settings
    from tools.targets import reading

    with counted(console(), "reading", "photographs", every_s=5) as report:
        token = reading.set(report)
        try:
            return _given(user_settings(target, values, os.environ, needs_weights, _warn))
        finally:
            reading.reset(token)


def _given(settings: Settings) -> Settings:
    """Allow this process to import the code named in settings by its user; return the settings."""
    from agent.session import trust
    from tools import plugins

    plugins.allow(i.text for i in trust.instructions(settings) if i.kind == "code")
    return settings


def going_on(settings: Settings) -> Settings:
    """Return settings with the name of the unfinished session with the same settings, if any."""
    from agent.session.folder import unfinished

    name = None if settings.session.name else unfinished(settings)
    if not name:
        return settings
    say(f"Session {name} has not finished and goes on. For a new one: --session NAME")
    named = settings.session.model_copy(update={"name": name})
    return settings.model_copy(update={"session": named})


def home_of(home: Path | None) -> Path:
    """Return the home folder, from --home or the environment."""
    return settings_of(None, [f"home={home}"] if home else []).home


def session_of(home: Path | None, name: str | None) -> tuple[Path, str]:
    """Return the home folder, and the name of a session, by default of the latest one."""
    from agent.session.folder import latest

    folder = home_of(home)
    return folder, name or latest(folder)


def continued(ctx: typer.Context, home: Path, name: str) -> Settings:
    """Return the settings of an existing session, changed by the options of the command."""
    from agent.config.settings import with_changes
    from agent.session.folder import stored_settings

    given = [*changes(ctx), f"session.name={name}", f"home={home}"]
    stored = stored_settings(home, name)
    settings = with_changes(stored, given)
    confirm(settings, stored, name, ctx.params.get("trust", False))
    return settings


def confirm(settings: Settings, stored: Settings, name: str, is_trusted: bool = False) -> None:
    """Ask at a terminal before running commands and code that a foreign session folder names.

    Args:
        settings: Settings that will run.
        stored: Settings stored in the folder.
        name: Name of the session.
        is_trusted: Whether --trust was given, so that nothing is asked.

    Raises:
        UntrustedSession: The commands and code are not trusted.
    """
    from agent.session import trust

    untrusted = trust.untrusted(settings, stored)
    if untrusted and not is_trusted and sys.stdin.isatty():
        note(f"The session {name!r} runs commands or code that were not given on this machine:")
        note(trust.listed(untrusted))
        is_trusted = typer.confirm("Run it?", err=True)
    if not is_trusted:
        trust.check(settings, stored, name)
    trust.trust(settings)


def refuse_unknown(home: Path, name: str) -> None:
    """Raise SettingsError if a name is neither a session nor a preset."""
    from agent.config.settings import presets
    from agent.session.folder import list_sessions
    from memory.errors import unknown

    names = list(presets())
    if name in names or ":" in name or "/" in name or Path(name).exists() or "." in name:
        return  # a preset, or reported when it is read
    raise SettingsError(
        unknown("session or preset", name, [*names, *(info.name for info in list_sessions(home))])
    )


def _refuse_data(preset: str) -> None:
    """Raise SettingsError if data are given in place of a preset."""
    kind, colon, _ = preset.partition(":")
    if colon:
        from agent.loop.user_dataset import PRESETS

        if kind in PRESETS:
            raise SettingsError(
                f"{preset!r} is no preset; say where your data are by "
                f"--target {shlex.quote(preset)}."
            )
    elif Path(preset).expanduser().is_dir():
        from agent.config.settings import presets

        if preset not in presets():
            raise SettingsError(
                f"{preset!r} is a folder, no preset. If your data lie there, say "
                f"--target {shlex.quote(f'folder:{preset}')}."
            )


def _warn(message: str) -> None:
    complain("Warning:", message)


def console() -> Console:
    """Return a console on standard output without highlighting."""
    return Console(highlight=False)


def say(text: str) -> None:
    """Print a line without markup."""
    # Not wrapped, so that paths can be copied or piped.
    console().print(text, soft_wrap=True, markup=False)


def say_table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a table."""
    from eval.report.blocks import Table
    from eval.report.terminal import draw

    draw(console(), [Table(columns, [[str(cell) for cell in row] for row in rows])])


def note(text: str) -> None:
    """Print a progress message to standard error, so that a pipe receives only the result."""
    Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


def complain(head: str, message: str) -> None:
    """Print a message with a bold red head to standard error."""
    stderr = Console(stderr=True, highlight=False)
    stderr.print(head, style="bold red", end=" ")
    stderr.print(message, markup=False, soft_wrap=True)
