"""The generator `label_first`: labels come first, and a diffusion model draws the picture to them.

Another generator, the source, draws a picture with labels of pixels; a text-to-image model draws
the prompt anew, steered by the labels through a ControlNet (Zhang et al. 2023), over the source's
picture made noisy (SDEdit, Meng et al. 2022), or both. The labels are the source's: the condition
is the label.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from memory.errors import SettingsError
from tools import generators
from tools.data.drawn import Drawn, ImageRequest
from tools.generators import Generator
from tools.generators.label_first.conditions import Colours, condition, pictures, read_palette
from tools.generators.label_first.controlnet import load_controlnet
from tools.generators.text2image.diffusion_model import DiffusionModel, load_model
from tools.generators.text2image.model_options import ModelOptions, read_options
from tools.models.diffusers_folder import folder_sha256

Condition = Literal["depth", "segmentation", "normals"]


class LabelFirstOptions(ModelOptions):
    """Options of the text-to-image model, and how labels steer it."""

    source: dict[str, Any] = Field(
        default_factory=dict, description="the generator of the labels: name, and its options"
    )
    controlnet: str | None = Field(None, description="the folder of a diffusers ControlNet")
    condition: Condition = Field("depth", description="the labels that the ControlNet sees")
    control_scale: float = Field(1.0, ge=0, description="how strongly the ControlNet steers")
    palette: str | list[list[int]] = Field(
        "ade20k", description="of segmentation, see `_conditions.read_palette`"
    )
    strength: float | None = Field(
        None,
        gt=0,
        le=1,
        description="draw over the source's picture: how much of it is lost, 1 is all",
    )


class LabelFirstGenerator:
    """A source of labels, and the model that draws pictures to them.

    control_sha256: of the ControlNet, None where there is none; colours: of class ids.
    """

    name = "label_first"

    def __init__(
        self,
        source: Generator,
        model: DiffusionModel,
        image_shape: tuple[int, int, int],
        options: LabelFirstOptions,
        control_sha256: str | None,
        colours: Colours,
    ) -> None:
        assert model.size is not None  # `load_model` gives one of the labels' aspect ratio
        self.pipeline, self.max_tokens = model.pipeline, model.max_tokens
        self._source, self._model, self._shape = source, model, image_shape
        self._size = model.size
        self._options, self._control_sha256, self._colours = options, control_sha256, colours
        call = inspect.signature(model.pipeline.__call__).parameters
        self._control_key = "control_image" if "control_image" in call else "image"

    @cached_property
    def identity(self) -> str:
        """Return a digest of source, model, ControlNet, and how labels become pictures."""
        options = self._options
        steered = [self._control_sha256, options.condition, options.control_scale]
        colours = self._colours.tolist() if options.condition == "segmentation" else []
        said = [
            self._source.identity,
            *self._model.said,
            *([*steered, colours] if self._control_sha256 else []),
            options.strength,
        ]
        return f"label_first {hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]}"

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of the encoder that reads most of a prompt."""
        return self._model.count_tokens(text)

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        """Draw labels, then pictures to them; a prompt's guidance and adapters are the model's."""
        plain = [replace(r, guidance=None, pull=None, adapters={}) for r in requests]
        drawn = self._source.draw(plain)

        def steering(rows: Sequence[int]) -> Mapping[str, Any]:
            chosen = drawn.take(rows)
            more: dict[str, Any] = {}
            if self._options.strength is not None:
                more["image"] = pictures(chosen.images, self._size, smooth=True)
                more["strength"] = self._options.strength
            if self._control_sha256 is not None:
                kind = self._options.condition
                seen = condition(kind, chosen.labels[kind], self._colours)
                more[self._control_key] = pictures(seen, self._size, kind != "segmentation")
                more["controlnet_conditioning_scale"] = self._options.control_scale
            return more

        images = self._model.draw(requests, self._shape, steering)
        return Drawn(images, drawn.labels, drawn.confidence)


def build(
    image_shape: tuple[int, int, int], device: str = "cpu", **options: object
) -> LabelFirstGenerator:
    """Load the source and the model that `LabelFirstOptions` describe.

    Raises SettingsError for options that are unknown or do not go together, and for a source
    without the labels; WeightsError for a model, an adapter or a ControlNet that cannot be used.
    """
    chosen = read_options(LabelFirstOptions, options)
    if chosen.controlnet is None and chosen.strength is None:
        raise SettingsError(
            "label_first needs what steers the picture: set generator.options.controlnet to the "
            "folder of a ControlNet, or generator.options.strength, e.g. 0.6, to draw over the "
            "source's picture."
        )
    if chosen.strength is not None and int(chosen.steps * chosen.strength) < 1:
        raise SettingsError(
            f"generator.options.strength {chosen.strength:g} of {chosen.steps} steps leaves none. "
            f"Set generator.steps to {round(1 / chosen.strength + 0.5)} or more."
        )
    colours = read_palette(chosen.palette)
    source = _source(chosen, image_shape, device)
    control = control_sha256 = None
    if chosen.controlnet is not None:
        control = load_controlnet(chosen.controlnet, chosen, device)
        control_sha256 = folder_sha256(Path(chosen.controlnet).expanduser())
    model = load_model(
        chosen,
        device,
        from_image=chosen.strength is not None,
        controlnet=control,
        like=image_shape[1:],
    )
    return LabelFirstGenerator(source, model, image_shape, chosen, control_sha256, colours)


def _source(
    options: LabelFirstOptions, image_shape: tuple[int, int, int], device: str
) -> Generator:
    """Build the generator of the labels, and let it draw one image to see what it gives."""
    name = options.source.get("name")
    if not isinstance(name, str):
        raise SettingsError(
            "generator.options.source must name the generator that draws the labels, e.g. "
            f"{{name: streets}}, got {options.source}."
        )
    more = {key: value for key, value in options.source.items() if key != "name"}
    source = generators.build(name, image_shape, device, **more)
    drawn = source.draw([ImageRequest("a street", "trial", 0, 0)])
    if drawn.images.shape[1:] != image_shape:
        raise SettingsError(
            f"The source {name!r} draws images of shape {drawn.images.shape[1:]}, but the target's "
            f"are {image_shape}. Choose a source of the target's size."
        )
    wanted = options.condition if options.controlnet is not None else None
    if not drawn.labels or (wanted is not None and wanted not in drawn.labels):
        raise SettingsError(
            f"The source {name!r} draws {', '.join(drawn.labels) or 'no labels of pixels'}, but "
            f"{wanted or 'labels'} of pixels are needed. Choose another "
            "generator.options.source or generator.options.condition."
        )
    return source
