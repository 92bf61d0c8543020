"""`shaping replay` and `fork`: step through, verify, re-plan or branch off a recorded session."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from agent.cli.commands import options
from agent.cli.commands.common import confirm, console, home_of, say, say_table
from memory.errors import SettingsError

if TYPE_CHECKING:
    from agent.replay.pooled import Pools, Scored
    from agent.replay.verify import Finding

app = typer.Typer()


@app.command()
def replay(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A session, or the path of a bundle or a session's folder. "
            "[default: the latest session]"
        ),
    ] = None,
    print_: Annotated[bool, typer.Option("--print", help="Print all steps and end.")] = False,
    verify: Annotated[
        bool,
        typer.Option(
            "--verify", help="Run it again without tools and models; compare every message."
        ),
    ] = False,
    rerun: Annotated[
        str | None,
        typer.Option(
            metavar="STAGES",
            help="With --verify: compute these again from the data on disk, e.g. evaluate,train.",
        ),
    ] = None,
    brain: Annotated[
        str | None,
        typer.Option(help="Show the plans of another brain, e.g. policy:uniform, openai:MODEL."),
    ] = None,
    from_: Annotated[int, typer.Option("--from", min=1, help="With --brain: first round.")] = 1,
    scores: Annotated[
        str | None,
        typer.Option(
            metavar="COMPARISON",
            help="With --brain: score both plans by trainings on images that this comparison has "
            "drawn.",
        ),
    ] = None,
    trust: options.Trust = False,
    home: options.Home = None,
) -> None:
    """Step through a recorded session, verify it, or ask another brain; no images are drawn.

    --verify exits with code 1 if the replay differs from the record.
    """
    from agent.replay.bundle import opened
    from agent.replay.viewer import open_recording, print_all, walk

    base = home_of(home)
    if rerun and not verify:
        raise SettingsError("--rerun requires --verify; add it.")
    if scores and not brain:
        raise SettingsError("--scores requires --brain; add it.")
    if (rerun or scores) and name and name.endswith(".zip"):
        option = "--rerun" if rerun else "--scores"
        raise SettingsError(f"{option} needs the images of a session; a bundle has none.")
    with opened(base, name) as folder:
        if verify:
            same = _verify(folder)
            if rerun:
                same = _rerun(folder, base, rerun, trust) and same
            if not same:
                raise typer.Exit(1)
        elif brain:
            _ask_instead(folder, base, brain, from_, scores)
        elif print_ or not sys.stdin.isatty():
            print_all(open_recording(folder), console())
        else:
            walk(open_recording(folder), console(), lambda: _read("> "))


def _ask_instead(folder: Path, home: Path, brain: str, start: int, scores: str | None) -> None:
    """Print the plans of another brain and, with a comparison in `scores`, scores of both plans."""
    from agent.replay.counterfactual import counterfactual
    from eval.report.text import number, signed
    from memory.journal import read_events, rounds, standing

    events = read_events(folder / "journal.jsonl", undone=True)
    pools = _pools(home, scores, folder) if scores else None
    past = rounds(standing(events)) if pools else []
    heads = ["round", "same images", "total variation", "prompts x images", "hypotheses"]
    heads += ["score"] if pools else []
    rows, agreements = [], []
    for decision in counterfactual(events, brain, start):
        plans, agreement = (decision.recorded, decision.plan), decision.agreement
        if agreement is None or decision.plan is None:
            problem = f"no legal plan: {decision.problem[:200]}"
            rows.append([decision.round, problem, *[""] * (len(heads) - 2)])
            continue
        agreements.append(agreement)
        distances = sorted(agreement.attributes.items(), key=lambda item: -item[1])
        sizes = zip(agreement.n_prompts, agreement.n_images, strict=True)
        hypotheses = [
            "none" if h is None else f"{h.slice} {signed(h.expected_change)}"
            for h in (plan.hypothesis if plan else None for plan in plans)
        ]
        row = [
            decision.round,
            number(agreement.overlap, 2),
            ", ".join(f"{name} {number(value, 2)}" for name, value in distances),
            " / ".join(f"{n}x{k}" for n, k in sizes),
            " / ".join(hypotheses),
        ]
        if pools:
            row.append(" / ".join(_score(pools.score(plan, past)) for plan in plans if plan))
        rows.append(row)
    say_table(heads, rows)
    if agreements:
        mean = sum(agreement.overlap for agreement in agreements) / len(agreements)
        slices = [a.same_slice for a in agreements if a.same_slice is not None]
        say(
            f"{brain} in place of the recorded brain, {len(agreements)} of {len(rows)} rounds with "
            f"a legal plan: on average {mean:.2f} of the images are the same"
            + (f", {sum(slices)} of {len(slices)} hypotheses name one slice." if slices else ".")
        )
    if pools:
        say(
            "Scores are on feedback photographs: a model trained on the session's earlier rounds "
            "and on images of the comparison for either plan, recorded / asked instead."
        )


def _pools(home: Path, comparison: str, folder: Path) -> Pools:
    from agent.replay.pooled import Pools
    from agent.session.folder import stored_settings

    return Pools(home, comparison, folder, stored_settings(home, folder.name))


def _score(scored: Scored) -> str:
    from eval.report.text import estimate_text

    if scored.score is None:
        return f"only {scored.held:.0%} drawn"
    return estimate_text(scored.score)


def _read(prompt: str) -> str:
    try:
        return input(prompt)
    except EOFError:
        return "q"


def _verify(folder: Path) -> bool:
    from agent.replay.verify import verify

    check = verify(folder / "journal.jsonl")
    done = (
        f"{check.session}: {check.n_rounds} rounds, {check.n_events} events, "
        f"{check.n_messages} messages and {check.n_calls} tool calls replayed, no tool executed"
    )
    for finding in check.findings:
        _print_finding(finding)
    for text in check.reworded:
        say(f"{text.place}: {text.what}; the session was run again with its own text.")
    for picture in check.pictures:
        say(f"{picture.place}, shown in {picture.what}.")
    if check.torn:
        say("The last line of the journal is unfinished, as after a crash; it was left out.")
    if check.findings:
        say(f"{done} up to there. NOT identical: {len(check.findings)} findings.")
        return False
    say(f"{done}. Identical{'' if check.ended else ', up to where the record ends'}.")
    return True


def _rerun(folder: Path, home: Path, stages: str, is_trusted: bool) -> bool:
    from agent.experiments.rerun import TOLERANCE, recorded_settings, rerun

    settings = recorded_settings(folder, home)
    confirm(settings, settings, folder.name, is_trusted)
    all_ok = True
    for result in rerun(folder, home, [name.strip() for name in stages.split(",")]):
        outcome = "bit for bit the same"
        if not result.same:
            outcome = f"differ by up to {result.difference:.2g} (tolerance {TOLERANCE:g})"
        if not result.same and not result.difference:
            outcome = "the same, but the weights differ"
        verdict = "" if result.ok else " TOO MUCH"
        say(f"round {result.round} {result.stage}: {result.figures} figures, {outcome}{verdict}")
        all_ok = all_ok and result.ok
    return all_ok


def _print_finding(finding: Finding) -> None:
    import difflib

    from rich.text import Text

    from prompts.printable import printable

    screen = console()
    screen.print(
        Text(f"{finding.place}: {printable(finding.what)}", style="bold red"), soft_wrap=True
    )
    recorded, replayed = (printable(t).splitlines() for t in (finding.recorded, finding.replayed))
    lines = difflib.unified_diff(recorded, replayed, "recorded", "replayed", n=1, lineterm="")
    for line in lines:
        style = {"-": "red", "+": "green", "@": "cyan"}.get(line[:1], "dim")
        screen.print(Text(line, style=style), soft_wrap=True)


@app.command()
def fork(
    name: Annotated[str, typer.Argument(help="The session to branch off.")],
    at: Annotated[int, typer.Option("--at", help="The first round that is planned anew.")],
    as_: Annotated[
        str | None, typer.Option("--as", help="Name of the new session. [default: NAME-atROUND]")
    ] = None,
    brain: Annotated[str | None, typer.Option(help="Brain from that round on.")] = None,
    home: options.Home = None,
    set_: options.Set = None,
) -> None:
    """Create a session that shares the earlier rounds of another one, without copying data."""
    from agent.session.fork import fork as make

    changes = [*(set_ or []), *([f"brain={brain}"] if brain else [])]
    new = make(home_of(home), name, at, as_, changes)
    say(f"{new} shares rounds 1 to {at - 1} with {name}. Go on with: shaping resume {new}")
