"""The generator `text2image`: any text-to-image model of diffusers, by folder or hub id.

See `_diffusion_model` for how it draws and `_model_options` for its options. The model draws no
labels of pixels.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property

from tools.data.drawn import Drawn, ImageRequest
from tools.generators.text2image.diffusion_model import DiffusionModel, load_model
from tools.generators.text2image.model_options import ModelOptions, read_options


class Text2ImageGenerator:
    """A text-to-image model behind the generator protocol."""

    name = "text2image"

    def __init__(self, model: DiffusionModel, image_shape: tuple[int, int, int]) -> None:
        self.pipeline, self.max_tokens = model.pipeline, model.max_tokens
        self._model, self._shape = model, image_shape

    @cached_property
    def identity(self) -> str:
        """Return a digest of weights, adapters, scheduler, precision and sampling."""
        return (
            f"text2image {hashlib.sha256(json.dumps(self._model.said).encode()).hexdigest()[:16]}"
        )

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of the encoder that reads most of a prompt."""
        return self._model.count_tokens(text)

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        """Draw all requests; those of equal guidance and adapters share a batch."""
        return Drawn(self._model.draw(requests, self._shape))


def build(
    image_shape: tuple[int, int, int], device: str = "cpu", **options: object
) -> Text2ImageGenerator:
    """Load the text-to-image model that `ModelOptions` describe.

    Raises WeightsError for a model or adapter that is missing, partial, pickled or foreign, and
    SettingsError for an option that is unknown or does not suit the model.
    """
    model = load_model(read_options(ModelOptions, options), device)
    return Text2ImageGenerator(model, image_shape)
