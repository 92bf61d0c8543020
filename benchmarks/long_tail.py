"""Designs A, C, E and G of docs/results/protocol.md: does shaping pay where photographs are rare?

    OMP_NUM_THREADS=1 python -m benchmarks.long_tail public --home FOLDER --seeds 0-9

`public`: the MTDM has seen 500 other photographs of each class. `tail`: the photographs of the
split generator alone. `conditions`: six of 40 groups, classes in a condition, are rare, and the
MTDM has seen 125 others of each. `solar`: two groups of solar cells are rare, and the MTDM is the
bundled one. `camvid`: photographs of streets (`--set target.options.path=FOLDER`) beside scenes of
a renderer; `real` is round 0. Run again, it goes on where it stopped. Figures of all seeds that
are complete are written to docs/results/long-tail-DESIGN.csv (by seed), -arms.csv (means) and
-differences.csv. Seeds of that file that are not run again are kept if their arms are the same.
"""

from __future__ import annotations

import argparse
import csv
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from rich.console import Console

from agent.config.settings import Settings, load_settings
from agent.experiments.arms import Arms
from agent.experiments.compare import Experiment
from agent.loop.components import Components
from benchmarks import fashion_mnist, solar_groups
from benchmarks.harness import command, origin
from eval.intervals import mean_interval, seeds_needed
from eval.report.text import estimate_text
from memory.csv_text import write_csv
from tools.pretraining.pretrain import pretrain
from tools.streets import CLASS_NAMES

PRESET = str(Path(__file__).with_name("fashion_mnist.yaml"))
RESULTS = Path(__file__).parents[1] / "docs" / "results"
# Designs for which no MTDM is trained: preset and changes.
PRESETS: Mapping[str, tuple[str, Sequence[str]]] = {
    "solar": (str(Path(__file__).with_name("solar_groups.yaml")), ()),
    "camvid": (
        "camvid",
        (
            "target.options.size=192x128",
            "generator.name=streets",
            "dstm.model=efficientnet_lite0",
            "dstm.backbone_rate=0.1",
            "dstm.batch_size=8",
            "session.rounds=1",
            "session.images_per_round=400",
        ),
    ),
}
DESIGNS = ("public", "tail", "conditions", *PRESETS)
PLANNERS = ("audited_failure", "uniform", "count", "expected_gain")
CONTROLS = ("real", "augment", "oversample", "logit_adjusted", "one_shot", "shuffled", "oracle")
OF_REAL = ("real", "augment", "oversample", "logit_adjusted")
FIGURES = ("all", "few", "many", "worst_five")
PRIMARY = {"conditions": "few", "solar": "few", "camvid": "few"}
_SHAPING = ("audited_failure", "learning_curve", "expected_gain")
PAIRS = (
    *((planner, other) for planner in (*_SHAPING, "uniform", "count") for other in OF_REAL),
    *((planner, "uniform") for planner in (*_SHAPING, "count", "oracle")),
    *(
        (planner, other)
        for planner in (*_SHAPING, "oracle")
        for other in ("count", f"one-shot {planner}", f"shuffled {planner}")
    ),
    ("learning_curve", "audited_failure"),
    ("oracle", "learning_curve"),
)
# An MTDM of a long tail samples rare classes more often; in other designs classes are balanced.
_EXPONENT = {"tail": 0.5}
_SLICES = {"conditions": "feedback.slices=[[class], [class, brightness, view]]"}
_GROUPS = {"conditions": fashion_mnist, "solar": solar_groups}
_EVERY = 250
# Number of classes with the fewest photographs (`few`), and with the most (`many`).
_N_FEW = 3

console = Console(highlight=False, soft_wrap=True)

Figures = Mapping[str, float]


class Groups(NamedTuple):
    """Keys of the slices that are averaged: all, and those with few and many photographs."""

    all: Sequence[str]
    few: Sequence[str]
    many: Sequence[str]


def groups_of(design: str, seed: int) -> Groups:
    """Return the slices of a design: its classes, or its classes in each condition.

    For CamVid: the IoUs of classes; `few` also has the slice of dusk.
    """
    if design == "camvid":
        ious = [f"iou {name}" for name in CLASS_NAMES]
        rare = [f"iou {name}" for name in ("pedestrian", "bicyclist")]
        return Groups(ious, [*rare, "light=dusk"], [key for key in ious if key not in rare])
    if design in _GROUPS:
        made_by = _GROUPS[design]
        keys, n = [*made_by.group_counts(seed)], made_by.N_RARE_GROUPS
        return Groups(keys, keys[-n:], keys[:-n])
    keys = [f"class={name}" for name in fashion_mnist.tail(seed)]
    return Groups(keys, keys[-_N_FEW:], keys[:_N_FEW])


def settings_of(
    design: str, home: Path, data: Path, generator: Path, overrides: Sequence[str]
) -> Settings:
    """Return the settings for a folder of photographs and the generator's weights."""
    places = (
        *([_SLICES[design]] if design in _SLICES else []),
        f"home={home}",
        f"target.options.path={data}",
        f"generator.weights={generator / 'pipeline'}",
    )
    return load_settings(PRESET, [*places, *overrides])


def train_generator(design: str, home: Path, data: Path) -> Path:
    """Train the MTDM on the photographs of `data`, or resume training; return its folder."""
    folder = home / f"mtdm-{data.name}"
    changes = [f"pretrain.class_sampling_exponent={_EXPONENT.get(design, 0.0)}"]
    settings = settings_of(design, home, data, folder, changes)

    def progress(step: int, loss: float, seconds: float) -> None:
        if step % _EVERY == 0:
            console.print(f"{data.name}: step {step}, loss {loss:.4f}, {seconds:.0f} s")

    pretrain(Components(settings).target, settings.pretrain, folder, progress=progress)
    return folder


def figures_of(
    path: Path, groups: Groups, number: int | None = None
) -> Iterator[tuple[str, Figures]]:
    """Yield the name and the figures of each arm in a round, from a compare-slices.csv.

    number: Number of the round; None: the last.
    """
    by_arm: dict[str, dict[int, dict[str, float]]] = defaultdict(lambda: defaultdict(dict))
    wanted = {*groups.all, *groups.few}
    with path.open(newline="", encoding="utf-8") as file:
        for row in csv.DictReader(file):
            if row["split"] == "test" and row["slice"] in wanted:
                by_arm[row["arm"]][int(row["round"])][row["slice"]] = float(row["score"])
    for arm, rounds in by_arm.items():
        score = rounds[max(rounds) if number is None else number]
        figures = {
            name: float(np.mean([score[key] for key in keys]))
            for name, keys in groups._asdict().items()
        }
        figures["worst_five"] = float(np.mean(sorted(score[key] for key in groups.all)[:5]))
        yield arm, figures


def write_results(
    kind: str, by_seed: Mapping[int, Mapping[str, Figures]], folder: Path = RESULTS
) -> None:
    """Write the figures of each seed, their means, and differences with 95% t-intervals."""
    stamp, shown = origin(command()), PRIMARY.get(kind.partition("-")[0], "worst_five")
    path, heads = folder / f"long-tail-{kind}.csv", ["command", "commit", "machine"]
    columns = ["seed", "arm", *FIGURES, *heads]
    rows = [
        [str(seed), arm, *(f"{values[name]:.4f}" for name in FIGURES), *stamp]
        for seed, arms in by_seed.items()
        for arm, values in arms.items()
    ]
    rows = sorted([*_kept_rows(path, columns, by_seed), *rows], key=lambda row: int(row[0]))
    _write(path, columns, rows)
    figures: dict[str, dict[str, Figures]] = defaultdict(dict)
    for seed, arm, *cells in rows:
        figures[seed][arm] = dict(zip(FIGURES, map(float, cells[: len(FIGURES)]), strict=True))
    seeds = [*figures.values()]
    n = str(len(seeds))
    means = []
    for arm in seeds[0]:
        estimates = [mean_interval([arms[arm][figure] for arms in seeds]) for figure in FIGURES]
        means.append([arm, *(f"{e.value:.3f}" for e in estimates), n, *stamp])
    _write(folder / f"long-tail-{kind}-arms.csv", ["arm", *FIGURES, "seeds", *heads], means)
    differences = []
    for arm, other in PAIRS:
        if arm not in seeds[0] or other not in seeds[0]:
            continue
        changes = [
            mean_interval([arms[arm][figure] - arms[other][figure] for arms in seeds])
            for figure in FIGURES
        ]
        cells = [f"{v:.3f}" for c in changes for v in (c.value, c.low, c.high)]
        primary = changes[FIGURES.index(shown)]
        differences.append([arm, other, *cells, str(seeds_needed(primary) or ""), n, *stamp])
        console.print(f"{shown}: {arm} minus {other} {estimate_text(primary, sign=True)}")
    of_figures = [f"{name}{end}" for name in FIGURES for end in ("", "_low", "_high")]
    columns = ["arm", "minus", *of_figures, "seeds_needed", "seeds", *heads]
    _write(folder / f"long-tail-{kind}-differences.csv", columns, differences)


def _kept_rows(
    path: Path, columns: Sequence[str], by_seed: Mapping[int, Mapping[str, Figures]]
) -> list[list[str]]:
    """Return the rows of a file whose seeds are not in `by_seed` and have the same arms."""
    stored: dict[int, list[list[str]]] = defaultdict(list)
    if path.exists():
        with path.open(newline="", encoding="utf-8") as file:
            for row in csv.DictReader(file):
                stored[int(row["seed"])].append([row[column] for column in columns])
    arms = [*next(iter(by_seed.values()))]
    of_others = {seed: rows for seed, rows in stored.items() if seed not in by_seed}
    return [row for rows in of_others.values() for row in rows if [r[1] for r in rows] == arms]


def _write(path: Path, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    write_csv(path, heads, rows, line_end="\r\n")
    console.print(f"Written: {path}")


def _folders(design: str, folder: Path, seed: int, source: Path) -> tuple[Path, Path]:
    """Return the folders of photographs for the MTDM and for the sessions of a seed."""
    if design == "conditions":
        public = fashion_mnist.write_public_conditions(folder, source)
        return public, fashion_mnist.write_conditions(folder, seed, source)
    data = fashion_mnist.write_tail(folder, seed, source)
    return fashion_mnist.write_public(folder, source) if design == "public" else data, data


def main() -> None:
    """Run the seeds and write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("design", choices=DESIGNS)
    parser.add_argument("--home", type=Path, required=True, help="for data, weights and images")
    parser.add_argument("--source", type=Path, default=fashion_mnist.SOURCE)
    parser.add_argument("--seeds", default="0-9", metavar="FIRST-LAST")
    parser.add_argument("--trainings", type=int, default=1, help="trainings averaged per figure")
    parser.add_argument("--planners", default=",".join(PLANNERS))
    parser.add_argument("--controls", default=",".join(CONTROLS))
    parser.add_argument("--name", default="", help="name of a variant of the design")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    parser.add_argument("--pretrain-only", action="store_true")
    chosen = parser.parse_args()
    first, _, last = chosen.seeds.partition("-")
    planners, controls = chosen.planners.split(","), [c for c in chosen.controls.split(",") if c]
    design = chosen.design
    kind = f"{design}-{chosen.name}" if chosen.name else design
    by_seed: dict[int, dict[str, Figures]] = {}
    for seed in range(int(first), int(last or first) + 1):
        if design in PRESETS:
            preset, changes = PRESETS[design]
            places = [f"home={chosen.home}"]
            places += [f"target.options.seed={seed}"] if design == "solar" else []
            settings = load_settings(preset, [*changes, *places, *chosen.set])
        else:
            source, data = _folders(design, chosen.home / "data", seed, chosen.source)
            weights = train_generator(design, chosen.home, source)
            if chosen.pretrain_only:
                continue
            settings = settings_of(design, chosen.home, data, weights, chosen.set)
        arms = Arms(planners=tuple(planners), controls=tuple(controls))
        name = f"long-tail-{kind}-{seed:03d}"
        experiment = Experiment.open(settings, name, arms, trainings=chosen.trainings)
        experiment.run_seed(seed)
        experiment.write_results(command())
        slices = experiment.folder / "compare-slices.csv"
        groups = groups_of(design, seed)
        by_seed[seed] = dict(figures_of(slices, groups))
        if design == "camvid":
            by_seed[seed]["real"] = next(figures_of(slices, groups, number=0))[1]
        write_results(kind, by_seed)


if __name__ == "__main__":
    main()
