"""Comparisons: planners, controls and brains as arms, over paired seeds at equal cost.

compare/NAME/  compare.json (settings)  compare.html  compare.csv
               seed-000/images/  models/ (one per training)
               seed-000/ARM/     round-1.json  home/ (its session)

The arms of planners and brains are sessions of their own, run by the loop. Planners of one seed
draw from one pool: the k-th image of a prompt cell (class and attributes) is the same for all of
them, made once, and none uses an image twice. A guided arm draws its own from the second round on,
of the same words and noise, pulled by its own DSTM. A training that two arms share, as in the first
round, is done once. Every file is whole or absent, so the same command goes on.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from agent.config.settings import Settings, differences, fingerprint
from agent.experiments.arms import OF_REAL_DATA, Arm, Arms, read_arm
from agent.experiments.pool import Pool, broken_cells
from agent.experiments.rounds import Outcome, fit, report, run_brain, run_planner
from agent.loop.components import Components
from eval.compare import Score, contrast, score_report, summarise, to_csv
from eval.report.compare import Comparison, build_compare_html
from eval.slices import slice_table
from memory.errors import SettingsError
from memory.files import write_bytes, write_json
from memory.records import PromptSpec, Record, Round, digest, read_pull
from tools.data.samples import Samples
from tools.generate_batch import draw
from tools.generators import accepts_feedback
from tools.models.criteria import require_classes

_OF_PRETRAINING = ("pretrain", "pretrain_target")
# Images that are drawn to see how long one takes.
N_TRIED = 8
# What a pulled image costs, relative to another (Askari Hemmat et al. 2025).
PULLED_COST = 1.82
# Rounds and images of `--budget small`: images are what is scarce, and the DSTM is trained as long
# as the preset says. With two fifths of the steps at half the batch the difference between planners
# was lost in what the DSTM had not learnt yet.
SMALL = (
    "session.rounds=3",
    "session.images_per_round=48",
    "session.images_per_prompt=2",
)


class Entry(Record):
    """One round of an arm, as stored."""

    round: Round
    score: Score


class Task(NamedTuple):
    """The work of one process: all arms with one seed."""

    settings: Settings
    folder: Path
    arms: Arms
    broken: float
    seed: int


class Estimated(NamedTuple):
    """How much there is to do, and how long one piece of it took; n_pulled: of the images."""

    n_trainings: int
    n_images: int
    n_pulled: int
    train_s: float
    image_s: float

    @property
    def seconds(self) -> float:
        """Time of one process for all."""
        n_drawn = self.n_images + (PULLED_COST - 1) * self.n_pulled
        return self.n_trainings * self.train_s + n_drawn * self.image_s


def run_seed(work: Task, done: Callable[[], None] = lambda: None) -> None:
    """Run, or finish, all arms of a seed; `done` is called after each."""
    components = Components(work.settings)
    seed_folder = work.folder / f"seed-{work.seed:03d}"
    slices = work.settings.feedback.slices
    broken = broken_cells(components.distribution, slices, work.broken, work.seed)
    pool = Pool(components, seed_folder / "images", work.seed, broken)
    for name in work.arms.names():
        folder = seed_folder / _slug(name)
        if not (folder / f"round-{work.settings.session.rounds}.json").exists():
            if name in OF_REAL_DATA:
                _run_real(work, components, name, folder, broken)
            elif name in work.arms.brains:
                _write(name, folder, work.seed, run_brain(work.settings, name, folder, work.seed))
            else:
                arm = _arm(work.settings, name)
                outcome = run_planner(components, pool, arm, folder, work.seed, broken)
                _write(name, folder, work.seed, outcome, broken)
        done()


def _write(
    name: str, folder: Path, seed: int, outcome: Outcome, broken: Sequence[dict[str, str]] = ()
) -> None:
    """Write the rounds of an arm with their scores on the test split."""
    n_images = 0
    for past, sealed in zip(outcome.rounds, outcome.sealed, strict=True):
        n_images += past.batch.n_made if past.batch else 0
        score = score_report(sealed, name, seed, past.number, n_images, broken)
        write_json(folder / f"round-{past.number}.json", Entry(round=past, score=score).to_json())


def _run_real(
    work: Task,
    components: Components,
    name: str,
    folder: Path,
    broken: Sequence[dict[str, str]],
) -> None:
    """Train on the real generator split: bare, augmented, or with rare slices drawn more often."""
    samples = components.target.split("generator")
    if name == "oversample":
        table = slice_table(samples.attributes, work.settings.feedback.slices, 1)
        weights = np.zeros(len(samples))
        for members in table.values():
            weights[members] += 1 / len(members)
        samples = replace(samples, weights=weights)
    dstm = fit(components, samples, work.seed, augment=name != "real")
    feedback, sealed = (report(components, dstm, split)[0] for split in ("feedback", "test"))
    number = work.settings.session.rounds
    score = score_report(sealed, name, work.seed, number, len(samples), broken)
    entry = Entry(round=Round(number=number, report=feedback), score=score)
    write_json(folder / f"round-{number}.json", entry.to_json())


def _arm(settings: Settings, name: str) -> Arm:
    return read_arm(name, settings.generator.pull, settings.feedback.trial or None)


def check_pulls(components: Components, arms: Arms, broken: float) -> None:
    """Raise SettingsError when arms are guided and cannot be, before anything is drawn."""
    guided = [arm for arm in _of_planners(components.settings, arms) if arm.pull]
    if not guided:
        return
    name = guided[0].name
    if broken:
        raise SettingsError(
            f"The arm {name!r} is pulled, and --broken has prompts draw something else. Compare "
            "guided arms without it."
        )
    if not accepts_feedback(components.generator):
        raise SettingsError(
            f"The arm {name!r} is pulled, but the generator {components.generator.name!r} cannot "
            "be. Choose a preset whose generator is an MTDM, such as solar or streets."
        )
    if any(read_pull(arm.pull)[0] == "entropy" for arm in guided if arm.pull):
        require_classes(components.task)


def _of_planners(settings: Settings, arms: Arms) -> list[Arm]:
    others = (*OF_REAL_DATA, *arms.brains)
    return [_arm(settings, name) for name in arms.names() if name not in others]


def open_folder(settings: Settings, broken: float, name: str) -> Path:
    """Return the folder of a comparison; raises SettingsError when it was made otherwise."""
    folder = settings.home / "compare" / name
    path = folder / "compare.json"
    stored = {
        "broken": broken,
        "settings": settings.model_dump(mode="json"),
    }
    if path.exists():
        known = json.loads(path.read_bytes())
        # Settings that have come or, of pretraining, have gone since then do no harm.
        kept = {k: v for k, v in known["settings"].items() if k not in _OF_PRETRAINING}
        before = Settings.model_validate(kept)
        if _meaning(before, known["broken"]) != _meaning(settings, broken):
            changed = differences(before, settings)
            if known["broken"] != broken:
                changed.append(f"--broken: {known['broken']} -> {broken}")
            raise SettingsError(
                f"The comparison {name!r} was made with other settings: {'; '.join(changed)}. "
                "Go on with its own, or choose another name with --name."
            )
    else:
        write_json(path, stored)
    return folder


def _meaning(settings: Settings, broken: float) -> str:
    # Arms say who plans, the settings do not.
    settings = settings.model_copy(update={"brain": ""})
    return digest([fingerprint(settings), settings.session.to_json(), broken])


def estimate(components: Components, arms: Arms, n_seeds: int) -> Estimated:
    """Measure an image and a training, and count the most that there can be of them."""
    session, n_steps = components.settings.session, components.settings.dstm.steps
    row = components.distribution.rows[0]
    text = components.target.vocabulary.caption(row.attributes)
    spec = PromptSpec(id="estimate", text=text, class_name=row.class_name, count=N_TRIED)
    wanted = [(spec, index) for index in range(N_TRIED)]

    def drawn() -> Samples:
        samples, confidence = draw(wanted, 0, components.generator, components.target.class_names)
        components.judge.verify(samples, confidence)
        return samples

    def seconds(work: Callable[[], object]) -> float:
        started = time.monotonic()
        work()
        return time.monotonic() - started

    # Both once before, so that what is loaded or made at the first use is not counted.
    samples = drawn()

    def train(n: int) -> None:
        dstm = fit(components, samples, 0, augment=True, steps=n)
        for split in ("feedback", "test"):
            report(components, dstm, split)

    train(1)
    image_s = seconds(drawn) / N_TRIED
    one_s, some_s = (seconds(partial(train, n)) for n in (1, 4))
    names = arms.names()
    n_of_real = sum(name in OF_REAL_DATA for name in names)
    n_rounds = session.rounds * (len(names) - n_of_real)
    n_guided = sum(arm.pull is not None for arm in _of_planners(components.settings, arms))
    return Estimated(
        n_trainings=n_seeds * (n_rounds + n_of_real),
        n_images=n_seeds * n_rounds * session.images_per_round,
        n_pulled=n_seeds * n_guided * (session.rounds - 1) * session.images_per_round,
        train_s=one_s + max(0.0, some_s - one_s) / 3 * (n_steps - 1),
        image_s=image_s,
    )


def run_all(
    settings: Settings,
    folder: Path,
    arms: Arms,
    broken: float,
    seeds: Sequence[int],
    jobs: int,
    done: Callable[[int], None],
) -> None:
    """Run all seeds, `jobs` at a time; `done` is told how many arms of seeds are there."""
    work = [Task(settings, folder, arms, broken, seed) for seed in seeds]
    if jobs == 1:
        for task in work:
            run_seed(task, lambda: done(n_done(folder, settings, arms, seeds)))
        return
    # One thread each: two busy threads on a shared core are slower than one.
    os.environ["OMP_NUM_THREADS"] = "1"
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, context, end_with_parent) as processes:
        waiting = {processes.submit(run_seed, task) for task in work}
        try:
            while waiting:
                finished, waiting = wait(waiting, timeout=2)
                for future in finished:
                    future.result()
                done(n_done(folder, settings, arms, seeds))
        except BaseException:
            processes.shutdown(wait=False, cancel_futures=True)
            raise


def end_with_parent() -> None:
    """Let this process end when the one that started it is gone, killed or not.

    What it was computing is computed again: files are whole or absent.
    """
    parent = multiprocessing.parent_process()

    def watch() -> None:
        if parent is not None:
            parent.join()
            os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def n_done(folder: Path, settings: Settings, arms: Arms, seeds: Sequence[int]) -> int:
    """Return how many arms of how many seeds have their last round."""
    last = f"round-{settings.session.rounds}.json"
    return sum(
        (folder / f"seed-{seed:03d}" / _slug(name) / last).exists()
        for seed in seeds
        for name in arms.names()
    )


def read_scores(folder: Path) -> list[Score]:
    """Return all scores of a comparison, those of earlier arms and seeds included."""
    paths = sorted(folder.glob("seed-*/*/round-*.json"))
    return [Entry.model_validate_json(path.read_bytes()).score for path in paths]


def write_results(
    settings: Settings, folder: Path, arms: Arms, broken: float, command: str
) -> tuple[Path, Comparison]:
    """Write compare.html and compare.csv; return the page's path and what it shows."""
    order = {name: number for number, name in enumerate(arms.names())}
    scores = sorted(read_scores(folder), key=lambda s: (order.get(s.arm, len(order)), s.arm))
    comparison = Comparison(
        # A user's own data all have one preset; the folder is called as they are.
        preset=folder.name if settings.target.path is not None else Path(settings.preset).stem,
        broken=broken,
        settings=settings.model_dump(mode="json", exclude={"home"}),
        scores=scores,
        summaries=summarise(scores),
        contrasts=contrast(scores, arms.pairs()),
        command=command,
    )
    write_bytes(folder / "compare.csv", to_csv(comparison.summaries).encode())
    page = folder / "compare.html"
    write_bytes(page, build_compare_html(comparison).encode())
    return page, comparison


def _slug(name: str) -> str:
    """Return an arm's name as the name of a folder; different arms never share one."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", name)
    return plain if plain == name else f"{plain}-{digest(name)[:6]}"
