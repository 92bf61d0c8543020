"""How a user's own photographs are read: options as they are given, checked."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from memory.errors import DataError, unknown
from tools.data.samples import VOID
from tools.targets.user.pictures import COLOUR
from tools.targets.user.public_classes import PublicClasses

TASKS = ("classification", "segmentation", "depth", "normals")
DEPTH_SCALE = 256
_MULTIPLE = 8


@dataclass(frozen=True)
class Options:
    """How photographs are read.

    task: None for what the labels allow; size: (width, height), None for a usual one; pixel_names:
    class names by id, or by colour (`_pictures.COLOUR`), None where nobody names them; public: of
    the data set that the masks' file names tell of, used where nobody names them; void: ids of
    pixels of unknown class; depth_scale: what 16-bit depth is divided by; flips: see `Target`.
    """

    task: str | None = None
    size: tuple[int, int] | None = None
    pixel_names: Mapping[int, str] | None = None
    public: PublicClasses | None = None
    void: tuple[int, ...] = (VOID,)
    depth_scale: float = DEPTH_SCALE
    flips: tuple[str, ...] = ("horizontal",)
    seed: int = 0

    @property
    def by_colour(self) -> bool:
        """Tell whether masks are read by the colours of their pixels."""
        return bool(self.pixel_names) and all(n >= COLOUR for n in self.pixel_names or ())

    def with_names(
        self, names: Mapping[int, str] | None, public: PublicClasses | None = None
    ) -> Options:
        """Return the same options with the names of the ids in masks."""
        return replace(self, pixel_names=names, public=public)


def options_of(
    task: str | None,
    size: int | str | Sequence[int] | None,
    void: int | Sequence[int],
    depth_scale: float,
    flips: Sequence[str],
    seed: int,
) -> Options:
    """Check options as a user gives them; raises DataError that names the wrong one."""
    if task is not None and task not in TASKS:
        raise DataError(unknown("task", str(task), TASKS))
    flips = [flips] if isinstance(flips, str) else flips
    for name in flips:
        if name not in ("horizontal", "vertical"):
            raise DataError(unknown("flip", str(name), ("horizontal", "vertical")))
    if not isinstance(depth_scale, int | float) or not depth_scale > 0:
        raise DataError(f"depth_scale must be above 0, it is {depth_scale!r}.")
    numbers = [void] if isinstance(void, int) else void
    if isinstance(numbers, str) or not all(isinstance(number, int) for number in numbers):
        raise DataError(
            f"void must be an id of pixels in the masks, or a list as [255, 0], it is {void!r}. "
            "A class is void by its name, too: call it void in classes.txt."
        )
    if not isinstance(seed, int) or seed < 0:
        raise DataError(f"seed must be a whole number from 0 on, it is {seed!r}.")
    return Options(
        task=task,
        size=None if size is None else _size(size),
        void=tuple(numbers),
        depth_scale=depth_scale,
        flips=tuple(flips),
        seed=seed,
    )


def _size(size: int | str | Sequence[int]) -> tuple[int, int]:
    parts = size.lower().split("x") if isinstance(size, str) else size
    try:
        sides = [int(s) for s in parts] if not isinstance(parts, int) else [parts, parts]
        width, height = sides * 2 if len(sides) == 1 else sides
    except (TypeError, ValueError):
        width = height = 0
    if not all(side >= _MULTIPLE and side % _MULTIPLE == 0 for side in (width, height)):
        raise DataError(
            f"The size {size!r} cannot be used; give a number of pixels, or WIDTHxHEIGHT such as "
            f"96x64, in whole multiples of {_MULTIPLE}."
        )
    return width, height
