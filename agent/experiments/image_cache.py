"""The pool of images that the arms of a comparison share, one per seed."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from agent.loop.components import Components
from agent.planners import AttributeDistribution
from memory.files import write_bytes
from memory.records import PromptSpec, Share, digest
from tools.data.samples import Dense, Samples
from tools.data.shards import write_shard
from tools.data.stored_images import StoredImages
from tools.diffusion.guidance import Critic
from tools.generate_batch import draw


class ImageCache:
    """The images of a seed by prompt cell, drawn on first use and stored on disk.

    Images that a critic guides are stored separately; they have the texts and noise of the others.

    Attributes:
        seed: The seed.
        broken: Attributes of cells that draw something else: another class or, for pixel labels,
            the labels of another scene.
    """

    def __init__(
        self, components: Components, folder: Path, seed: int, broken: Sequence[dict[str, str]]
    ) -> None:
        self.seed, self.broken = seed, broken
        self._components, self._folder = components, folder
        self._size = components.settings.session.images_per_prompt

    def take(
        self, prompts: Sequence[PromptSpec], taken: Counter[str], critic: Critic | None = None
    ) -> StoredImages:
        """Return the images of all prompts, in order, which are read lazily.

        Args:
            prompts: Prompts to draw; their texts are ignored.
            taken: Number of used images of each cell; it is updated.
            critic: Guides the images of prompts with a pull, which have separate ids.
        """
        pieces: dict[tuple[str, str], PromptSpec] = {}
        places = []
        for prompt in prompts:
            cell = cell_of(prompt)
            pulled = f"-{digest([critic.sha256, prompt.pull])}" if critic and prompt.pull else ""
            for number in range(taken[cell], taken[cell] + prompt.count):
                piece = (f"{cell}-{number // self._size:03d}", pulled)
                pieces[piece] = prompt
                places.append((piece, number % self._size))
            taken[cell] += prompt.count
        self._draw(pieces, critic)
        starts = {piece: i * self._size for i, piece in enumerate(pieces)}
        images = StoredImages([self._path(*piece) for piece in pieces])
        return images.only([starts[piece] + index for piece, index in places])

    def _draw(self, pieces: Mapping[tuple[str, str], PromptSpec], critic: Critic | None) -> None:
        """Draw the missing pieces, each with `images_per_prompt` images of one cell.

        The key of a piece is its name, which determines text and noise, and the suffix of its
        guidance, "" for none.
        """
        missing = [
            (self._spec(name, prompt), pulled)
            for (name, pulled), prompt in pieces.items()
            if not self._path(name, pulled).exists()
        ]
        size = max(1, self._components.settings.session.shard_size // self._size)
        for start in range(0, len(missing), size):
            part = missing[start : start + size]
            drawn = self._make([prompt for prompt, _ in part], critic)
            for (prompt, pulled), samples in zip(part, drawn, strict=True):
                data = write_shard(
                    replace(samples, ids=[name + pulled for name in samples.ids]),
                    [prompt.text] * self._size,
                    [prompt.id + pulled] * self._size,
                    range(self._size),
                    self._components.target.class_names,
                )
                write_bytes(self._path(prompt.id, pulled), data)

    def _make(self, prompts: Sequence[PromptSpec], critic: Critic | None) -> list[Samples]:
        components = self._components

        def drawn_as(specs: Sequence[PromptSpec]) -> tuple[Samples, Dense]:
            pairs = [(prompt, i) for prompt in specs for i in range(self._size)]
            return draw(
                pairs, self.seed, components.generator, components.target.class_names, critic
            )

        wrong = [self._wrong(prompt) if self._is_broken(prompt) else prompt for prompt in prompts]
        drawn, confidence = drawn_as(wrong)
        if drawn.labels and wrong != prompts:
            # The image shows the requested scene, with the labels of another one.
            drawn = replace(drawn, images=drawn_as(prompts)[0].images)
        asked = [prompt for prompt in prompts for _ in range(self._size)]
        names = list(components.target.class_names)
        drawn = replace(
            drawn,
            classes=np.array([names.index(p.class_name) for p in asked], dtype=np.int64),
            attributes=[p.attributes for p in asked],
        )
        drawn = replace(drawn, weights=components.judge.verify(drawn, confidence)[1])
        size = self._size
        return [drawn.take(range(i * size, (i + 1) * size)) for i in range(len(prompts))]

    def _spec(self, name: str, prompt: PromptSpec) -> PromptSpec:
        words = random.Random(f"{self.seed} {name}")
        text = self._components.target.vocabulary.caption(prompt.attributes, words)
        return prompt.model_copy(update={"id": name, "text": text, "count": self._size})

    def _is_broken(self, prompt: PromptSpec) -> bool:
        return any(cell.items() <= prompt.attributes.items() for cell in self.broken)

    def _wrong(self, prompt: PromptSpec) -> PromptSpec:
        """Return the prompt that replaces a broken one: another class, or else another scene."""
        rng = random.Random(f"{self.seed} {prompt.id} wrong")
        rows = self._components.distribution.rows
        of_others = [row for row in rows if row.class_name != prompt.class_name]
        row = rng.choice(of_others or rows)
        text = self._components.target.vocabulary.caption(row.attributes, rng)
        return prompt.model_copy(update={"text": text, "class_name": row.class_name})

    def _path(self, name: str, pulled: str) -> Path:
        # Guided images are in a folder of their own, since only one arm uses them.
        folder = self._folder.with_name("pulled") if pulled else self._folder
        return folder / f"{name}{pulled}.parquet"


def cell_of(prompt: PromptSpec) -> str:
    """Return the name of a prompt's cell, a digest of its class and attributes."""
    return digest([prompt.class_name, prompt.attributes])


def broken_cells(
    distribution: AttributeDistribution,
    slices: Sequence[tuple[str, ...]],
    share: Share,
    seed: int,
) -> list[dict[str, str]]:
    """Return the attributes of a random share of the prompt cells.

    Args:
        distribution: Combinations of attributes that prompts can request.
        slices: The first combination of several attributes defines the cells.
        share: 0..1; above 0, at least one cell is broken.
        seed: Seed of the comparison.
    """
    names = next((by for by in slices if len(by) > 1), slices[0])
    values = {
        tuple((name, row.attributes[name]) for name in names if name in row.attributes)
        for row in distribution.rows
    }
    cells = sorted(items for items in values if len(items) == len(names))
    n_broken = max(1, round(share * len(cells))) if share else 0
    return [dict(items) for items in random.Random(f"broken {seed}").sample(cells, n_broken)]
