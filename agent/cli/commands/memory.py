"""`shaping memory`: search the memory of all sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.commands import options
from agent.cli.commands.common import note, resolve, say, say_table

if TYPE_CHECKING:
    from memory.chroma import MemoryIndex

app = typer.Typer()
memory = typer.Typer(no_args_is_help=True, help="Search what all sessions have learnt.")
app.add_typer(memory, name="memory")


@memory.command()
def search(
    ctx: typer.Context,
    query: Annotated[str, typer.Argument(help='E.g. "dark poly cell".')],
    n: Annotated[int, typer.Option("-n", min=1, help="Number of hits.")] = 5,
    kind: Annotated[str | None, typer.Option(help="prompt, failure or lesson.")] = None,
    only: Annotated[str | None, typer.Option("--target", help="Only of this target.")] = None,
    memory_url: options.MemoryUrl = None,
    home: options.Home = None,
) -> None:
    """Find the prompts, failures and lessons nearest in meaning to a text."""
    hits = _open(ctx).search(query, n=n, kind=kind, target=only)
    rows = [
        [f"{hit.similarity:.2f}", hit.item.kind, hit.item.session, hit.item.round, hit.item.text]
        for hit in hits
    ]
    if rows:
        say_table(["similarity", "kind", "session", "round", "text"], rows)
    else:
        say("Nothing is remembered that fits.")


@memory.command()
def stats(
    ctx: typer.Context, memory_url: options.MemoryUrl = None, home: options.Home = None
) -> None:
    """Show the number of items by kind, target and session."""
    rows: list[list[str]] = []
    for name, figure in _open(ctx).stats().items():
        counts = figure.items() if isinstance(figure, dict) else [("", figure)]
        rows.append([name, ", ".join(f"{key} {n}".strip() for key, n in counts)])
    say_table(["what", "figure"], rows)


@memory.command()
def reindex(
    ctx: typer.Context, memory_url: options.MemoryUrl = None, home: options.Home = None
) -> None:
    """Rebuild the index from the journals of all sessions."""
    from agent.session.folder import journals

    paths = journals(resolve(ctx).home)
    say(f"{_open(ctx).reindex(paths)} items from {len(paths)} sessions.")


def _open(ctx: typer.Context) -> MemoryIndex:
    from agent.session.folder import memory_of

    settings = resolve(ctx)
    # Chroma and the sentence encoder take seconds to load.
    note("Opening the memory ...")
    return memory_of(settings.home, say, settings.memory.url)
