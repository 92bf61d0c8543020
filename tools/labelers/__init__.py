"""Labelers and label verifiers, one file each.

A file with a function `build` is a labeler, which adds pixel labels to drawn images; `audit` and
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
    """Predicts pixel labels for images.

    A labeler file has a function
    `build(generator, pixel_classes, device, **options) -> Labeler`.
    """

    @property
    def kinds(self) -> Sequence[str]:
        """Kinds of `Samples.labels` that it predicts."""

    @property
    def identity(self) -> str:
        """String that identifies everything that determines the labels, apart from the image."""

    def label(self, images: Images) -> tuple[Dense, Dense]:
        """Return labels and confidence, in the format of `tools.data.drawn.Drawn`.

        The labels of an image do not depend on other images.
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
        name: Name of the file, or a dotted path `package.module:build`.
        generator: Generator of the images.
        pixel_classes: Class names of the ids in the labels.
        device: Torch device.
        **options: Options of the labeler.
    """
    labeler: Labeler = load("tools.labelers", name)(
        generator=generator, pixel_classes=pixel_classes, device=device, **options
    )
    return labeler
