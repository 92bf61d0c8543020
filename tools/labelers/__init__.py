"""Labelers and label verifiers. One file per way to get, or to check, the labels of an image.

A file with a function `build` gives labels of pixels to images that were drawn without; `audit` and
`dense_audit` verify labels, see `tools.generate_batch.LabelVerifier`.
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

    @property
    def identity(self) -> str:
        """A name for all that decides the labels beside the image."""

    def label(self, images: Images) -> tuple[Dense, Dense]:
        """Return labels and the confidence in them, as `tools.data.drawn.Drawn` has them.

        The labels of an image do not depend on the other images.
        """


def build(
    name: str,
    generator: Generator,
    pixel_classes: Sequence[str],
    device: str = "cpu",
    **options: object,
) -> Labeler:
    """Build a labeler.

    Args:
        name: Of the file, or a dotted path `package.module:build`.
        generator: Draws the images.
        pixel_classes: Names of the class ids that the labels shall have.
        device: A torch device.
        **options: Of the labeler.
    """
    labeler: Labeler = load("tools.labelers", name)(
        generator=generator, pixel_classes=pixel_classes, device=device, **options
    )
    return labeler
