"""The generator `text2image`: any text-to-image model of diffusers, by folder or hub id.

See `diffusion_model` for sampling and `ModelOptions` for the options. Images have no pixel labels.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tools.data.drawn import Drawn, ImageRequest
from tools.generators.text2image.diffusion_model import DiffusionModel, ModelGenerator, load_model
from tools.generators.text2image.model_options import ModelOptions
from tools.plugins import read_options


class Text2ImageGenerator(ModelGenerator):
    """A text-to-image model behind the generator protocol."""

    name = "text2image"
    open_vocabulary = True

    def __init__(self, model: DiffusionModel, image_shape: tuple[int, int, int]) -> None:
        super().__init__(model)
        self._shape = image_shape

    @property
    def fingerprint(self) -> list[Any]:
        """Weights, adapters, scheduler, precision and sampling."""
        return self._model.fingerprint

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        """Draw all requests; those with equal guidance and adapters share a batch."""
        return Drawn(self._model.draw(requests, self._shape))


def build(
    image_shape: tuple[int, int, int], device: str = "cpu", **options: object
) -> Text2ImageGenerator:
    """Load the text-to-image model described by `ModelOptions`.

    Raises:
        WeightsError: A model or adapter is missing, partial or pickled, or they do not match.
        SettingsError: An option is unknown or does not suit the model.
    """
    model = load_model(read_options("generator.options", ModelOptions, options), device)
    return Text2ImageGenerator(model, image_shape)
