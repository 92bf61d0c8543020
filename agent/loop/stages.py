"""The stages of a round that draw, train and measure; a replay takes their results as recorded."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from agent.loop.observations import rounds_before
from memory.records import Batch, Failure, Plan, Report, Training

if TYPE_CHECKING:
    from agent.loop.components import Components
    from tools.diffusion.guidance import Critic


class Stages:
    """The heavy parts of the rounds of one session.

    They return records and journal nothing but their time, see `timed`.
    """

    def __init__(self, bench: Components) -> None:
        self._bench = bench
        self._session = bench.session
        self._shards: dict[int, list[Path]] = {}

    @contextmanager
    def timed(self, name: str, number: int) -> Iterator[None]:
        """Time a stage of round `number`, show it, and journal its seconds once."""
        started = self._bench.control.worked()
        with self._bench.stage(name, number):
            yield
        self._session.journal.append(
            "stage",
            key=f"stage/{number}/{name}",
            round=number,
            stage=name,
            seconds=round(self._bench.control.worked() - started, 3),
        )

    def load_generator(self) -> str:
        """Load what drawing needs, and return the identity of the generator."""
        _ = self._bench.judge
        return self._bench.generator.identity

    def draw(self, plan: Plan) -> Batch:
        """Draw the images of a plan and let the audit weigh their labels."""
        from tools.generate_batch import generate_batch

        bench, settings = self._bench, self._session.settings
        return generate_batch(
            plan,
            self._session.folder,
            settings.session.seed,
            bench.generator,
            bench.judge,
            bench.target.class_names,
            settings.session.shard_size,
            bench.progress("generate", "images"),
            self._critic(plan.round) if any(prompt.pull for prompt in plan.prompts) else None,
            bench.crew,
        )

    def train(self, number: int) -> Training:
        """Choose from the images of round `number`, and train the DSTM on those of all so far."""
        from tools import tasks
        from tools.selection.select import select_images
        from tools.targets import label_names
        from tools.train_dstm import train_dstm

        bench, settings = self._bench, self._session.settings
        selection = select_images(
            number,
            self._session.folder,
            rounds_before(self._session.journal, number + 1),
            settings.selection,
            settings.session.seed,
            settings.home / "selection" / bench.target.name,
            bench.device,
        )
        return train_dstm(
            number,
            self._session.folder,
            self._all_shards(number),
            label_names(bench.target, tasks.build(settings.dstm.task)),
            settings.dstm.model_copy(update={"seed": settings.session.seed}),
            bench.device,
            bench.progress("train", "steps"),
            bench.fault,
            selection,
            bench.trainer,
        )

    def evaluate(self, training: Training) -> Report:
        """Measure a trained DSTM on the real photographs of the feedback split."""
        from tools.evaluate_real import evaluate_real

        feedback = self._session.settings.feedback
        return evaluate_real(
            training.round,
            self._session.folder,
            training,
            self._bench.target,
            feedback.slices,
            feedback.n_min,
            self._bench.device,
            self._bench.predict,
        )

    def inspect(self, number: int) -> tuple[Failure, ...]:
        """Find where the DSTM of round `number`, which was measured, fails."""
        from memory import minilm
        from tools.inspect_failures import inspect

        feedback = self._session.settings.feedback
        return inspect(
            number,
            self._session.folder,
            self._bench.target,
            feedback.slices,
            feedback.n_min,
            feedback.alpha,
            past=rounds_before(self._session.journal, number + 1),
            discovery=feedback.discovery != "off",
            embed_with=self._bench.embedding if feedback.discovery == "clusters" else None,
            encode=lambda texts: minilm.load().embed(texts),
            device=self._bench.device,
        )

    def _critic(self, number: int) -> Critic:
        """Load the DSTM of the round before `number`, by which images are pulled."""
        from tools.diffusion.guidance import critic_of
        from tools.evaluate_real import read_predictions
        from tools.models.criteria import load_dstm

        trained = [r.training for r in rounds_before(self._session.journal, number) if r.report]
        assert trained and trained[-1] is not None  # or the plan would say no pull
        folder, training = self._session.folder, trained[-1]
        dstm = load_dstm(folder / training.model, self._bench.device)
        predicted = read_predictions(folder, training.round).values
        return critic_of(dstm, training.sha256, predicted, self._bench.target.split("feedback"))

    def _all_shards(self, number: int) -> list[Path]:
        """Return the shards of all rounds up to one; a round's are looked up once."""
        for earlier in range(1, number + 1):
            if earlier not in self._shards:
                found = self._session.round(earlier)
                batch = found.batch if found else None
                self._shards[earlier] = [Path(s.file) for s in batch.shards] if batch else []
        return [path for earlier in sorted(self._shards) for path in self._shards[earlier]]
