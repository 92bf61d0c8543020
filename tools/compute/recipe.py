"""How a generator is built: plain data, so that another process or machine can build the same."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tools import generators, labelers
from tools.generators import Generator
from tools.labelers.labelled import Labelled


@dataclass(frozen=True)
class Recipe:
    """Name and options of a generator and of its labeler.

    Attributes:
        name: Of the generator.
        image_shape: (channels, height, width).
        options: Of the generator.
        labeler: Its name; "none": no labeler.
        pixel_classes: Names of the class ids that the labeler's labels shall have.
        labeler_options: Of the labeler.
    """

    name: str
    image_shape: tuple[int, int, int]
    options: Mapping[str, object]
    labeler: str = "none"
    pixel_classes: Sequence[str] = ()
    labeler_options: Mapping[str, object] = field(default_factory=dict)

    def build(self, device: str) -> Generator:
        """Build the generator on a torch device."""
        generator = generators.build(self.name, self.image_shape, device, **self.options)
        if self.labeler == "none":
            return generator
        labeler = labelers.build(
            self.labeler, generator, self.pixel_classes, device, **self.labeler_options
        )
        return Labelled(generator, labeler)
