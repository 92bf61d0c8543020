"""What the arms of a comparison share: one set-up and, per seed, one pool of images."""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.loop.components import Components
from agent.planners import AttributeDistribution
from memory.files import write_bytes
from memory.records import Failure, PromptSpec, Record, Report, Round, Share, digest
from tools.data.samples import Dense, Samples, concatenate
from tools.data.shards import read_shards, write_shard
from tools.diffusion.guidance import Critic, critic_of
from tools.generate_batch import draw
from tools.inspect_failures import judged
from tools.models.criteria import Dstm, load_dstm
from tools.models.dstm_file import save_model
from tools.models.gradients import Gradients, sample_gradients
from tools.train_dstm import train_model


class Trained(Record):
    """What one training reached: reports on both splits, failures on feedback."""

    feedback: Report
    sealed: Report
    failures: tuple[Failure, ...]


def train(
    components: Components,
    samples: Samples,
    seed: int,
    augment: bool,
    steps: int | None = None,
    keep: Path | None = None,
) -> Trained:
    """Train a DSTM from scratch and measure it on feedback and on the sealed test split.

    steps: in place of those of the settings; keep: folder that the model is written to.
    """
    dstm = fit(components, samples, seed, augment, steps)
    if keep:
        meta = {"task": dstm.settings.task, "settings": dstm.settings.model_dump(mode="json")}
        save_model(keep, dstm.model, meta)
    feedback, predictions = report(components, dstm, "feedback")
    settings = components.settings.feedback
    return Trained(
        feedback=feedback,
        sealed=report(components, dstm, "test")[0],
        failures=dstm.task.failures(
            predictions,
            components.target.split("feedback"),
            settings.slices,
            settings.n_min,
            settings.alpha,
        ),
    )


def fit(
    components: Components, samples: Samples, seed: int, augment: bool, steps: int | None = None
) -> Dstm:
    """Train a DSTM from scratch; steps: in place of those of the settings."""
    settings = components.settings.dstm
    changes = {"seed": seed, "augment": augment, "steps": steps or settings.steps}
    settings = settings.model_copy(update=changes)
    n_classes = len(components.label_names)
    model, _, _ = train_model(samples, components.task, n_classes, settings, components.device)
    return Dstm(model, components.task, settings)


def report(
    components: Components, dstm: Dstm, split: str, number: int = 1
) -> tuple[Report, NDArray[Any]]:
    """Return the report of a DSTM on a split of the target, and its predictions there."""
    samples, feedback = components.target.split(split), components.settings.feedback
    predictions = dstm.task.predict(dstm.model, samples.images)
    return (
        dstm.task.report(
            predictions,
            samples,
            components.label_names,
            number,
            split,
            feedback.slices,
            feedback.n_min,
        ),
        predictions,
    )


def load_critic(components: Components, folder: Path) -> Critic:
    """Return a kept model as a critic, with the feedback photographs that it fails on."""
    dstm, feedback = load_dstm(folder, components.device), components.target.split("feedback")
    sha256 = str(json.loads((folder / "model.json").read_bytes())["sha256"])
    return critic_of(dstm, sha256, dstm.task.predict(dstm.model, feedback.images), feedback)


def judged_failures(
    components: Components,
    folder: Path,
    done: Round,
    images: Sequence[Samples],
    past: Sequence[Round],
) -> tuple[Failure, ...]:
    """Return the failures of a round with what is known of whether images can mend them.

    folder: of the model that the round trained; images: of each of its prompts.
    """
    assert done.plan is not None  # it is of a planner
    dstm, feedback = load_dstm(folder, components.device), components.target.split("feedback")
    made = concatenate(images)
    gradients = Gradients(
        images=sample_gradients(dstm.model, dstm.task, made, dstm.settings),
        prompt_ids=[
            prompt.id
            for prompt, own in zip(done.plan.prompts, images, strict=True)
            for _ in range(len(own))
        ],
        photographs=sample_gradients(dstm.model, dstm.task, feedback, dstm.settings),
    )
    rounds = [*past, done]
    return tuple(judged(failure, feedback, rounds, gradients) for failure in done.failures)


class Pool:
    """The images of one seed by prompt cell, drawn once, when first asked for, and kept on disk.

    Images that a critic pulls are drawn for it alone, of the words and the noise that the others
    have.

    broken: attributes of cells that draw something else: another class, or, where labels belong to
    pixels, the labels of another scene.
    """

    def __init__(
        self, components: Components, folder: Path, seed: int, broken: Sequence[Mapping[str, str]]
    ) -> None:
        self._components = components
        self._folder = folder
        self._seed = seed
        self._broken = broken
        self._size = components.settings.session.images_per_prompt
        self._drawn: dict[str, Samples] = {}

    def take(
        self, prompts: Sequence[PromptSpec], taken: Counter[str], critic: Critic | None = None
    ) -> list[Samples]:
        """Return the images of every prompt and count them in `taken`, by cell.

        critic: pulls those of prompts with a pull, which have ids of their own.
        """
        wanted = []
        for prompt in prompts:
            cell = cell_of(prompt)
            pulled = f"-{digest([critic.sha256, prompt.pull])}" if critic and prompt.pull else ""
            numbers = range(taken[cell], taken[cell] + prompt.count)
            taken[cell] += prompt.count
            own = [(f"{cell}-{i // self._size:03d}", pulled, i % self._size) for i in numbers]
            wanted.append((prompt, own))
        self._draw({(name, pulled): p for p, own in wanted for name, pulled, _ in own}, critic)
        return [
            concatenate([self._drawn[name + pulled].take([i]) for name, pulled, i in own])
            for _, own in wanted
        ]

    def _draw(self, pieces: Mapping[tuple[str, str], PromptSpec], critic: Critic | None) -> None:
        """Have pieces in memory and on disk: `images_per_prompt` images of one cell each.

        A piece's first name says its words and its noise, the second what pulled it, if anything.
        """
        missing = []
        for (name, pulled), prompt in pieces.items():
            path = self._path(name, pulled)
            if name + pulled in self._drawn:
                continue
            if path.exists():
                self._drawn[name + pulled] = read_shards([path]).samples
            else:
                missing.append((self._spec(name, prompt), pulled))
        size = max(1, self._components.settings.session.shard_size // self._size)
        for start in range(0, len(missing), size):
            part = missing[start : start + size]
            made = self._make([prompt for prompt, _ in part], critic)
            for (prompt, pulled), samples in zip(part, made, strict=True):
                own = replace(samples, ids=[name + pulled for name in samples.ids])
                self._drawn[prompt.id + pulled] = own
                data = write_shard(
                    own,
                    [prompt.text] * self._size,
                    [prompt.id + pulled] * self._size,
                    range(self._size),
                    self._components.target.class_names,
                )
                write_bytes(self._path(prompt.id, pulled), data)

    def _make(self, prompts: Sequence[PromptSpec], critic: Critic | None) -> list[Samples]:
        components = self._components

        def drawn_as(said: Sequence[PromptSpec]) -> tuple[Samples, Dense]:
            pairs = [(prompt, i) for prompt in said for i in range(self._size)]
            return draw(
                pairs, self._seed, components.generator, components.target.class_names, critic
            )

        wrong = [self._wrong(prompt) if self._is_broken(prompt) else prompt for prompt in prompts]
        drawn, confidence = drawn_as(wrong)
        if drawn.labels and wrong != prompts:
            # The image is the one that was asked for, its labels are those of another scene.
            drawn = replace(drawn, images=drawn_as(prompts)[0].images)
        asked = [prompt for prompt in prompts for _ in range(self._size)]
        names = list(components.target.class_names)
        drawn = replace(
            drawn,
            classes=np.array([names.index(p.class_name) for p in asked], dtype=np.int64),
            attributes=[p.attributes for p in asked],
        )
        drawn = replace(drawn, weights=components.judge.judge(drawn, confidence)[1])
        size = self._size
        return [drawn.take(range(i * size, (i + 1) * size)) for i in range(len(prompts))]

    def _spec(self, name: str, prompt: PromptSpec) -> PromptSpec:
        words = random.Random(f"{self._seed} {name}")
        text = self._components.target.vocabulary.caption(prompt.attributes, words)
        return prompt.model_copy(update={"id": name, "text": text, "count": self._size})

    def _is_broken(self, prompt: PromptSpec) -> bool:
        return any(cell.items() <= prompt.attributes.items() for cell in self._broken)

    def _wrong(self, prompt: PromptSpec) -> PromptSpec:
        """Return what a broken prompt draws: another class, or else another scene."""
        rng = random.Random(f"{self._seed} {prompt.id} wrong")
        rows = self._components.distribution.rows
        of_others = [row for row in rows if row.class_name != prompt.class_name]
        row = rng.choice(of_others or rows)
        text = self._components.target.vocabulary.caption(row.attributes, rng)
        return prompt.model_copy(update={"text": text, "class_name": row.class_name})

    def _path(self, name: str, pulled: str) -> Path:
        # Apart from those that others use, too.
        folder = self._folder.with_name("pulled") if pulled else self._folder
        return folder / f"{name}{pulled}.parquet"


def cell_of(prompt: PromptSpec) -> str:
    """Return the name of a prompt's cell: what class and attributes it asks for."""
    return digest([prompt.class_name, prompt.attributes])


def broken_cells(
    palette: AttributeDistribution, slices: Sequence[tuple[str, ...]], share: Share, seed: int
) -> list[dict[str, str]]:
    """Return a share of the prompt cells, at least one if it is above 0, drawn by the seed.

    Cells are the values, found in the palette, of the first of `slices` that crosses attributes.
    """
    names = next((by for by in slices if len(by) > 1), slices[0])
    found = {
        tuple((name, row.attributes[name]) for name in names if name in row.attributes)
        for row in palette.rows
    }
    cells = sorted(items for items in found if len(items) == len(names))
    n_broken = max(1, round(share * len(cells))) if share else 0
    return [dict(items) for items in random.Random(f"broken {seed}").sample(cells, n_broken)]
