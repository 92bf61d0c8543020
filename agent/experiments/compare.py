"""Comparisons: planners, controls and brains as arms, over paired seeds at equal cost.

compare/NAME/  compare.json (settings)  compare.html  compare.csv
               seed-000/images/  scores/ (one per training)  models/  ARM/round-1.json

Planners of one seed draw from one pool: the k-th image of a prompt cell (class and attributes) is
the same for all of them, made once, and none uses an image twice. A guided arm draws its own from
the second round on, of the same words and noise, pulled by its own DSTM. A training that two arms
share, as in the first round, is done once. Every file is whole or absent, so the same command goes
on.
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

from agent import planners
from agent.config.settings import Settings, differences, fingerprint
from agent.experiments.arms import OF_REAL_DATA, Arm, Arms, read_arm
from agent.experiments.oracle import Oracle
from agent.experiments.pool import Pool, Trained, broken_cells, judged_failures, load_critic, train
from agent.loop.components import Components
from agent.loop.observer import Observer
from agent.loop.trials import with_trials
from agent.loop.validation import validate
from agent.planners import Observation
from eval.compare import ORACLE, Score, contrast, score_report, summarise, to_csv
from eval.credit import credit
from eval.report.compare import Comparison, build_compare_html
from eval.slices import slice_table
from memory.errors import SettingsError
from memory.files import write_bytes, write_json
from memory.records import (
    Batch,
    Plan,
    PromptSpec,
    Record,
    Report,
    Round,
    digest,
    read_pull,
)
from tools.data.samples import Samples, concatenate
from tools.diffusion.guidance import Critic
from tools.generate_batch import draw, prompt_quality
from tools.generators import can_be_pulled
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
            if name in work.arms.brains:
                _run_brain(work, name, folder)
            elif name in OF_REAL_DATA:
                _run_real(work, components, name, folder, broken)
            else:
                _run_planner(work, components, pool, _arm(work.settings, name), folder, broken)
        done()


def _run_planner(
    work: Task,
    components: Components,
    pool: Pool,
    arm: Arm,
    folder: Path,
    broken: Sequence[dict[str, str]],
) -> None:
    """Run the rounds of a planner as a session does, without its graph and its journal."""
    session = work.settings.session
    scores = folder.parent / "scores"
    critic: Critic | None = None
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
            plan = _plan(components, arm, observation, sealed, broken)
        images = pool.take(plan.prompts, taken, critic)
        parts += images
        made = concatenate(parts)
        pulls_next = arm.pull is not None and number < session.rounds
        is_judged = arm.trial is not None
        keep = folder.parent / "models" / digest(list(made.ids))
        trained = _trained(
            scores, components, made, work.seed, keep if pulls_next or is_judged else None
        )
        critic = load_critic(components, keep) if pulls_next else None
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
        done = Round(
            number=number,
            plan=plan,
            batch=batch,
            report=report,
            failures=trained.failures,
            credits=credit(plan, batch, before, report),
        )
        if is_judged:
            failures = judged_failures(components, keep, done, images, past)
            done = done.model_copy(update={"failures": failures})
        past.append(done)
        score = score_report(sealed, arm.name, work.seed, number, len(made), broken)
        write_json(path, Entry(round=past[-1], score=score).to_json())


def _plan(
    components: Components,
    arm: Arm,
    observation: Observation,
    sealed: Report | None,
    broken: Sequence[dict[str, str]],
) -> Plan:
    """Return the plan of an arm, checked as in a session."""
    vocabulary = components.target.vocabulary
    rounds = observation.rounds
    if arm.feedback == "shuffled":
        rounds = tuple(shuffled(past, observation.seed) for past in rounds)
    elif arm.feedback == "first":
        rounds = rounds[:1]
    observation = observation.model_copy(update={"rounds": rounds})
    if arm.planner == ORACLE:
        draft = Oracle(sealed, broken).plan(observation, components.distribution, vocabulary)
    else:
        draft = planners.build(arm.planner).plan(observation, components.distribution, vocabulary)
        # What is told falsely or once only does not say what has been tried.
        if arm.feedback == "true" and arm.trial:
            draft = with_trials(draft, observation, components.distribution, vocabulary, arm.trial)
    return validate(
        draft,
        observation.round,
        observation.n_images,
        arm.name,
        vocabulary,
        components.generator.count_tokens,
        components.generator.max_tokens,
        pull=arm.pull,
        unpullable=None if rounds else "no DSTM has been trained yet",
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
    work: Task, components: Components, name: str, folder: Path, broken: Sequence[dict[str, str]]
) -> None:
    """Train on the real generator split: bare, augmented, or with rare slices drawn more often."""
    samples = components.target.split("generator")
    if name == "oversample":
        table = slice_table(samples.attributes, work.settings.feedback.slices, 1)
        weights = np.zeros(len(samples))
        for members in table.values():
            weights[members] += 1 / len(members)
        samples = replace(samples, weights=weights)
    trained = train(components, samples, work.seed, augment=name != "real")
    number = work.settings.session.rounds
    score = score_report(trained.sealed, name, work.seed, number, len(samples), broken)
    entry = Entry(round=Round(number=number, report=trained.feedback), score=score)
    write_json(folder / f"round-{number}.json", entry.to_json())


def _run_brain(work: Task, name: str, folder: Path) -> None:
    """Run a whole session of a brain, in a home and with a memory of its own."""
    from agent.autonomous.runner import run_rounds
    from agent.session.folder import open_session
    from tools.evaluate_real import read_sealed

    home = folder / "home"
    home.mkdir(parents=True, exist_ok=True)
    if not (home / "cache").exists():
        (home / "cache").symlink_to((work.settings.home / "cache").absolute())
    session = work.settings.session.model_copy(update={"seed": work.seed, "name": "arm"})
    settings = work.settings.model_copy(update={"home": home, "brain": name, "session": session})
    with open_session(settings, "arm") as opened:
        run_rounds(Components.of_session(opened, Observer()))
        rounds, sealed = opened.rounds(), read_sealed(opened.folder)
    n_images = 0
    for past, report in zip(rounds, sealed, strict=True):
        n_images += past.batch.n_made if past.batch else 0
        score = score_report(report, name, work.seed, past.number, n_images)
        write_json(folder / f"round-{past.number}.json", Entry(round=past, score=score).to_json())


def _trained(
    folder: Path, components: Components, samples: Samples, seed: int, keep: Path | None = None
) -> Trained:
    """Train on samples, or return what a training on the same ones reached.

    keep: folder that the model is to be in.
    """
    path = folder / f"{digest(list(samples.ids))}.json"
    if path.exists() and (keep is None or (keep / "model.json").exists()):
        return Trained.model_validate_json(path.read_bytes())
    trained = train(components, samples, seed, components.settings.dstm.augment, keep=keep)
    write_json(path, trained.to_json())
    return trained


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
    if not can_be_pulled(components.generator):
        raise SettingsError(
            f"The arm {name!r} is pulled, but the generator {components.generator.name!r} cannot "
            "be. Choose a preset whose generator is an MTDM, such as solar or streets."
        )
    task = components.task
    if any(read_pull(arm.pull)[0] == "entropy" for arm in guided if arm.pull):
        require_classes(task)


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
        components.judge.judge(samples, confidence)
        return samples

    def seconds(work: Callable[[], object]) -> float:
        started = time.monotonic()
        work()
        return time.monotonic() - started

    # Both once before, so that what is loaded or made at the first use is not counted.
    samples = drawn()
    train(components, samples, 0, True, steps=1)
    image_s = seconds(drawn) / N_TRIED
    one_s, some_s = (seconds(partial(train, components, samples, 0, True, n)) for n in (1, 4))
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
