"""Ways to get, or to judge, the labels of an image. One file per way.

A file with a function `build` gives labels of pixels to images that were drawn without; the others
are judges, see `tools.generate_batch.Judge`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from tools.data.samples import Dense, Images
from tools.plugins import load

if TYPE_CHECKING:
    from tools.generators import Generator


@runtime_checkable
class Labeler(Protocol):
    """Gives labels of pixels to images.

    A labeler file has a function
    `build(generator, pixel_classes, device, **options) -> Labeler`.
    """

    @property
    def kinds(self) -> Sequence[str]:
        """The kinds of `Samples.labels` that it gives."""
        ...

    @property
    def identity(self) -> str:
        """A name for all that decides the labels beside the image."""
        ...

    def label(self, images: Images) -> tuple[Dense, Dense]:
        """Return labels and the confidence in them, as `tools.data.drawn.Drawn` has them.

        What is said of an image does not depend on the others.
        """
        ...


def build(
    name: str,
    generator: Generator,
    pixel_classes: Sequence[str],
    device: str = "cpu",
    **options: object,
) -> Labeler:
    """Build the labeler `name`, or the one at the dotted path `package.module:build`.

    generator: draws the images; pixel_classes: names of the class ids that the labels shall have.
    """
    labeler: Labeler = load("tools.labelers", name)(
        generator=generator, pixel_classes=pixel_classes, device=device, **options
    )
    return labeler
