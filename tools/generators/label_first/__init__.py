"""The generator `label_first`: a diffusion model draws images for given pixel labels.

Another generator, the source, draws an image with pixel labels; a text-to-image model draws the
prompt again, conditioned on the labels through a ControlNet (Zhang et al. 2023), on the noised
image of the source (SDEdit, Meng et al. 2022), or on both. The result has the labels of the source.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field

from memory.errors import SettingsError
from tools import generators
from tools.data.drawn import Drawn, ImageRequest
from tools.generators import Generator
from tools.generators.label_first.conditions import Colours, condition, pictures, read_palette
from tools.generators.label_first.controlnet import load_controlnet
from tools.generators.text2image.diffusion_model import DiffusionModel, ModelGenerator, load_model
from tools.generators.text2image.model_options import ModelOptions
from tools.models.digests import folder_sha256
from tools.plugins import read_options

Condition = Literal["depth", "segmentation", "normals"]


class LabelFirstOptions(ModelOptions):
    """Options of the text-to-image model and of its conditioning on labels."""

    source: dict[str, Any] = Field(
        default_factory=dict, description="the generator of the labels: name, and its options"
    )
    controlnet: str | None = Field(None, description="the folder of a diffusers ControlNet")
    condition: Condition = Field("depth", description="the labels that the ControlNet sees")
    control_scale: float = Field(1.0, ge=0, description="how strongly the ControlNet steers")
    palette: str | list[list[int]] = Field(
        "ade20k", description="colours of classes, see `conditions.read_palette`"
    )
    strength: float | None = Field(
        None,
        gt=0,
        le=1,
        description="draw over the source's image: noise added to it, 1 replaces it",
    )


class LabelFirstGenerator(ModelGenerator):
    """A source of labels and a model that draws images for them.

    Args:
        source: Generator of the labels.
        model: Draws the images, at a size with the labels' aspect ratio.
        image_shape: (channels, height, width) of the target.
        options: Options of the conditioning.
        control_sha256: Digest of the ControlNet; None: there is none.
        colours: Colours of class ids, (n_classes, 3).
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
        assert model.size is not None  # `load_model` sets it if `like` is given
        super().__init__(model)
        self._source, self._shape = source, image_shape
        self._size = model.size
        self._options, self._control_sha256, self._colours = options, control_sha256, colours
        call = inspect.signature(model.pipeline.__call__).parameters
        self._control_key = "control_image" if "control_image" in call else "image"

    @property
    def fingerprint(self) -> list[Any]:
        """Source, model, ControlNet and conditioning."""
        options = self._options
        steered = [self._control_sha256, options.condition, options.control_scale]
        colours = self._colours.tolist() if options.condition == "segmentation" else []
        return [
            self._source.identity,
            *self._model.fingerprint,
            *([*steered, colours] if self._control_sha256 else []),
            options.strength,
        ]

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        """Draw labels, then images for them; guidance and adapters apply to the model only."""
        plain = [replace(r, guidance=None, feedback=None, adapters={}) for r in requests]
        drawn = self._source.draw(plain)

        def steering(rows: Sequence[int]) -> Mapping[str, Any]:
            batch = drawn.take(rows)
            arguments: dict[str, Any] = {}
            if self._options.strength is not None:
                arguments["image"] = pictures(batch.images, self._size, smooth=True)
                arguments["strength"] = self._options.strength
            if self._control_sha256 is not None:
                kind = self._options.condition
                images = condition(kind, batch.labels[kind], self._colours)
                arguments[self._control_key] = pictures(images, self._size, kind != "segmentation")
                arguments["controlnet_conditioning_scale"] = self._options.control_scale
            return arguments

        images = self._model.draw(requests, self._shape, steering)
        return Drawn(images, drawn.labels, drawn.confidence)


def build(
    image_shape: tuple[int, int, int], device: str = "cpu", **options: object
) -> LabelFirstGenerator:
    """Load the source and the model described by `LabelFirstOptions`.

    Raises:
        SettingsError: Options are unknown or exclude each other, or the source lacks the labels.
        WeightsError: A model, an adapter or a ControlNet cannot be used.
    """
    chosen = read_options("generator.options", LabelFirstOptions, options)
    if chosen.controlnet is None and chosen.strength is None:
        raise SettingsError(
            "label_first needs a ControlNet or a strength: set generator.options.controlnet to the "
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
    """Build the generator of the labels, and check shape and labels of one of its images."""
    name = options.source.get("name")
    if not isinstance(name, str):
        raise SettingsError(
            "generator.options.source must name the generator that draws the labels, e.g. "
            f"{{name: streets}}, got {options.source}."
        )
    source_options = {key: value for key, value in options.source.items() if key != "name"}
    source = generators.build(name, image_shape, device, **source_options)
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
