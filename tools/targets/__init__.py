"""Kinds of real data. One file per target; `build` finds them by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from memory.errors import SettingsError, unknown
from prompts.vocabulary import Vocabulary
from tools.data.samples import Samples
from tools.plugins import load

if TYPE_CHECKING:
    from tools.tasks import Task

Image = NDArray[np.uint8]

reading: ContextVar[Callable[[int, int], None]] = ContextVar(
    "reading", default=lambda done, total: None
)
"""Is told how many photographs are read, of how many, while a target is built anew."""

SPLITS = ("generator", "audit", "feedback", "test")


@runtime_checkable
class Target(Protocol):
    """Real, labelled photographs on which a model must do well.

    class_names: of images, ("scene",) where only pixels have classes; pixel_classes: of the ids
    of `Samples.labels["segmentation"]`, () without one; flips: "horizontal", "vertical" where a
    mirrored image is as plausible as the image itself; notice: its first line, of licence and
    origin, goes with all that is made of the photographs, the others are for their owner alone.

    A target file has a function `build(cache_dir, **options) -> Target`.
    """

    name: str
    task: str
    image_shape: tuple[int, int, int]
    class_names: Sequence[str]
    pixel_classes: Sequence[str]
    vocabulary: Vocabulary
    notice: str
    flips: tuple[str, ...]

    def split(self, name: str) -> Samples:
        """Return one of the four disjoint splits; `test` is for reports and comparisons alone."""
        ...

    def flip(self, attributes: dict[str, str], horizontal: bool, vertical: bool) -> dict[str, str]:
        """Return the attributes of the mirrored image."""
        ...

    def measure(self, image: Image, attributes: Mapping[str, str]) -> dict[str, str]:
        """Return the attributes that can be seen on an image, (c, h, w).

        attributes: what is known of it, e.g. what a prompt asked for.
        """
        ...


def label_names(target: Target, task: Task) -> Sequence[str]:
    """Return the names of the classes that a task tells apart on a target."""
    return target.pixel_classes if task.needs else target.class_names


def licence_of(target: Target) -> str:
    """Return what goes with everything that is made of a target's photographs."""
    return target.notice.partition("\n")[0]


def build(name: str, cache_dir: Path, **options: object) -> Target:
    """Build the target `name`, or the one at the dotted path `package.module:build`.

    Raises SettingsError for an option that the target does not have.
    """
    make = load("tools.targets", name)
    known = signature(make).parameters
    if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in known.values()):
        for option in options:
            if option not in known:
                what = unknown("option", option, known.keys() - {"cache_dir"})
                raise SettingsError(f"{what} They are options of the target {name!r}.")
    target: Target = make(cache_dir=cache_dir, **options)
    return target
