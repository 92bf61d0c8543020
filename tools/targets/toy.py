"""The target `toy` for tests and dry runs: painted in milliseconds, without data or cache.

The photographs, 32x32, are painted by the generator `toy` with other noise than generated images;
some defects are omitted.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from prompts.vocabulary import Vocabulary, load_vocabulary
from tools.data.drawn import ImageRequest
from tools.data.samples import Samples
from tools.generators.toy import ToyGenerator
from tools.targets import check_split, flip_where
from tools.targets.levels import level

SIZES = {"generator": 80, "audit": 60, "feedback": 60, "test": 60}
# Outside the range of session seeds.
_SEED = 1_000_000_007
_FAITHFUL = 0.9


class Toy:
    """The target `toy`, with the vocabulary of elpv and uniformly distributed attributes."""

    name = "toy"
    task = "classification"
    image_shape = (1, 32, 32)
    notice = "The photographs of the target toy are painted; nobody has a right to them."
    pixel_classes: Sequence[str] = ()
    flips = ("horizontal", "vertical")

    def __init__(self) -> None:
        self.vocabulary: Vocabulary = load_vocabulary("elpv")
        self.class_names = self.vocabulary.classes
        self._painter = ToyGenerator(self.image_shape, _FAITHFUL)

    def split(self, name: str) -> Samples:
        """Paint one of the four splits."""
        check_split(name)
        rng = random.Random(f"toy {name}")
        attributes = [self._draw(rng) for _ in range(SIZES[name])]
        ids = [f"{name}{i:03d}" for i in range(SIZES[name])]
        requests = [
            ImageRequest(self.vocabulary.caption(values), identity, 0, _SEED)
            for values, identity in zip(attributes, ids, strict=True)
        ]
        classes = [self.class_names.index(str(self.vocabulary.class_name(a))) for a in attributes]
        return Samples(
            images=self._painter.draw(requests).images,
            classes=np.array(classes, dtype=np.int64),
            attributes=attributes,
            ids=ids,
        )

    def flip(self, attributes: dict[str, str], horizontal: bool, vertical: bool) -> dict[str, str]:
        """Return the attributes of the mirrored image: only `where` changes."""
        return flip_where(attributes, horizontal, vertical)

    def measure(self, image: NDArray[np.uint8], attributes: Mapping[str, str]) -> dict[str, str]:
        """Return the brightness, the only measured attribute."""
        median = float(np.median(image)) / 255
        return {"brightness": level(median, (0.53, 0.68), ("dark", "medium", "bright"))}

    def _draw(self, rng: random.Random) -> dict[str, str]:
        values = {key: rng.choice(list(named)) for key, named in self.vocabulary.attributes.items()}
        if values["dark_area"] == "none":
            del values["where"]
        return values


def build(cache_dir: Path, **_: object) -> Toy:
    """Build the target; nothing is cached, and options of other targets are ignored."""
    return Toy()
