"""`shaping compare`: planners, controls and brains over paired seeds at equal cost."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from agent.cli.commands import options
from agent.cli.commands.common import console, resolve, say, say_table

if TYPE_CHECKING:
    from agent.experiments.compare import Experiment
    from agent.loop.components import Components
    from eval.report.compare import Comparison
    from memory.records import Estimate

app = typer.Typer()


@app.command()
def compare(
    ctx: typer.Context,
    preset: options.Preset = None,
    target: options.Target = None,
    planners: Annotated[
        str, typer.Option(help="Arms, e.g. uniform,failure:floor=0.5:pull=entropy 0.03.")
    ] = "uniform,audited_failure,thompson",
    controls: Annotated[
        str,
        typer.Option(
            help="Any of real, augment, oversample, logit_adjusted, one_shot, shuffled, oracle."
        ),
    ] = "shuffled,oracle",
    brains: Annotated[str, typer.Option(help="Brains as arms, e.g. openai:MODEL.")] = "",
    seeds: Annotated[int, typer.Option(min=1, help="Paired seeds, from 0 on.")] = 6,
    budget: Annotated[
        Literal["small", "full"],
        typer.Option(help="small: minutes on two cores; full: the preset's own."),
    ] = "small",
    broken: Annotated[
        float, typer.Option(min=0, max=1, help="Share of prompt cells that draw wrong images.")
    ] = 0.0,
    trainings: Annotated[
        int, typer.Option(min=1, help="Trainings of each round, whose mean is its score.")
    ] = 1,
    pilot: Annotated[
        bool,
        typer.Option(
            "--pilot", help="Three seeds of uniform and oracle, to estimate the possible gain."
        ),
    ] = False,
    jobs: Annotated[int, typer.Option(min=1, help="Processes, of one thread each.")] = 2,
    name: Annotated[
        str | None, typer.Option(help="Name of the comparison. [default: PRESET or DATA]")
    ] = None,
    home: options.Home = None,
    set_: options.Set = None,
) -> None:
    """Compare planners, controls and brains at equal cost, or continue; write a page and tables."""
    from agent.experiments.arms import Arms
    from agent.experiments.compare import SMALL, Experiment
    from agent.loop.components import Components
    from agent.session import data_manifest
    from eval.compare import N_PILOT, ORACLE, REFERENCE

    if pilot:
        planners, controls, brains, seeds = REFERENCE, ORACLE, "", N_PILOT
    # With folds, arms of photographs alone would be evaluated on their training photographs.
    settings = resolve(ctx, "feedback.folds=null", first=SMALL if budget == "small" else ())
    components = Components(settings)
    arms = Arms(planners=_split(planners), controls=_split(controls), brains=_split(brains))
    arms.check(broken)
    stem = components.target.name if target else Path(preset or options.PRESET).stem
    name = name or (f"{stem}-broken" if broken else stem)
    experiment = Experiment.open(settings, name, arms, broken, trainings)
    say(components.target.notice)
    path, folder = settings.target.path, experiment.folder
    data_manifest.check_folder(folder, path, components.target, f"the comparison {name!r}")
    experiment.check(components)
    _run(experiment, components, seeds, jobs)
    page, comparison = experiment.write_results(_command(sys.argv[1:]))
    _print(comparison, pilot, seeds)
    say(f"Page: {page}")
    names = (f"compare{kind}.csv" for kind in ("", "-differences", "-seeds", "-slices"))
    say(f"Tables in {page.parent}: {', '.join(names)}")


def _run(experiment: Experiment, components: Components, seeds: int, jobs: int) -> None:
    """Print an estimate, and run all arms."""
    from agent.loop.observer import counted
    from eval.report.text import duration

    with counted(console(), "training what audits images", "steps") as report:
        components.train_judge(report)
    say("Measuring how long a training and an image take ...")
    left, n_arms = experiment.estimate(components, seeds), len(experiment.arms.names())
    say(
        f"{n_arms} arms, {seeds} seeds: at most {left.n_trainings} trainings of "
        f"{left.train_s:.1f} s and {left.n_images} images of {left.image_s:.2f} s, which takes "
        f"{duration(left.seconds / jobs)} with --jobs {jobs}. Stop it at any time; the same "
        "command continues."
    )
    with counted(console(), "done", "arms") as report:
        report(0, seeds * n_arms)
        experiment.run(range(seeds), jobs, lambda done: report(done, seeds * n_arms))


def _print(comparison: Comparison, pilot: bool, seeds: int) -> None:
    """Print the scores of arms and their differences."""
    from eval.compare import headroom
    from eval.intervals import seeds_needed

    rows = [
        [
            s.arm,
            f"{s.figures['average'].value:.3f}",
            f"{s.figures['worst_five'].value:.3f}",
            _change(s.differences.get("worst_five")),
            "" if s.gap_closed is None else f"{s.gap_closed.value:.2f}",
        ]
        for s in comparison.summaries
    ]
    say_table(["arm", "average", "worst five", "worst five against uniform", "gap closed"], rows)
    say(
        "On the sealed test photographs: average is the main figure, worst five the mean of the "
        "five worst slices; in brackets 95% intervals over seeds."
    )
    if pilot:
        say(headroom(comparison.summaries).text)
    if seeds == 1:
        say("One seed is not conclusive, since trainings vary. --seeds 3 adds two more.")
    if comparison.contrasts:
        rows = [
            [
                c.arm,
                c.other,
                *(_change(c.differences[f]) for f in ("average", "worst_five")),
                str(seeds_needed(c.differences["worst_five"]) or ""),
            ]
            for c in comparison.contrasts
        ]
        say_table(["arm", "against", "average", "worst five", "seeds to show it"], rows)
        say("Seeds to show it: for a worst-five difference of this size, with a power of 0.8.")


def _command(arguments: list[str]) -> str:
    """Return the command line without the local home folder."""
    homes = [i for i, word in enumerate(arguments) if word == "--home"]
    skipped = {*homes, *(i + 1 for i in homes)}
    kept = [
        word
        for i, word in enumerate(arguments)
        if i not in skipped and not word.startswith("--home=")
    ]
    return shlex.join(["shaping", *kept])


def _split(names: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in names.split(",") if name.strip())


def _change(difference: Estimate | None) -> str:
    from eval.report.text import estimate_text

    return estimate_text(difference, sign=True) if difference else ""
