"""The components selected by the settings, built on first use: target, generator, judge, memory.

Only this module builds targets, generators, labelers and judges; other modules receive them, or
`Components`, as arguments.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from agent.config.sections import TargetSettings
from agent.config.settings import Settings
from agent.loop.monitor import WorkMonitor
from agent.loop.observer import Observer
from agent.loop.validation import slice_attributes
from agent.planners import AttributeDistribution, distribution_of
from agent.session.folder import Session, memory_of
from eval.report.text import plural
from eval.slices import slice_table
from memory.chroma import MemoryIndex
from memory.errors import SettingsError, some
from memory.events import FaultEvent
from memory.records import Training
from tools import targets, tasks
from tools.compute.within_memory import WithinMemory
from tools.compute.worker import Recipe
from tools.data.samples import Samples, concatenate
from tools.data.shards import stratified, write_photographs
from tools.evaluate_real import Predict
from tools.generate_batch import LabelVerifier, ShardExecutor, WithoutCopies
from tools.generators import Generator
from tools.labelers.audit import N_LEAST, AuditClassifier, KeepAll, train_audit
from tools.labelers.dense_audit import train_dense_audit
from tools.models.copies import CopyFinder, finder_of
from tools.models.embeddings import (
    Embed,
    embed_by_dstm,
    embed_by_imagenet,
    embed_by_several,
)
from tools.settings import DstmSettings
from tools.targets import Target, with_flips
from tools.targets.cross_fitting import cross_fitted, undivided
from tools.tasks import Model, Task
from tools.train_dstm import Trainer

if TYPE_CHECKING:
    from tools.compute.cluster import RayExecutor

OUT_OF_MEMORY = "out of memory"
ABSTAINS = "audit abstains"


class Components(WorkMonitor):
    """Builds each component on first access and caches it."""

    def __init__(
        self, settings: Settings, observer: Observer | None = None, session: Session | None = None
    ) -> None:
        """Store the settings without building anything. Arguments: see `WorkMonitor`."""
        super().__init__(settings, observer, session)
        self._executor: ShardExecutor | None = None
        # Shards of photographs by (dstm.real_images, session.seed).
        self._real_shards: dict[tuple[int | None, int], list[Path]] = {}

    @classmethod
    def of_session(cls, session: Session, observer: Observer) -> Self:
        """Return the components of an open session."""
        return cls(session.settings, observer, session)

    def in_session(self, session: Session, executor: ShardExecutor) -> Components:
        """Return components of another session that share the target, generator and judge.

        Args:
            session: A session whose settings select the same components.
            executor: Creates the shards of its images.
        """
        _ = self.device, self.distribution, self.generator, self.judge
        shared = copy.copy(self)
        shared._session, shared._executor = session, executor
        return shared

    def without_session(self) -> Components:
        """Return components without a session: never paused or stopped, faults not journaled."""
        shared = copy.copy(self)
        shared._settings, shared._session = self.settings, None
        return shared

    @cached_property
    def device(self) -> str:
        """The torch device: as set, or for `auto`, `cuda` if it is available.

        Raises SettingsError if `cuda` is set but not available.
        """
        import torch

        wanted, available = self.settings.device, "cuda" if torch.cuda.is_available() else "cpu"
        if wanted == "cuda" != available:
            raise SettingsError(
                "device is 'cuda', but torch finds no CUDA device here. Set device=auto or "
                "device=cpu."
            )
        device = available if wanted == "auto" else wanted
        if self._session:
            self._session.control.device = device
        return device

    @cached_property
    def target(self) -> Target:
        """The target; its small images are cached under HOME/cache."""
        with self.stage("load target", 0):
            target, n_folds = self._build_target(self.settings.target), self.settings.feedback.folds
            return cross_fitted(target, n_folds, self.settings.audit) if n_folds else target

    @cached_property
    def pretrain_target(self) -> Target:
        """The target that the MTDM is trained on: `pretrain_target`, or else the target itself."""
        source = self.settings.pretrain_target
        return self._build_target(source) if source else undivided(self.target)

    def _build_target(self, source: TargetSettings) -> Target:
        return targets.build(source.name, self.settings.home / "cache", **source.options)

    @cached_property
    def distribution(self) -> AttributeDistribution:
        """Frequencies of attribute combinations in the target's generator split."""
        feedback = self.settings.feedback
        distribution = distribution_of(self.target, feedback.min_support)
        measured = self.target.split("feedback").attributes
        table = slice_table(measured, feedback.slices, feedback.n_min)
        if lacking := [k for k in table if not distribution.supports(slice_attributes(k) or {})]:
            self.observer.warn(
                f"No images will be asked of {plural(len(lacking), 'slice')} that fewer than "
                f"{distribution.min_support} photographs of the split generator show: "
                f"{some(lacking, 5)}. Set feedback.min_support=0 if the generator has learnt them "
                "from other photographs."
            )
        return distribution

    @property
    def task(self) -> Task:
        """The task that the DSTM is trained for."""
        return tasks.build(self.settings.dstm.task)

    @property
    def dstm(self) -> DstmSettings:
        """Training settings of the DSTM, with the flips that the target allows."""
        return with_flips(self.settings.dstm, self.target)

    def dstm_of(self, training: Training | None, seed: int) -> DstmSettings:
        """Return the settings of a recorded training, with a given seed."""
        changes: dict[str, object] = {"seed": seed, **(training.changes if training else {})}
        if training and training.synthetic_share is not None:
            changes["synthetic_share"] = training.synthetic_share
        return self.dstm.model_copy(update=changes)

    @property
    def real_shards(self) -> list[Path]:
        """Shards of the photographs that the DSTM is trained on, in HOME/cache.

        See `photographs`; `dstm.real_images` of them are sampled by the session's seed. Empty if
        the target has no photographs with the labels that the task needs.
        """
        settings = self.settings
        key = settings.dstm.real_images, settings.session.seed
        if key not in self._real_shards:
            self._real_shards[key] = self._write_real(*key)
        return self._real_shards[key]

    def _write_real(self, n: int | None, seed: int) -> list[Path]:
        photographs = self.photographs(n, seed)
        if not all(kind in photographs.labels for kind in self.task.needs) or not len(photographs):
            self.observer.warn(
                f"The target {self.target.name!r} has no photographs to train on, so the DSTM "
                "learns from generated images alone."
            )
            return []
        cache = self.settings.home / "cache"
        return write_photographs(photographs, cache, self.target.class_names)

    def photographs(self, n: int | None, seed: int) -> Samples:
        """Return the photographs to train on, or n of them, see `stratified`.

        These are the splits generator and audit or, with `feedback.folds`, generator and feedback,
        which then contains audit.
        """
        learnt = ("generator", "feedback" if self.settings.feedback.folds else "audit")
        photographs = concatenate([self.target.split(name) for name in learnt])
        return photographs if n is None else stratified(photographs, n, seed)

    def learnt_from(self, shards: Sequence[Path]) -> tuple[Sequence[Path], Sequence[Path]]:
        """Return the shards of generated images and of photographs that the DSTM is trained on.

        Args:
            shards: Shards of all generated images so far; empty in round 0.

        Raises:
            SettingsError: `dstm.train_on` is "real" but there are no photographs.
        """
        train_on = self.settings.dstm.train_on
        real = [] if train_on == "synthetic" else self.real_shards
        if train_on == "real" and not real:
            raise SettingsError(
                f"dstm.train_on is 'real', but the target {self.target.name!r} has no photographs "
                "to train on. Set dstm.train_on=synthetic."
            )
        return ([] if train_on == "real" else shards), real

    @property
    def label_names(self) -> tuple[str, ...]:
        """Names of the classes that the DSTM predicts, for images or for pixels."""
        return tuple(targets.label_names(self.target, self.task))

    @property
    def begins_with_baseline(self) -> bool:
        """Whether there is a round 0: with a given model, or with photographs to train on."""
        is_given, train_on = self.settings.session.baseline is not None, self.settings.dstm.train_on
        return is_given or (train_on != "synthetic" and bool(self.real_shards))

    @cached_property
    def given_model(self) -> tuple[Model, dict[str, Any]] | None:
        """The user's own model and its model.json, or None, see `tools.given_model`."""
        folder = self.settings.session.baseline
        if folder is None:
            return None
        from tools.given_model import load_given

        return load_given(Path(folder).expanduser(), self.task, self.target, self.settings.dstm)

    @cached_property
    def bare_generator(self) -> Generator:
        """The generator with its weights and labeler, without handling of memory errors."""
        with self.stage("load generator", 0):
            return self._recipe.build(self.device)

    @cached_property
    def generator(self) -> Generator:
        """The generator, which reduces its batch size when the device runs out of memory."""
        return WithinMemory(self.bare_generator, self._n_at_once(), self._drew_fewer)

    @property
    def _recipe(self) -> Recipe:
        settings = self.settings
        arguments = settings.generator.model_dump(
            exclude={"name", "options", "pull"}, exclude_none=True
        )
        return Recipe(
            settings.generator.name,
            self.target.image_shape,
            {**arguments, **settings.generator.options},
            settings.labeler.name,
            self.target.pixel_classes,
            settings.labeler.options,
        )

    @property
    def executor(self) -> ShardExecutor | None:
        """Creates shards elsewhere, e.g. on a cluster. None: they are created in this process."""
        return self._executor or self._cluster

    @property
    def predict(self) -> Predict | None:
        """Computes predictions on a cluster. None: they are computed in this process."""
        return self._cluster.predict if self._cluster else None

    @cached_property
    def _cluster(self) -> RayExecutor | None:
        settings = self.settings
        if settings.compute.place == "local":
            return None
        from tools.compute.cluster import RayExecutor

        return RayExecutor(
            settings.compute,
            self._recipe,
            self.judge,
            self.generator.identity,
            settings.device,
            self._n_at_once(),
            self._drew_fewer,
        )

    @property
    def trainer(self) -> Trainer:
        """The trainer of DSTMs, in this process or, with `compute.train_processes`, in several.

        Raises SettingsError if there are too few devices or a batch cannot be divided evenly.
        """
        settings = self.settings
        if settings.compute.train_processes == 1:
            return Trainer(self.device)
        from tools.compute.data_parallel import DataParallelTrainer

        return DataParallelTrainer(
            settings.compute.train_processes, self.device, settings.dstm.batch_size
        )

    def _n_at_once(self) -> int | None:
        faults = self._session.journal.events(FaultEvent) if self._session else []
        of_memory = [fault for fault in faults if fault.what == OUT_OF_MEMORY]
        return of_memory[-1].n_at_once if of_memory else None

    def _drew_fewer(self, n_at_once: int) -> None:
        message = f"Out of memory; from now on {n_at_once} images are drawn at once."
        self.fault(OUT_OF_MEMORY, message, n_at_once=n_at_once)

    def embedding(self, model: Model) -> Embed:
        """Return the image embedding for discovery; model: the DSTM of the round."""
        embeds = [
            embed_by_dstm(model) if name == "dstm" else embed_by_imagenet(self.device)
            for name in self.settings.feedback.embedding.split("+")
        ]
        return embeds[0] if len(embeds) == 1 else embed_by_several(embeds)

    @cached_property
    def judge(self) -> LabelVerifier:
        """The verifier of generated images, e.g. a classifier, trained once per home folder."""
        judge: LabelVerifier = KeepAll()
        if self.settings.audit.method != "none":
            with self.stage("train audit", 0):
                judge = self.train_judge(self.progress("train audit", "steps"))
        dropped = self.settings.audit.copies == "drop"
        return WithoutCopies(judge, self.copy_finder) if dropped else judge

    @cached_property
    def copy_finder(self) -> CopyFinder:
        """Detects near copies of the photographs that the MTDM is trained on."""
        target = self.pretrain_target
        with self.stage("index photographs", 0):
            return finder_of(target)

    def train_judge(self, progress: Callable[[int, int], None]) -> LabelVerifier:
        """Return the judge, trained on the target's audit split or read from HOME/cache.

        Args:
            progress: Called with the finished steps and the total.
        """
        settings, cache = self.settings, self.settings.home / "cache"
        if settings.audit.method == "none":
            return KeepAll()
        if settings.audit.method == "classifier":
            return self.classifier(self.target, progress)
        return train_dense_audit(self.target, settings.audit, cache, self.device, progress)

    def classifier(
        self, target: Target, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> AuditClassifier:
        """Return the audit classifier of image classes, regardless of `audit.method`.

        Args:
            target: Target whose audit split it is trained on, unless HOME/cache contains it.
            progress: Called with the finished steps and the total.
        """
        settings = self.settings
        cache = settings.home / "cache"
        audit = train_audit(target, settings.audit, cache, self.device, progress)
        if audit.abstains:
            self.fault(
                ABSTAINS,
                f"The audit knows too few photographs of {', '.join(audit.abstains)}: images of "
                f"these classes are kept unseen. It needs {N_LEAST} of a class in its split.",
            )
        return audit

    @cached_property
    def memory(self) -> MemoryIndex:
        """The memory over all sessions of this home folder."""
        settings = self.settings
        kind = "memory damaged" if settings.memory.url is None else "memory away"
        return memory_of(settings.home, lambda text: self.fault(kind, text), settings.memory.url)
