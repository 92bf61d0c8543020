"""Shared parts of benchmark commands: options, settings, resumable seeds, tables and CSV files."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table

from agent import planners
from agent.config.settings import fingerprint, load_settings
from agent.loop.components import Components
from agent.loop.validation import PlanRules, validate
from agent.planners import Observation
from benchmarks.machine import commit, machine
from memory.csv_text import write_csv
from memory.errors import SettingsError
from memory.files import write_json
from memory.records import PromptSpec, digest
from tools.data.samples import Samples, concatenate
from tools.generate_batch import draw
from tools.models.dstm_file import load_model, save_model
from tools.settings import TrainSettings
from tools.tasks import Model, Task
from tools.train_dstm import train_model

# Options that select which figures are computed without changing their values.
_EXTENT = ("seeds", "first_seed", "output", "set")
# Prompts per plan; the draft of a benchmark may have more and is split.
_PER_PLAN = 100


Figures = Mapping[str, Mapping[str, float]]
"""Figures of one seed by two names, e.g. of an arm and of a metric."""


def options(doc: str | None, preset: str = "solar", seeds: int = 3) -> argparse.ArgumentParser:
    """Return an argument parser with the options common to all benchmarks.

    Args:
        doc: Docstring of the module; its second paragraph is a command that names the module.
        preset: Default of --preset.
        seeds: Default of --seeds.
    """
    name = (doc or "").partition("benchmarks.")[2].split()[0]
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--preset", default=preset)
    parser.add_argument("--seeds", type=int, default=seeds, help="how many, from --first-seed on")
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE")
    output = Path(f"bench-{name}.csv")
    parser.add_argument(
        "--output", type=Path, default=output, help="CSV file; beside it a .json of each seed"
    )
    return parser


class Benchmark:
    """One run of a benchmark.

    Args:
        chosen: Options, as parsed by the parser of `options`.
        changes: "key=value" of settings, overridden by --set.
    """

    def __init__(self, chosen: argparse.Namespace, changes: Sequence[str] = ()) -> None:
        self.chosen = chosen
        self.settings = load_settings(chosen.preset, [*changes, *chosen.set], os.environ)
        self.components = Components(self.settings)
        self.console = Console(highlight=False)

    def seeds(self, compute: Callable[[int], Any]) -> list[Any]:
        """Return the figures of every seed, as JSON.

        Seeds that the same command has computed before are read from a JSON file beside --output.

        Args:
            compute: Returns the figures of a seed.

        Raises:
            SettingsError: The file holds figures of other options or settings.
        """
        path = self.chosen.output.with_suffix(".json")
        given = {k: str(v) for k, v in vars(self.chosen).items() if k not in _EXTENT}
        key = digest([fingerprint(self.settings), given])
        stored: dict[str, Any] = {"key": key, "seeds": {}}
        if path.exists():
            stored = json.loads(path.read_bytes())
        if stored.get("key") != key:
            raise SettingsError(
                f"{path} holds figures of other options or settings. Choose another file with "
                "--output, or move it away."
            )
        first = self.chosen.first_seed
        names = [str(seed) for seed in range(first, first + self.chosen.seeds)]
        for name in names:
            if name not in stored["seeds"]:
                stored["seeds"][name] = json.loads(json.dumps(compute(int(name))))
                write_json(path, stored)
                self.console.print(f"seed {name} done")
        return [stored["seeds"][name] for name in names]

    def table(self, columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
        """Print a table, and write it to --output with command, commit and machine."""
        shown = Table(*columns)
        cells = [[f"{c:.3f}" if isinstance(c, float) else str(c) for c in row] for row in rows]
        for row in cells:
            shown.add_row(*row)
        self.console.print(shown)
        stamp = origin(command(), self.components.device)
        head = [*columns, "command", "commit", "machine"]
        stamped = [[*row, *stamp] for row in cells]
        write_csv(self.chosen.output, head, stamped, line_end="\r\n")
        self.console.print(f"Table: {self.chosen.output}")

    def means(self, heads: Sequence[str], seeds: Sequence[Figures]) -> None:
        """Print and write the means over seeds of figures by two names.

        Args:
            heads: Column heads of the two names.
            seeds: Figures of each seed.
        """
        rows = []
        for first, values in seeds[0].items():
            for second in values:
                each = [figures[first].get(second, np.nan) for figures in seeds]
                per_seed = " ".join(f"{value:.3f}" for value in each)
                rows.append([first, second, float(np.mean(each)), per_seed])
        self.table([*heads, "mean", "per seed"], rows)


def uniform_prompts(
    components: Components, n_images: int, seed: int, number: int = 1
) -> list[tuple[PromptSpec, int]]:
    """Return the prompts of the planner `uniform` with an index for each image.

    Args:
        components: Components with target and generator.
        n_images: Total number of images.
        seed: Seed of the planner.
        number: Number of the planned round.
    """
    target, generator = components.target, components.bare_generator
    observation = Observation(
        round=number,
        n_images=n_images,
        images_per_prompt=components.settings.session.images_per_prompt,
        seed=seed,
    )
    draft = planners.build("uniform").plan(observation, components.distribution, target.vocabulary)
    rules = PlanRules(target.vocabulary, n_images, generator.count_tokens, generator.max_tokens)
    wanted = []
    for start in range(0, len(draft.prompts), _PER_PLAN):
        part = draft.prompts[start : start + _PER_PLAN]
        plan = validate(draft.model_copy(update={"prompts": part}), number + start, "bench", rules)
        wanted += [(prompt, index) for prompt in plan.prompts for index in range(prompt.count)]
    return wanted


def uniform_images(components: Components, n_images: int, seed: int) -> Samples:
    """Draw images of uniform prompts, with weights from the judge."""
    wanted, parts = uniform_prompts(components, n_images, seed), []
    size, names = components.settings.session.shard_size, components.target.class_names
    for start in range(0, len(wanted), size):
        piece = wanted[start : start + size]
        samples, confidence = draw(piece, seed, components.generator, names)
        _, weights, _ = components.judge.verify(samples, confidence)
        parts.append(replace(samples, weights=weights))
    return concatenate(parts)


def trained_once(
    folder: Path, samples: Samples, task: Task, n_classes: int, settings: TrainSettings, device: str
) -> Model:
    """Return the model in `folder`; train it on samples and save it if there is none."""
    if not (folder / "model.json").exists():
        model, _ = train_model(samples, task, n_classes, settings, device)
        save_model(folder, model, {"task": task.name})
    return load_model(folder, device)[0]


def origin(command: str, device: str = "cpu") -> tuple[str, str, str]:
    """Return the provenance of a table of figures: command, commit and machine."""
    return command, commit(), machine(device)


def command() -> str:
    """Return the running command, without options that name local folders."""
    module = Path(sys.argv[0]).stem
    words = shlex.join(["python", "-m", f"benchmarks.{module}", *sys.argv[1:]])
    return re.sub(r" --(?:output|home|source)[ =]\S+| --set home=\S+", "", words)
