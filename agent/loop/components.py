"""What a session works with, loaded when first needed: target, generator, audit, memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any

from agent.config.settings import Settings
from agent.loop.observer import Observer
from agent.session.folder import Session, memory_of
from memory.chroma import MemoryIndex
from memory.errors import SettingsError
from tools import targets, tasks
from tools.compute.recipe import Recipe
from tools.compute.within_memory import WithinMemory
from tools.evaluate_real import Predict
from tools.generate_batch import Crew, Judge
from tools.generators import Generator
from tools.labelers.audit import train_audit
from tools.labelers.dense_audit import train_dense_audit
from tools.labelers.keep_all import KeepAll
from tools.models.embeddings import (
    Embed,
    embed_by_dstm,
    embed_by_imagenet,
    embed_by_mtdm,
    embed_by_several,
)
from tools.targets import Target
from tools.tasks import Model
from tools.train_dstm import Trainer

if TYPE_CHECKING:
    from tools.compute.cluster import RayCrew

OUT_OF_MEMORY = "out of memory"


class Workbench:
    """The heavy parts of one session and the observer who is told what goes on."""

    def __init__(self, session: Session, observer: Observer) -> None:
        self.session = session
        self.observer = observer
        self.control = session.control
        self.control.say = observer.warn
        self.control.after_pause = self._journal_pause

    def fault(self, what: str, told: str, **data: Any) -> None:
        """Journal and show something that went wrong and was dealt with."""
        number = self.control.round
        self.session.journal.append("fault", what=what, told=told, round=number, **data)
        self.observer.warn(told)

    def _journal_pause(self, why: str, seconds: float) -> None:
        told = f"Waited {seconds:.0f} s: {why}"
        self.session.journal.append("paused", told=told, round=self.control.round)

    @contextmanager
    def stage(self, name: str, number: int) -> Iterator[None]:
        """Bracket a stage of round `number`, 0 for the start; raises Stopped when it must not be.

        The time between stages is a safe point: this is where a session that is paused waits.
        """
        with self.control.stage(name, number), self.observer.stage(name, number):
            yield

    def progress(self, stage: str, unit: str) -> Callable[[int, int], None]:
        """Return a function that takes what is done and the total, in `unit`.

        To be called where the work may be left: it raises Stopped when the session has to end.
        """
        show = self.observer.progress(stage, unit)

        def report(done: int, total: int) -> None:
            show(done, total)
            self.control.progress(done, total, unit)

        return report

    @cached_property
    def device(self) -> str:
        """The torch device of this session: `cuda` where there is one, unless set otherwise."""
        self.control.device = choose_device(self.session.settings)
        return self.control.device

    @cached_property
    def target(self) -> Target:
        """The target; its small images are kept under HOME/cache."""
        with self.stage("load target", 0):
            return build_target(self.session.settings)

    @cached_property
    def generator(self) -> Generator:
        """The generator with its weights."""
        with self.stage("load generator", 0):
            found = build_generator(self.session.settings, self.target, self.device)
        return WithinMemory(found, self._n_at_once(), self._drew_fewer)

    @property
    def crew(self) -> Crew | None:
        """What makes shards on a cluster, or None: then they are made here."""
        return self._cluster

    @property
    def predict(self) -> Predict | None:
        """What predicts on a cluster, or None: then it is done here."""
        return self._cluster.predict if self._cluster else None

    @cached_property
    def _cluster(self) -> RayCrew | None:
        settings = self.session.settings
        if settings.compute.place == "local":
            return None
        from tools.compute.cluster import RayCrew

        return RayCrew(
            settings.compute,
            recipe_of(settings, self.target),
            self.audit,
            self.generator.identity,
            settings.device,
            self._n_at_once(),
            self._drew_fewer,
        )

    @property
    def trainer(self) -> Trainer | None:
        """What trains a DSTM in several processes, or None: then it is trained in this one."""
        return build_trainer(self.session.settings, self.device)

    def _n_at_once(self) -> int | None:
        known = [e for e in self.session.journal.events("fault") if e["what"] == OUT_OF_MEMORY]
        return known[-1]["n_at_once"] if known else None

    def _drew_fewer(self, n_at_once: int) -> None:
        told = f"Out of memory; from now on {n_at_once} images are drawn at once."
        self.fault(OUT_OF_MEMORY, told, n_at_once=n_at_once)

    def embedding(self, model: Model) -> Embed:
        """Return what turns images into vectors for discovery; model: the DSTM of the round.

        Raises SettingsError for the MTDM's features where the generator is none.
        """
        names = self.session.settings.feedback.embedding.split("+")
        embeds = [self._embedding(name, model) for name in names]
        return embeds[0] if len(embeds) == 1 else embed_by_several(embeds)

    def _embedding(self, name: str, model: Model) -> Embed:
        settings = self.session.settings
        if name == "dstm":
            return embed_by_dstm(model)
        if name == "imagenet":
            return embed_by_imagenet(self.device)
        if settings.generator.name != "mtdm":
            raise SettingsError(
                f"feedback.embedding is {settings.feedback.embedding!r}, but the generator is "
                f"{settings.generator.name!r}. Set feedback.embedding to dstm or imagenet."
            )
        from tools.diffusion.pipeline import load_pipeline, weights_folder

        return embed_by_mtdm(load_pipeline(weights_folder(settings.generator.weights), self.device))

    @cached_property
    def audit(self) -> Judge:
        """What weighs generated images, e.g. a classifier, trained once per home folder."""
        settings = self.session.settings
        if settings.audit.method == "none":
            return KeepAll()
        with self.stage("train audit", 0):
            show = self.progress("train audit", "steps")
            return build_judge(settings, self.target, self.device, show)

    @cached_property
    def memory(self) -> MemoryIndex:
        """The memory over all sessions of this home folder."""
        settings = self.session.settings
        what = "memory damaged" if settings.memory.url is None else "memory away"
        return memory_of(settings.home, lambda told: self.fault(what, told), settings.memory.url)


def choose_device(settings: Settings) -> str:
    """Return the torch device: as set, or `cuda` where there is one.

    Raises SettingsError when `cuda` is asked for and is not there.
    """
    import torch

    found = "cuda" if torch.cuda.is_available() else "cpu"
    if settings.device == "cuda" != found:
        raise SettingsError(
            "device is 'cuda', but torch finds no CUDA device here. Set device=auto or device=cpu."
        )
    return found if settings.device == "auto" else settings.device


def build_target(settings: Settings) -> Target:
    """Build the target of the settings, its cache under HOME/cache."""
    return targets.build(settings.target.name, settings.home / "cache", **settings.target.options)


def label_kinds(settings: Settings) -> tuple[str, ...]:
    """Return the kinds of pixel labels that the session's task learns, () for image classes."""
    return tasks.build(settings.dstm.task).needs


def build_pretrain_target(settings: Settings) -> Target:
    """Build what the MTDM learns from: the target, unless the settings name something else."""
    source = settings.pretrain_target or settings.target
    return targets.build(source.name, settings.home / "cache", **source.options)


def recipe_of(settings: Settings, target: Target) -> Recipe:
    """Return how the generator of the settings is built, for the target's image shape."""
    arguments = settings.generator.model_dump(exclude={"name", "options", "pull"})
    return Recipe(
        settings.generator.name,
        target.image_shape,
        {**arguments, **settings.generator.options},
        settings.labeler.name,
        target.pixel_classes,
        settings.labeler.options,
    )


def build_generator(settings: Settings, target: Target, device: str) -> Generator:
    """Build the generator of the settings for the target's image shape, and what labels it."""
    return recipe_of(settings, target).build(device)


def build_trainer(settings: Settings, device: str) -> Trainer | None:
    """Build what trains a DSTM in several processes; None for one.

    Raises SettingsError when there are not as many devices, or a batch cannot be shared evenly.
    """
    if settings.compute.train_processes == 1:
        return None
    from tools.compute.data_parallel import Team

    return Team(settings.compute.train_processes, device, settings.dstm.batch_size)


def build_judge(
    settings: Settings,
    target: Target,
    device: str,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Judge:
    """Build what weighs generated images, trained on the target's audit split or from the cache."""
    if settings.audit.method == "none":
        return KeepAll()
    train = train_dense_audit if settings.audit.method == "dense" else train_audit
    return train(target, settings.audit, settings.home / "cache", device, progress)
