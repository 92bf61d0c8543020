"""Sessions of arms: run by the loop, with images from a shared pool and without a memory.

An arm of a planner or a brain is a session in a home of its own, run by the loop itself. This
module defines the differences: the planner and the observation it is shown, the source of images,
and that failures are not judged fixable or not.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from agent import planners
from agent.autonomous.runner import run_rounds
from agent.brains import planner_brain
from agent.brains.policy import PlannerBrain
from agent.config.settings import Settings
from agent.experiments.arms import Arm
from agent.experiments.image_cache import ImageCache, cell_of
from agent.loop.components import Components
from agent.loop.live_effects import LiveEffects
from agent.loop.observer import Observer
from agent.planners import AttributeDistribution, Observation, PlanDraft, Planner
from agent.planners.audited_failure import audited_shares
from agent.planners.count import Count
from agent.planners.slices import SlicePlanner, errors
from agent.session.folder import Session, open_session
from eval.compare import ORACLE
from memory.events import Event
from memory.files import make_folder, write_bytes, write_json
from memory.items import MemoryItem, SearchHit
from memory.records import Failure, Plan, PromptSpec, Report, Round, SliceScore, Training, digest
from prompts.vocabulary import Vocabulary
from tools.data.jobs import round_folder, shards_of, write_missing
from tools.data.samples import Pool
from tools.data.selected import choices, read_choice
from tools.data.shards import write_shard
from tools.data.stored_images import contents
from tools.evaluate_real import read_sealed
from tools.generate_batch import ShardSpec
from tools.inspect_failures import inspect
from tools.models.criteria import Dstm
from tools.tasks import Slicing
from tools.train_dstm import train_model


def oracle(sealed: Report | None, floor: float = 0.4) -> SlicePlanner:
    """Return a planner that allocates like `audited_failure`, from errors on the sealed test.

    For comparisons only: sessions cannot choose it, since it uses the sealed test.

    Args:
        sealed: Report on the test split of the previous round; None in the first round.
        floor: Share of the budget that is spread evenly, 0..1.
    """

    def shares(observation: Observation, slices: Sequence[SliceScore]) -> dict[str, float]:
        return audited_shares(errors(slices), {s.key: 1.0 for s in slices}, sharpness=1.5)

    return SlicePlanner(ORACLE, shares, Count(), floor, report=lambda rounds: sealed)


def without_cells(
    distribution: AttributeDistribution, cells: Collection[dict[str, str]]
) -> AttributeDistribution:
    """Return a distribution without some cells; unchanged if no row would be left."""
    rows = tuple(
        row
        for row in distribution.rows
        if not any(cell.items() <= row.attributes.items() for cell in cells)
    )
    return distribution.model_copy(update={"rows": rows or distribution.rows})


NAME = "arm"
_MODEL = ("model.safetensors", "model.json")


class Measured(NamedTuple):
    """A measured round of an arm.

    Attributes:
        round: The round.
        sealed: Reports on the sealed test split, one for each training.
        n_images: Number of images of the arm up to this round.
    """

    round: Round
    sealed: Sequence[Report]
    n_images: int


class ArmPlanner:
    """The planner of an arm, which modifies the observation as the arm defines.

    Args:
        arm: Defines the planner and its feedback.
        sealed: Returns the reports on the test split so far; used by the oracle only.
        broken: Attributes of cells that draw something else; used by the oracle only.
    """

    def __init__(
        self, arm: Arm, sealed: Callable[[], Sequence[Report]], broken: Collection[dict[str, str]]
    ) -> None:
        self.name = arm.planner
        self._arm, self._sealed, self._broken = arm, sealed, broken

    def plan(
        self, observation: Observation, distribution: AttributeDistribution, vocabulary: Vocabulary
    ) -> PlanDraft:
        """Return the draft of a round."""
        rounds = observation.rounds
        if self._arm.feedback == "shuffled":
            rounds = tuple(shuffled(past, observation.seed) for past in rounds)
        elif self._arm.feedback == "first":
            rounds = rounds[:1]
        planner: Planner
        if self.name == ORACLE:
            planner = oracle((None, *self._sealed())[-1])
            distribution = without_cells(distribution, self._broken)
        else:
            planner = planners.build(self.name)
        seen = observation.model_copy(update={"rounds": rounds})
        return planner.plan(seen, distribution, vocabulary)


def shuffled(past: Round, seed: int) -> Round:
    """Return a round whose report has the scores permuted over slices, without credits."""
    if past.report is None:
        return past
    scores = list(past.report.slices)
    random.Random(f"shuffled {seed} {past.number}").shuffle(scores)
    slices = tuple(
        score.model_copy(update={"accuracy": other.accuracy, "n_correct": other.n_correct})
        for score, other in zip(past.report.slices, scores, strict=True)
    )
    report = past.report.model_copy(update={"slices": slices})
    return past.model_copy(update={"report": report, "failures": (), "credits": ()})


@dataclass(frozen=True)
class CachedShards:
    """A shard executor that takes images from a pool instead of drawing them.

    Attributes:
        pool: The images of the seed.
        session: The session of the arm, whose earlier rounds have used some of them.
    """

    pool: ImageCache
    session: Session

    def write_missing(
        self, paths: Sequence[Path], spec: ShardSpec, done: Callable[[int], None]
    ) -> None:
        """Create those of `paths` that do not exist; done: called with the number of shards."""
        taken: Counter[str] = Counter()
        for past in self.session.rounds():
            if past.plan and past.number < self.session.control.round:
                for prompt in past.plan.prompts:
                    taken[cell_of(prompt)] += prompt.count
        prompts: dict[str, PromptSpec] = {p.id: p for piece in spec.pieces for p, _ in piece}
        images = self.pool.take([*prompts.values()], taken, spec.critic)
        starts = [0, *accumulate(map(len, spec.pieces))]

        def make(number: int) -> bytes:
            piece = spec.pieces[number]
            return write_shard(
                images.take(range(starts[number], starts[number + 1])),
                [prompt.text for prompt, _ in piece],
                [prompt.id for prompt, _ in piece],
                [index for _, index in piece],
                spec.class_names,
            )

        write_missing(paths, make, done)


class ArmEffects(LiveEffects):
    """Effects of an arm: trainings shared with other arms, no memory, failures not judged.

    Everything else is inherited from a live session, so that an arm measures what a user would get.

    Args:
        components: Components of the arm's session, with an executor that uses the pool.
        models: Folder of the seed's trainings.
    """

    def __init__(self, components: Components, models: Path) -> None:
        super().__init__(components)
        self._models = models

    def recall(
        self, round_number: int, query: str
    ) -> tuple[Sequence[MemoryItem], Sequence[SearchHit]]:
        """Return no items, since an arm has no memory."""
        return (), ()

    def search(self, key: str, query: str, n: int) -> str:
        """Return the message that there is no memory."""
        return "There is no memory."

    def _similar(self, plan: Plan) -> dict[str, list[SearchHit]]:
        return {}

    def remember(self, events: Sequence[Event]) -> None:
        """Do nothing, since an arm has no memory."""

    def train(self, number: int) -> Training:
        """Train, or copy the model of another arm that was trained on the same images."""
        folder = self._session.folder
        settings = self._session.settings
        is_given = number == 0 and settings.session.baseline is not None
        if is_given or settings.selection.method != "all":
            return super().train(number)
        shards = [folder / shard for shard in self._all_shards(number)]
        shared = self._models / _key(*self._components.learnt_from(shards))
        place = round_folder(folder, number)
        if (shared / "training.json").exists() and not (place / "model.json").exists():
            training = Training.model_validate_json((shared / "training.json").read_bytes())
            for name in _MODEL:
                write_bytes(place / name, (shared / name).read_bytes())
            model = place.relative_to(folder).as_posix()
            return training.model_copy(update={"round": number, "model": model})
        training = super().train(number)
        if not (shared / "training.json").exists():
            for name in _MODEL:
                write_bytes(shared / name, (place / name).read_bytes())
            write_json(shared / "training.json", training.to_json())
        return training

    def inspect(self, number: int) -> tuple[Failure, ...]:
        """Return the failures of the slices, without judging whether images can fix them."""
        feedback, parts = self._session.settings.feedback, self._components
        slicing = Slicing(feedback.slices, feedback.n_min, feedback.alpha)
        return inspect(number, self._session.folder, parts.target, slicing, device=parts.device)


def _key(shards: Sequence[Path], real: Sequence[Path]) -> str:
    """Return a digest of the images that a training uses."""
    ids = [name for path in shards for name in contents(path).ids]
    parts: list[object] = [contents(path).sha256 for path in real]
    parts += [read_choice(path).sha256 for path in choices(shards)]
    return digest([ids, *parts] if parts else ids)


def seeds_of_trainings(seed: int, n: int) -> list[int]:
    """Return the seeds of n trainings on the same images, the session's seed first."""
    return [seed + 1000 * number for number in range(n)]


def _measure(
    components: Components, session: Session, rounds: Sequence[Round], n: int, shared: Path
) -> list[tuple[Report, ...]]:
    """Return the sealed reports of each round, for its own training and for further ones.

    Args:
        components: Components of the session.
        session: A finished session of an arm.
        rounds: Rounds of the session.
        n: Number of trainings of each round.
        shared: Folder of the seed's trainings, which stores reports for arms with the same images.
    """
    reports = []
    for past, sealed in zip(rounds, read_sealed(session.folder), strict=True):
        generated = shards_of(session.folder, (r for r in rounds if r.number <= past.number))
        shards, real = components.learnt_from(generated)
        more = []
        is_given = past.training is not None and past.training.n_steps == 0
        n_further = 0 if is_given else n - 1
        for seed in seeds_of_trainings(session.settings.session.seed, 1 + n_further)[1:]:
            path = shared / _key(shards, real) / f"sealed-{seed}.json"
            if not path.exists():
                dstm = components.dstm_of(past.training, seed)
                n_classes = len(components.label_names)
                model, _ = components.trainer.train(shards, n_classes, dstm, real=real)
                fitted = Dstm(model, components.task, dstm)
                write_json(path, report(components, fitted, "test", past.number)[0].to_json())
            more.append(Report.model_validate_json(path.read_bytes()))
        reports.append((sealed, *more))
    return reports


def run_planner(
    shared: Components, pool: ImageCache, arm: Arm, folder: Path, n_trainings: int = 1
) -> list[Measured]:
    """Run, or finish, the session of an arm of a planner.

    Args:
        shared: Components of the comparison.
        pool: Images of the seed, which is also the seed of the session.
        arm: The arm to run.
        folder: Folder of the arm.
        n_trainings: Number of trainings over which the score of a round is averaged.
    """
    settings = shared.settings
    feedback = settings.feedback.model_copy(update={"discovery": "off"})
    generator = settings.generator.model_copy(update={"pull": arm.pull})
    changes = {"brain": planner_brain(arm.name), "feedback": feedback, "generator": generator}

    def run(session: Session) -> Components:
        components = shared.in_session(session, CachedShards(pool, session))
        planner = ArmPlanner(arm, lambda: read_sealed(session.folder), pool.broken)
        brain = PlannerBrain(planner, components.distribution, components.target.vocabulary)
        effects = ArmEffects(components, folder.parent / "models")
        run_rounds(components, effects, brain)
        return components

    return _run_session(settings.model_copy(update=changes), folder, pool.seed, run, n_trainings)


def run_brain(
    settings: Settings, name: str, folder: Path, seed: int, n_trainings: int = 1
) -> list[Measured]:
    """Run, or finish, the session of a brain, which has its own images and memory.

    Args:
        settings: Settings of the comparison.
        name: The brain, KIND:ARGUMENT.
        folder: Folder of the arm.
        seed: Seed of the session.
        n_trainings: See `run_planner`.
    """

    def run(session: Session) -> Components:
        components = Components.of_session(session, Observer())
        run_rounds(components)
        return components

    # Arms are compared after equally many rounds.
    limits = settings.limits.model_copy(update={"finish": False})
    changed = settings.model_copy(update={"brain": name, "limits": limits})
    return _run_session(changed, folder, seed, run, n_trainings)


def _run_session(
    settings: Settings,
    folder: Path,
    seed: int,
    run: Callable[[Session], Components],
    n_trainings: int,
) -> list[Measured]:
    home = folder / "home"
    cache = settings.home.absolute() / "cache"
    for needed in (home, cache):
        make_folder(needed)
    if not (home / "cache").exists():
        (home / "cache").symlink_to(cache)
    # All sessions of arms have the same name, so they do not share a database of checkpoints.
    changes = {"seed": seed, "name": NAME, "checkpoints": "sqlite"}
    session = settings.session.model_copy(update=changes)
    settings = settings.model_copy(update={"home": home, "session": session})
    with open_session(settings, NAME) as opened:
        components, rounds = run(opened), opened.rounds()
        sealed = _measure(components, opened, rounds, n_trainings, folder.parent / "models")
    n_images = accumulate(past.batch.n_made if past.batch else 0 for past in rounds)
    return [Measured(*parts) for parts in zip(rounds, sealed, n_images, strict=True)]


def fit(
    components: Components,
    samples: Pool,
    seed: int,
    is_real: NDArray[np.bool_] | None = None,
    **changes: object,
) -> Dstm:
    """Train a DSTM from scratch, without a session.

    Args:
        components: Provide settings, task and classes.
        samples: Training images.
        seed: Seed of the training.
        is_real: Mask of the photographs among them, (n,); None: all are generated.
        changes: Settings of the training that differ from the components'.
    """
    settings = components.dstm.model_copy(update={"seed": seed, **changes})
    n_classes = len(components.label_names)
    task, device = components.task, components.device
    model, _ = train_model(samples, task, n_classes, settings, device, is_real=is_real)
    return Dstm(model, components.task, settings)


def report(
    components: Components, dstm: Dstm, split: str, number: int = 1
) -> tuple[Report, NDArray[Any]]:
    """Return the report of a DSTM on a split of the target, and its predictions there."""
    samples, feedback = components.target.split(split), components.settings.feedback
    predictions = dstm.task.predict(dstm.model, samples.images)
    slicing, names = Slicing(feedback.slices, feedback.n_min), components.label_names
    return dstm.task.report(predictions, samples, names, number, split, slicing), predictions
