"""Comparisons: planners, controls and brains as arms, over paired seeds at equal cost.

compare/NAME/  compare.json (settings)  compare.html  compare.csv
               seed-000/images/  scores/ (one per training)  ARM/round-1.json

Planners of one seed draw from one pool: the k-th image of a prompt cell (class and attributes) is
the same for all of them, made once, and none uses an image twice. A training that two arms share,
as in the first round, is done once. Every file is whole or absent, so the same command goes on.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import random
import re
import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, wait
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import Field

from agent import planners
from agent.observer import Observer
from agent.planners import Observation
from agent.planners._oracle import Oracle
from agent.planning import validate
from agent.pool import Lab, Pool, Trained, broken_cells
from agent.settings import Settings, differences, fingerprint
from eval.compare import REFERENCE, Score, score_report, summarise, to_csv
from eval.credit import credit
from eval.report.compare import Comparison, build_compare_html
from eval.slices import slice_table
from memory.errors import SettingsError, unknown
from memory.files import write_bytes, write_json
from memory.records import (
    Batch,
    Plan,
    PromptSpec,
    Record,
    Report,
    Round,
    digest,
)
from tools.generate import draw, prompt_quality
from tools.samples import Samples, concatenate

CONTROLS = ("real", "augment", "oversample", "shuffled", "oracle")
_OF_REAL_DATA = ("real", "augment", "oversample")
_SHUFFLED = "shuffled "
# Images that are drawn to see how long one takes.
N_TRIED = 8
# Rounds and images of `--budget small`: images are what is scarce, and the DSTM is trained as long
# as the preset says. With two fifths of the steps at half the batch the difference between planners
# was lost in what the DSTM had not learnt yet.
SMALL = (
    "session.rounds=3",
    "session.images_per_round=48",
    "session.images_per_prompt=2",
)


class Arms(Record):
    """What is compared: names of planners (with options), of controls, and brains."""

    planners: tuple[str, ...] = Field(min_length=1)
    controls: tuple[str, ...] = ()
    brains: tuple[str, ...] = ()

    def names(self) -> list[str]:
        """Return the arms' names, planners first; `shuffled` is that of the first but uniform."""
        first = next((p for p in self.planners if p != REFERENCE), self.planners[0])
        controls = [_SHUFFLED + first if name == "shuffled" else name for name in self.controls]
        return list(dict.fromkeys([*self.planners, *controls, *self.brains]))

    def check(self, broken: float) -> None:
        """Raise SettingsError for unknown names, before anything is computed."""
        for name in self.planners:
            planners.build(name)
        for name in self.controls:
            if name not in CONTROLS:
                raise SettingsError(unknown("control", name, CONTROLS))
        if self.brains and broken:
            raise SettingsError(
                "Brains draw images of their own, which --broken does not reach. Compare them "
                "without it, or compare planners."
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
    """How much there is to do, and how long one piece of it took."""

    n_trainings: int
    n_images: int
    train_s: float
    image_s: float

    @property
    def seconds(self) -> float:
        """Time of one process for all."""
        return self.n_trainings * self.train_s + self.n_images * self.image_s


def run_seed(work: Task, done: Callable[[], None] = lambda: None) -> None:
    """Run, or finish, all arms of a seed; `done` is called after each."""
    lab = Lab(work.settings)
    seed_folder = work.folder / f"seed-{work.seed:03d}"
    slices = work.settings.feedback.slices
    broken = broken_cells(lab.palette, slices, work.broken, work.seed)
    pool = Pool(lab, seed_folder / "images", work.seed, broken)
    for name in work.arms.names():
        folder = seed_folder / _slug(name)
        if not (folder / f"round-{work.settings.session.rounds}.json").exists():
            if name in work.arms.brains:
                _run_brain(work, name, folder)
            elif name in _OF_REAL_DATA:
                _run_real(work, lab, name, folder, broken)
            else:
                _run_planner(work, lab, pool, name, folder, broken)
        done()


def _run_planner(
    work: Task,
    lab: Lab,
    pool: Pool,
    name: str,
    folder: Path,
    broken: Sequence[dict[str, str]],
) -> None:
    """Run the rounds of a planner as a session does, without its graph and its journal."""
    session = work.settings.session
    past: list[Round] = []
    parts: list[Samples] = []
    taken: Counter[str] = Counter()
    sealed: Report | None = None
    for number in range(1, session.rounds + 1):
        path = folder / f"round-{number}.json"
        known = Entry.model_validate_json(path.read_bytes()) if path.exists() else None
        if known and known.round.plan:
            plan = known.round.plan
        else:
            observation = Observation(
                round=number,
                n_images=session.images_per_round,
                images_per_prompt=session.images_per_prompt,
                seed=work.seed,
                rounds=tuple(past),
            )
            plan = _plan(work, lab, name, observation, sealed, broken)
        images = pool.take(plan.prompts, taken)
        parts += images
        trained = _trained(folder.parent / "scores", lab, concatenate(parts), work.seed)
        sealed = trained.sealed
        batch = Batch(
            round=number,
            job_id=folder.name,
            shards=(),
            quality=tuple(
                prompt_quality(prompt.id, own.weights)
                for prompt, own in zip(plan.prompts, images, strict=True)
            ),
        )
        before = past[-1].report if past else None
        report = trained.feedback.model_copy(update={"round": number})
        past.append(
            Round(
                number=number,
                plan=plan,
                batch=batch,
                report=report,
                failures=trained.failures,
                credits=credit(plan, batch, before, report),
            )
        )
        n_images = sum(len(part) for part in parts)
        score = score_report(sealed, name, work.seed, number, n_images, broken)
        write_json(path, Entry(round=past[-1], score=score).to_json())


def _plan(
    work: Task,
    lab: Lab,
    name: str,
    observation: Observation,
    sealed: Report | None,
    broken: Sequence[dict[str, str]],
) -> Plan:
    """Return the plan of an arm, checked as in a session."""
    vocabulary = lab.target.vocabulary
    if name == "oracle":
        draft = Oracle(sealed, broken).plan(observation, lab.palette, vocabulary)
    else:
        if name.startswith(_SHUFFLED):
            rounds = tuple(shuffled(r, work.seed) for r in observation.rounds)
            observation = observation.model_copy(update={"rounds": rounds})
        planner = planners.build(name.removeprefix(_SHUFFLED))
        draft = planner.plan(observation, lab.palette, vocabulary)
    return validate(
        draft,
        observation.round,
        observation.n_images,
        name,
        vocabulary,
        lab.generator.count_tokens,
        lab.generator.max_tokens,
    )


def shuffled(past: Round, seed: int) -> Round:
    """Return a round whose report gives each slice the score of another; credits are left out."""
    if past.report is None:
        return past
    scores = list(past.report.slices)
    random.Random(f"shuffled {seed} {past.number}").shuffle(scores)
    slices = tuple(
        own.model_copy(update={"accuracy": other.accuracy, "n_correct": other.n_correct})
        for own, other in zip(past.report.slices, scores, strict=True)
    )
    report = past.report.model_copy(update={"slices": slices})
    return past.model_copy(update={"report": report, "failures": (), "credits": ()})


def _run_real(
    work: Task, lab: Lab, name: str, folder: Path, broken: Sequence[dict[str, str]]
) -> None:
    """Train on the real generator split: bare, augmented, or with rare slices drawn more often."""
    samples = lab.target.split("generator")
    if name == "oversample":
        table = slice_table(samples.attributes, work.settings.feedback.slices, 1)
        weights = np.zeros(len(samples))
        for members in table.values():
            weights[members] += 1 / len(members)
        samples = replace(samples, weights=weights)
    trained = lab.train(samples, work.seed, augment=name != "real")
    number = work.settings.session.rounds
    score = score_report(trained.sealed, name, work.seed, number, len(samples), broken)
    entry = Entry(round=Round(number=number, report=trained.feedback), score=score)
    write_json(folder / f"round-{number}.json", entry.to_json())


def _run_brain(work: Task, name: str, folder: Path) -> None:
    """Run a whole session of a brain, in a home and with a memory of its own."""
    from agent.autonomous import run_rounds
    from agent.session import open_session
    from agent.workbench import Workbench
    from tools.evaluate import read_sealed

    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "cache").exists():
        (home / "cache").symlink_to((work.settings.home / "cache").absolute())
    session = work.settings.session.model_copy(update={"seed": work.seed, "name": "arm"})
    settings = work.settings.model_copy(update={"home": home, "brain": name, "session": session})
    with open_session(settings, "arm") as opened:
        run_rounds(Workbench(opened, Observer()))
        rounds, sealed = opened.rounds(), read_sealed(opened.folder)
    n_images = 0
    for past, report in zip(rounds, sealed, strict=True):
        n_images += past.batch.n_made if past.batch else 0
        score = score_report(report, name, work.seed, past.number, n_images)
        write_json(folder / f"round-{past.number}.json", Entry(round=past, score=score).to_json())


def _trained(folder: Path, lab: Lab, samples: Samples, seed: int) -> Trained:
    """Train on samples, or return what a training on the same ones reached."""
    path = folder / f"{digest(list(samples.ids))}.json"
    if path.exists():
        return Trained.model_validate_json(path.read_bytes())
    trained = lab.train(samples, seed, lab.settings.dstm.augment)
    write_json(path, trained.to_json())
    return trained


def open_folder(settings: Settings, broken: float, name: str) -> Path:
    """Return the folder of a comparison; raises SettingsError when it was made otherwise."""
    folder = settings.home / "compare" / name
    path = folder / "compare.json"
    stored = {
        "fingerprint": digest([fingerprint(settings), settings.session.to_json(), broken]),
        "broken": broken,
        "settings": settings.model_dump(mode="json"),
    }
    if path.exists():
        known = json.loads(path.read_bytes())
        if known["fingerprint"] != stored["fingerprint"]:
            changed = differences(Settings.model_validate(known["settings"]), settings)
            if known["broken"] != broken:
                changed.append(f"--broken: {known['broken']} -> {broken}")
            raise SettingsError(
                f"The comparison {name!r} was made with other settings: {'; '.join(changed)}. "
                "Go on with its own, or choose another name with --name."
            )
    else:
        write_json(path, stored)
    return folder


def estimate(lab: Lab, arms: Arms, n_seeds: int) -> Estimated:
    """Measure an image and a training, and count the most that there can be of them."""
    session, n_steps = lab.settings.session, lab.settings.dstm.steps
    row = lab.palette.rows[0]
    text = lab.target.vocabulary.caption(row.attributes)
    spec = PromptSpec(id="estimate", text=text, class_name=row.class_name, count=N_TRIED)
    wanted = [(spec, index) for index in range(N_TRIED)]

    def drawn() -> Samples:
        samples, confidence = draw(wanted, 0, lab.generator, lab.target.class_names)
        lab.judge.judge(samples, confidence)
        return samples

    def seconds(work: Callable[[], object]) -> float:
        started = time.monotonic()
        work()
        return time.monotonic() - started

    # Both once before, so that what is loaded or made at the first use is not counted.
    samples = drawn()
    lab.train(samples, 0, True, steps=1)
    image_s = seconds(drawn) / N_TRIED
    one_s, some_s = (seconds(partial(lab.train, samples, 0, True, n)) for n in (1, 4))
    names = arms.names()
    n_of_real = sum(name in _OF_REAL_DATA for name in names)
    n_rounds = session.rounds * (len(names) - n_of_real)
    return Estimated(
        n_trainings=n_seeds * (n_rounds + n_of_real),
        n_images=n_seeds * n_rounds * session.images_per_round,
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
        preset=Path(settings.preset).stem,
        broken=broken,
        settings=settings.model_dump(mode="json", exclude={"home"}),
        scores=scores,
        summaries=summarise(scores),
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
