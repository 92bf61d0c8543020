"""Comparisons: planners, controls and brains as arms, over paired seeds at equal cost.

compare/NAME/  compare.json (settings)  compare.html  compare*.csv
               seed-000/images/  models/ (one per training)
               seed-000/ARM/     round-1.json  home/ (its session)

The arms of planners and brains are sessions run by the loop. The planners of a seed share a pool of
images: the k-th image of a prompt cell (class and attributes) is the same for all of them and drawn
once, and no arm uses an image twice. A guided arm draws its own images from the second round on,
with the same texts and noise, guided by its DSTM. A training that two arms share, such as in the
first round, is run once. Files are written atomically, so the same command resumes a comparison.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agent.autonomous.dry_run import measure_speed
from agent.config.settings import Settings, differences, fingerprint
from agent.config.stored import read_stored
from agent.experiments.arm_sessions import (
    Measured,
    fit,
    report,
    run_brain,
    run_planner,
    seeds_of_trainings,
)
from agent.experiments.arms import OF_REAL_DATA, Arm, Arms, read_arm
from agent.experiments.image_cache import ImageCache, broken_cells
from agent.loop.components import Components
from eval.compare import (
    Score,
    SliceFigure,
    average_scores,
    contrast,
    score_report,
    seed_tables,
    slice_figures,
    summarise,
    summary_table,
)
from eval.report.compare import Comparison, Openings, build_compare_html
from eval.slices import slice_table
from memory.csv_text import write_csv
from memory.errors import SettingsError, ShapingError
from memory.files import write_bytes, write_json
from memory.records import PromptSpec, Record, Round, digest, read_pull
from memory.user_folders import refuse_foreign
from tools.generators import supports
from tools.models.criteria import require_classes

_OF_PRETRAINING = ("pretrain", "pretrain_target")
SLICE_COLUMNS = ("arm", "seed", "round", "split", "slice", "n", "score")
# Cost of a guided image relative to an unguided one (Askari Hemmat et al. 2025).
PULLED_COST = 1.82
# Rounds and images of `--budget small`: only the images are reduced, while the DSTM is trained as
# in the preset. With two fifths of the steps at half the batch size it was undertrained, which
# masked the differences between planners.
SMALL = (
    "session.rounds=3",
    "session.images_per_round=48",
    "session.images_per_prompt=2",
)


class ArmRound(Record):
    """The stored record of a round of an arm."""

    round: Round
    score: Score
    slices: tuple[SliceFigure, ...] = ()


class Workload(NamedTuple):
    """The work of a comparison, with measured times.

    Attributes:
        n_trainings: Upper bound of the number of trainings.
        n_images: Upper bound of the number of images to draw.
        n_pulled: Number of them that a DSTM guides.
        train_s: Seconds per training.
        image_s: Seconds per unguided image.
    """

    n_trainings: int
    n_images: int
    n_pulled: int
    train_s: float
    image_s: float

    @property
    def seconds(self) -> float:
        """Total time in a single process."""
        n_drawn = self.n_images + (PULLED_COST - 1) * self.n_pulled
        return self.n_trainings * self.train_s + n_drawn * self.image_s


@dataclass(frozen=True)
class Experiment:
    """A comparison of arms.

    Attributes:
        settings: Settings that all arms share.
        folder: HOME/compare/NAME.
        arms: The arms.
        broken: Share of the prompt cells for which the generator draws something else, 0..1.
        trainings: Number of trainings with different seeds that the score of a round averages.
    """

    settings: Settings
    folder: Path
    arms: Arms
    broken: float = 0.0
    trainings: int = 1

    @classmethod
    def open(
        cls, settings: Settings, name: str, arms: Arms, broken: float = 0.0, trainings: int = 1
    ) -> Experiment:
        """Create a comparison, or resume it.

        Raises:
            SettingsError: It was created with other settings that affect results.
        """
        folder = settings.home / "compare" / name
        path = folder / "compare.json"
        if not path.exists():
            refuse_foreign(folder, path.name, instead="--name")
            values = settings.model_dump(mode="json")
            write_json(path, {"broken": broken, "trainings": trainings, "settings": values})
            return cls(settings, folder, arms, broken, trainings)
        stored = json.loads(path.read_bytes())
        # Settings of pretraining have no effect here, and may have been removed since.
        kept = {k: v for k, v in stored["settings"].items() if k not in _OF_PRETRAINING}
        before = read_stored(kept)
        options = {"broken": broken, "trainings": trainings}
        changed = [
            f"--{key}: {old} -> {new}"
            for key, new in options.items()
            if (old := stored.get(key, 1)) != new
        ]
        if _meaning(before) != _meaning(settings) or changed:
            changed = [*differences(before, settings), *changed]
            raise SettingsError(
                f"The comparison {name!r} was made with other settings: {'; '.join(changed)}. "
                "Continue it with its own, or choose another name with --name."
            )
        of_real = [name for name in arms.controls if name in OF_REAL_DATA]
        if of_real and "train_on" not in stored["settings"]["dstm"]:
            raise SettingsError(
                f"The comparison {name!r} was made by an earlier version, whose controls "
                f"{', '.join(of_real)} learnt from fewer photographs. Continue it without them, "
                "or choose another name with --name."
            )
        return cls(settings, folder, arms, broken, trainings)

    def arm(self, name: str) -> Arm:
        """Return the arm of a planner by its name."""
        return read_arm(name, self.settings.generator.pull)

    def _guided(self) -> list[Arm]:
        others = (*OF_REAL_DATA, *self.arms.brains)
        arms = [self.arm(name) for name in self.arms.names() if name not in others]
        return [arm for arm in arms if arm.pull]

    def check(self, components: Components) -> None:
        """Raise SettingsError for arms that are incompatible with the settings."""
        if "logit_adjusted" in self.arms.controls and components.task.name != "classification":
            raise SettingsError(
                "The control 'logit_adjusted' needs classes of images, but the task is "
                f"{components.task.name!r}. Compare without it."
            )
        guided = self._guided()
        if not guided:
            return
        name = guided[0].name
        if self.broken:
            raise SettingsError(
                f"The arm {name!r} is pulled, and --broken has prompts draw something else. "
                "Compare guided arms without it."
            )
        if not supports(components.generator, "accepts_feedback"):
            raise SettingsError(
                f"The arm {name!r} is pulled, but the generator {components.generator.name!r} "
                "cannot be. Choose a preset whose generator is an MTDM, such as solar or streets."
            )
        if any(read_pull(arm.pull)[0] == "entropy" for arm in guided if arm.pull):
            require_classes(components.task)

    def estimate(self, components: Components, n_seeds: int) -> Workload:
        """Measure the time of an image and of a training, and bound their numbers."""
        session, n_steps = self.settings.session, self.settings.dstm.steps
        row = components.distribution.rows[0]
        text = components.target.vocabulary.caption(row.attributes)
        spec = PromptSpec(id="estimate", text=text, class_name=row.class_name, count=1)
        speed = measure_speed(components, [spec], components.judge)
        arms = self.arms.names()
        n_of_real = sum(name in OF_REAL_DATA for name in arms)
        n_rounds = session.rounds * (len(arms) - n_of_real)
        has_round_0 = self.settings.dstm.train_on != "synthetic"
        n_guided = len(self._guided()) * (session.rounds - 1)
        return Workload(
            n_trainings=n_seeds * self.trainings * (n_rounds + n_of_real + has_round_0),
            n_images=n_seeds * n_rounds * session.images_per_round,
            n_pulled=n_seeds * n_guided * session.images_per_round,
            train_s=speed.step_s * n_steps + speed.rest_s,
            image_s=speed.image_s,
        )

    def run(self, seeds: Sequence[int], jobs: int, done: Callable[[int], None]) -> None:
        """Run all seeds.

        Args:
            seeds: Seeds to run, or to finish.
            jobs: Number of processes.
            done: Called with the number of completed arms of these seeds.
        """
        if jobs == 1:
            for seed in seeds:
                self.run_seed(seed, lambda: done(self.n_done(seeds)))
            return
        run_in_processes(jobs, self.run_seed, seeds, lambda: done(self.n_done(seeds)))

    def run_seed(self, seed: int, done: Callable[[], None] = lambda: None) -> None:
        """Run, or finish, all arms of a seed; done: called after each arm."""
        components = Components(self.settings)
        folder = self.folder / f"seed-{seed:03d}"
        slices = self.settings.feedback.slices
        broken = broken_cells(components.distribution, slices, self.broken, seed)
        pool = ImageCache(components, folder / "images", seed, broken)
        for name in self.arms.names():
            place = folder / _slug(name)
            if not (place / self._last).exists():
                if name in OF_REAL_DATA:
                    outcome = self._on_real_data(components, name, seed)
                elif name in self.arms.brains:
                    outcome = run_brain(self.settings, name, place, seed, self.trainings)
                else:
                    arm = self.arm(name)
                    outcome = run_planner(components, pool, arm, place, self.trainings)
                for past, sealed, n_images in outcome:
                    scores = [
                        score_report(report, name, seed, past.number, n_images, broken)
                        for report in sealed
                    ]
                    of_feedback = [past.report] if past.report else []
                    figures = (*slice_figures(of_feedback), *slice_figures(sealed))
                    entry = ArmRound(round=past, score=average_scores(scores), slices=figures)
                    write_json(place / f"round-{past.number}.json", entry.to_json())
            done()

    def _on_real_data(self, components: Components, name: str, seed: int) -> list[Measured]:
        """Return the result of a control that is trained on the arms' photographs alone.

        The training is the same (real), with stronger augmentation, with rare slices sampled more
        often, or with the loss of Menon et al. (2021) in place of balanced sampling.
        """
        settings = self.settings.dstm
        samples = components.photographs(settings.real_images, seed)
        changes: dict[str, object] = {}
        if name == "augment":
            changes = {"augment": "strong"}
        if name == "logit_adjusted":
            tau = settings.logit_adjustment or 1.0
            changes = {"balance_classes": False, "logit_adjustment": tau}
        if name == "oversample":
            table = slice_table(samples.attributes, self.settings.feedback.slices, 1)
            weights = np.zeros(len(samples))
            for members in table.values():
                weights[members] += 1 / len(members)
            samples = replace(samples, weights=weights)
            if settings.logit_adjustment:
                changes = {"balance_classes": True, "logit_adjustment": 0.0}
        fitted = [
            fit(components, samples, of_training, np.ones(len(samples), bool), **changes)
            for of_training in seeds_of_trainings(seed, self.trainings)
        ]
        feedback = report(components, fitted[0], "feedback")[0]
        last = Round(number=self.settings.session.rounds, report=feedback)
        sealed = [report(components, dstm, "test")[0] for dstm in fitted]
        return [Measured(last, sealed, len(samples))]

    @property
    def _last(self) -> str:
        return f"round-{self.settings.session.rounds}.json"

    def n_done(self, seeds: Sequence[int]) -> int:
        """Return the number of completed arms, summed over the seeds."""
        return sum(
            (self.folder / f"seed-{seed:03d}" / _slug(name) / self._last).exists()
            for seed in seeds
            for name in self.arms.names()
        )

    def entries(self) -> list[ArmRound]:
        """Return the stored records of all rounds, including those of earlier arms and seeds."""
        paths = sorted(self.folder.glob("seed-*/*/round-*.json"))
        return [ArmRound.model_validate_json(path.read_bytes()) for path in paths]

    def write_results(self, command: str) -> tuple[Path, Comparison]:
        """Write the page and its tables; return the path of the page and its data.

        The files are compare.html, compare.csv (a row per arm), compare-differences.csv (per pair
        of arms and figure), compare-seeds.csv (per arm, seed and round) and compare-slices.csv (per
        arm, seed, round and slice).
        """
        order = {name: number for number, name in enumerate(self.arms.names())}
        entries = sorted(
            self.entries(), key=lambda e: (order.get(e.score.arm, len(order)), e.score.arm)
        )
        scores = [entry.score for entry in entries]
        settings, name = self.settings, self.folder.name
        comparison = Comparison(
            # All data sets of users share one preset, so the folder identifies them.
            preset=name if settings.target.path is not None else Path(settings.preset).stem,
            broken=self.broken,
            settings=settings.model_dump(mode="json", exclude={"home"}),
            scores=scores,
            summaries=summarise(scores),
            contrasts=contrast(scores, self.arms.pairs()),
            command=command,
            openings=openings(settings),
        )
        tables = {"": summary_table(comparison.summaries)}
        tables |= {f"-{kind}": table for kind, table in seed_tables(scores).items()}
        tables["-slices"] = [SLICE_COLUMNS, *(row for entry in entries for row in _rows(entry))]
        for kind, (heads, *rows) in tables.items():
            write_csv(self.folder / f"compare{kind}.csv", heads, rows)
        page = self.folder / "compare.html"
        write_bytes(page, build_compare_html(comparison).encode())
        return page, comparison


def openings(settings: Settings) -> Openings:
    """Return how often the comparisons of a home have measured on the target's sealed test.

    Deleted and unreadable comparisons are not counted.
    """
    compared = settings.target.model_dump(mode="json")
    measured = []
    for path in sorted((settings.home / "compare").glob("*/compare.json")):
        try:
            target = json.loads(path.read_bytes())["settings"]["target"]
        except (OSError, ValueError, KeyError, TypeError):
            continue
        if target == compared:
            measured.append(len([*path.parent.glob("seed-*/*/round-*.json")]))
    return Openings(n_comparisons=sum(n > 0 for n in measured), n_measured=sum(measured))


def _rows(entry: ArmRound) -> list[list[str]]:
    """Return the rows of compare-slices.csv for one round."""
    of_round = [entry.score.arm, str(entry.score.seed), str(entry.score.round)]
    return [[*of_round, s.split, s.slice, str(s.n), f"{s.score:.4f}"] for s in entry.slices]


def _meaning(settings: Settings) -> str:
    # The arms determine the planner, not the setting `brain`.
    settings = settings.model_copy(update={"brain": ""})
    return digest([fingerprint(settings), settings.session.to_json()])


def run_in_processes(
    jobs: int, run_seed: Callable[[int], None], seeds: Sequence[int], watch: Callable[[], None]
) -> None:
    """Run seeds in separate processes; watch: called every two seconds.

    Raises:
        ShapingError: A process was killed.
    """
    # One thread per process: two busy threads on a shared core are slower than one.
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, end_with_parent) as processes:
        waiting = {processes.submit(run_seed, seed) for seed in seeds}
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=2)
                for future in finished:
                    future.result()
                watch()
        except BrokenProcessPool:
            raise ShapingError(
                f"A process of the comparison was killed, perhaps for want of memory ({jobs} "
                "run at once). The same command goes on with what is left; a smaller --jobs needs "
                "less memory."
            ) from None
        except BaseException:
            processes.shutdown(wait=False, cancel_futures=True)
            raise


def end_with_parent() -> None:
    """Exit this process when its parent process ends or is killed.

    Files are written atomically, so interrupted work is repeated by the next run.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def _slug(name: str) -> str:
    """Return a folder name for an arm, unique for its name."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    return plain if plain == name else f"{plain}-{digest(name)[:6]}"
