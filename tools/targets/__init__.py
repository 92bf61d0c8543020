"""Targets: sources of real data that a model is trained and evaluated for.

`Target` is the protocol. To add one, write a file here with a function
`build(cache_dir, **options) -> Target`; `build` below finds it by its name.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextvars import ContextVar
from inspect import Parameter, signature
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from memory.errors import DataError, SettingsError, unknown
from prompts.vocabulary import Vocabulary
from tools.data.samples import Samples
from tools.plugins import load
from tools.settings import BOTH_FLIPS, TrainSettings

if TYPE_CHECKING:
    from tools.tasks import Task

Image = NDArray[np.uint8]

SPLITS = ("generator", "audit", "feedback", "test")

reading: ContextVar[Callable[[int, int], None]] = ContextVar(
    "reading", default=lambda done, total: None
)
"""Called with the number of photographs read and the total while an uncached target is built."""


@runtime_checkable
class Target(Protocol):
    """Real, labelled photographs.

    Attributes:
        name: Unique name, used in file names.
        task: Name of the task, see `tools.tasks`.
        image_shape: (channels, height, width), 1 or 3 channels.
        class_names: Image classes; ("scene",) if only pixels have classes.
        pixel_classes: Class names of the ids in `Samples.labels["segmentation"]`; () without one.
        vocabulary: Attributes of the images and their words.
        notice: Text about the data. The first line, on licence and origin, accompanies everything
            derived from the photographs; the other lines are for their owner only.
        flips: "horizontal", "vertical" if a mirrored image is as plausible as the image, with the
            same class and the same attributes except those that `flip` changes.
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
        """Return one of the four disjoint `SPLITS`; raises DataError for another name.

        `generator` trains the MTDM, `audit` the label verifier; the agent plans by results on
        `feedback`; `test` is for reports and comparisons only.
        """

    def flip(self, attributes: dict[str, str], horizontal: bool, vertical: bool) -> dict[str, str]:
        """Return the attributes of the mirrored image; by default they are unchanged."""
        return attributes

    def measure(self, image: Image, attributes: Mapping[str, str]) -> dict[str, str]:
        """Return the attributes that can be measured on an image.

        Args:
            image: uint8, `image_shape`.
            attributes: Known attributes of the image, e.g. those requested by its prompt.
        """


def check_split(name: str) -> None:
    """Raise DataError unless a name is one of the `SPLITS`."""
    if name not in SPLITS:
        raise DataError(unknown("split", name, SPLITS))


def flip_where(attributes: dict[str, str], horizontal: bool, vertical: bool) -> dict[str, str]:
    """Return the attributes of the mirrored image, of which only `where` changes."""
    swap = {"left": "right", "right": "left"} if horizontal else {}
    swap |= {"top": "bottom", "bottom": "top"} if vertical else {}
    where = attributes.get("where", "")
    return {**attributes, "where": swap[where]} if where in swap else attributes


def label_names(target: Target, task: Task) -> Sequence[str]:
    """Return the class names that a task distinguishes on a target."""
    return target.pixel_classes if task.needs else target.class_names


Trained = TypeVar("Trained", bound=TrainSettings)


def with_flips(settings: Trained, target: Target) -> Trained:
    """Return training settings with the flips that a target allows, unless they set any."""
    if settings.flips is not None or {*BOTH_FLIPS} <= {*target.flips}:
        return settings
    return settings.model_copy(update={"flips": tuple(target.flips)})


def licence_of(target: Target) -> str:
    """Return the licence that accompanies everything derived from a target's photographs.

    This is the target's `licence` if it has one, otherwise the first line of its notice.
    """
    return str(getattr(target, "licence", target.notice.partition("\n")[0]))


def build(name: str, cache_dir: Path, **options: object) -> Target:
    """Build the target `name`, or the one at the dotted path `package.module:build`.

    Raises:
        SettingsError: The target has no such option.
    """
    factory = load("tools.targets", name)
    parameters = signature(factory).parameters
    if not any(parameter.kind is Parameter.VAR_KEYWORD for parameter in parameters.values()):
        for option in options:
            if option not in parameters:
                message = unknown("option", option, parameters.keys() - {"cache_dir"})
                raise SettingsError(f"{message} They are options of the target {name!r}.")
    target: Target = factory(cache_dir=cache_dir, **options)
    return target
