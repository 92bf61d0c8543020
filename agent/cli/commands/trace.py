"""`shaping trace`, `diff` and `bundle`: export, compare and share recorded sessions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.commands import options
from agent.cli.commands.common import console, home_of, say, say_table
from memory.errors import SettingsError

if TYPE_CHECKING:
    from eval.evidence import BrainStatistics

app = typer.Typer()


@app.command()
def trace(
    names: Annotated[list[str], typer.Argument(help="Sessions.")],
    to: Annotated[
        str | None,
        typer.Option(
            "--to",
            metavar="FORMAT",
            help="Write tables: csv, parquet, duckdb; or spans (OpenTelemetry): otlp.",
        ),
    ] = None,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="Folder of the files of --to.")
    ] = Path("trace"),
    endpoint: Annotated[
        str | None,
        typer.Option(
            metavar="URL", help="Send spans to a collector, e.g. http://127.0.0.1:6006 (Phoenix)."
        ),
    ] = None,
    report: Annotated[
        Path | None, typer.Option(dir_okay=False, help="Write an HTML page about all sessions.")
    ] = None,
    home: options.Home = None,
) -> None:
    """Export sessions as tidy tables, spans, or a page; otherwise print a summary."""
    from agent.replay import trace as tracing
    from eval.evidence import evidence

    folder = home_of(home)
    if to == "otlp" or endpoint:
        _spans(folder, names, output / "spans.jsonl" if to == "otlp" else None, endpoint)
    tables = tracing.collect(folder, names)
    if to and to != "otlp":
        for path in tracing.write_tables(tables, to, output):
            say(f"Table: {path}")
    if report:
        tracing.write_page(folder, names, report)
        say(f"Page: {report}")
    if to or report or endpoint:
        return
    columns = ["session", "brain", "rounds", "legal", "fallbacks", "held", "tokens", "s", "score"]
    say_table(columns, [_row(brain) for brain in evidence(tables).brains])
    if steps := tracing.decider_rows(tables):
        say_table(["session", "round", "images", "draft", "decided by"], steps)
    if rows := tables["likeness"]:
        share = [[f"{row[name]:.0%}" for name in ("coverage", "expected_coverage")] for row in rows]
        say_table(
            ["session", "images of", "n", "share of its photographs covered", "by photographs"],
            [
                [r["session"], r["slice"], r["n_images"], *s]
                for r, s in zip(rows, share, strict=True)
            ],
        )


def _row(brain: BrainStatistics) -> list[object]:
    from eval.report.text import number

    n_held = round(brain.held.value * brain.n_settled) if brain.held else None
    return [
        brain.session,
        brain.brain,
        brain.n_rounds,
        number(brain.legal.value, 2) if brain.legal else "-",
        brain.n_fallbacks,
        "-" if n_held is None else f"{n_held} of {brain.n_settled}",
        f"{brain.tokens_per_decision:.0f}",
        number(brain.seconds_per_decision, 2),
        "-" if brain.last_score is None else number(brain.last_score),
    ]


def _spans(home: Path, names: list[str], path: Path | None, endpoint: str | None) -> None:
    from agent.replay.otlp import send_spans, write_spans
    from agent.replay.spans import spans
    from agent.replay.trace import read_session

    all_spans = [span for name in names for span in spans(read_session(home, name))]
    if path:
        write_spans(all_spans, path)
        say(f"Spans: {path} ({len(all_spans)})")
    if endpoint:
        send_spans(all_spans, endpoint)
        say(f"Sent {len(all_spans)} spans to {endpoint}")


@app.command()
def diff(
    one: Annotated[str, typer.Argument(metavar="A", help="A session.")],
    other: Annotated[str, typer.Argument(metavar="B", help="Another session.")],
    home: options.Home = None,
) -> None:
    """Compare two sessions: settings, plans, figures, costs, and where they diverge."""
    if one == other:
        raise SettingsError(f"{one!r} is given twice; name two sessions.")
    from agent.replay.diff import COLUMNS, compare_sessions

    difference = compare_sessions(home_of(home), one, other)
    say(f"A: {one}   B: {other}")
    for line in difference.settings or ["The settings are the same."]:
        say(f"  {line}")
    say_table(COLUMNS, difference.rows)
    say_table(["in all", "A", "B"], difference.totals)
    console().print(difference.parts)


@app.command()
def bundle(
    name: Annotated[str, typer.Argument(help="A session.")],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", dir_okay=False, help="[default: NAME.zip]"),
    ] = None,
    weights: Annotated[bool, typer.Option("--weights", help="Also the trained models.")] = False,
    home: options.Home = None,
) -> None:
    """Pack a session into one file to share: journal, settings, pictures, report."""
    from agent.replay.bundle import bundle as pack

    path = output or Path(f"{name}.zip")
    if path.suffix != ".zip":
        raise SettingsError(f"A bundle is a .zip file, but {path.name!r} does not end in .zip.")
    n_bytes = pack(home_of(home), name, path, weights)
    say(f"Bundle: {path} ({n_bytes / 1e6:.1f} MB). Look at it with: shaping replay {path}")
