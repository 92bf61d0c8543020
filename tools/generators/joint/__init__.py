"""The generator `joint`: a Stable Diffusion model that draws pixel labels with the image.

`shaping pretrain --from MODEL` trains one, see `tools.pretraining.joint`. It consists of the model
with a UNet widened by label channels, and a LoRA. Pipeline, schedulers and options are those of the
model, see `text2image.diffusion_model`. Image and labels are denoised together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import DiffusionPipeline
from pydantic import Field

from memory.errors import SettingsError
from tools.data.drawn import Drawn, ImageRequest, join
from tools.generators import check_shape
from tools.generators.joint.folder import (
    ADAPTER_FILE,
    CARD_FILE,
    LABELS_FILE,
    JointCard,
    install,
    read_card,
)
from tools.generators.text2image.diffusion_model import DiffusionModel, ModelGenerator, load_model
from tools.generators.text2image.lora import require_peft
from tools.generators.text2image.model_options import ModelOptions
from tools.models.digests import files_sha256
from tools.plugins import read_options


class JointOptions(ModelOptions):
    """Options of the text-to-image model, and the folder of the joint model."""

    joint: str = Field("", description="the folder that `shaping pretrain --from MODEL` wrote")


class _LabelReader:
    """Callback at the end of a pipeline's steps that records the denoised labels.

    Attributes:
        clean: Denoised labels as estimated in the last step.
        previous: Denoised labels as estimated in the step before.
    """

    clean: torch.Tensor
    previous: torch.Tensor

    def __call__(
        self, pipeline: DiffusionPipeline, step: int, time: torch.Tensor, given: Mapping[str, Any]
    ) -> dict[str, torch.Tensor]:
        """Record the labels; after the last step, return only the image's latents for decoding."""
        clean = pipeline.unet.clean_labels
        if pipeline.do_classifier_free_guidance:
            uncond, cond = clean.chunk(2)
            clean = uncond + pipeline.guidance_scale * (cond - uncond)
        self.previous = self.clean if step else clean
        self.clean = clean
        if step < pipeline.num_timesteps - 1:
            return {}
        return {"latents": given["latents"][:, : pipeline.unet.n_image]}


class JointGenerator(ModelGenerator):
    """A joint model behind the generator protocol; sha256: digest of its folder's files."""

    name = "joint"

    def __init__(self, model: DiffusionModel, card: JointCard, sha256: str) -> None:
        super().__init__(model)
        self._card, self._sha256 = card, sha256

    @property
    def fingerprint(self) -> list[Any]:
        """Model, adapters, labels and sampling."""
        return [*self._model.fingerprint, self._sha256]

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        """Draw all requests; those with equal guidance and adapters share a batch."""
        readers: list[tuple[Sequence[int], _LabelReader]] = []

        def read_labels(rows: Sequence[int]) -> Mapping[str, Any]:
            readers.append((rows, _LabelReader()))
            return {"callback_on_step_end": readers[-1][1]}

        images = self._model.draw(requests, self._card.image_shape, read_labels)
        order = [row for rows, _ in readers for row in rows]
        parts = [
            Drawn(images[list(rows)], *self._card.labels.decode(reader.clean, reader.previous))
            for rows, reader in readers
        ]
        return join(parts).take(np.argsort(order))


def build(
    image_shape: tuple[int, int, int], device: str = "cpu", **options: object
) -> JointGenerator:
    """Load the joint model described by `JointOptions`.

    Raises:
        WeightsError: The joint model is missing, partial, damaged, or was trained for another
            model or other images; or a model or adapter cannot be used.
        SettingsError: Options are unknown or exclude each other.
    """
    chosen = read_options("generator.options", JointOptions, options)
    if not chosen.joint:
        raise SettingsError(
            "The generator 'joint' needs generator.options.joint: the folder that `shaping "
            "pretrain --from MODEL` wrote, beside generator.weights, the model."
        )
    if chosen.quantize != "none":
        raise SettingsError(
            "The generator 'joint' takes no generator.options.quantize. Leave it out, or use the "
            "generator 'text2image'."
        )
    require_peft()
    folder = Path(chosen.joint).expanduser()
    card = read_card(folder)
    command = "shaping pretrain --from MODEL"
    check_shape(f"joint model {folder}", card.image_shape, image_shape, command)
    size = (chosen.size, chosen.size) if isinstance(chosen.size, int) else chosen.size
    if size not in (None, card.size):
        raise SettingsError(
            f"generator.options.size is {size}, but the joint model {folder} draws pictures of "
            f"{card.size}. Leave it out."
        )
    adapters = {str(folder / ADAPTER_FILE): 1.0, **chosen.adapters}
    model = load_model(
        chosen.model_copy(update={"size": card.size, "adapters": adapters}),
        device,
        prepare=lambda pipeline, sha256: install(folder, card, pipeline, sha256),
    )
    sha256 = files_sha256([folder / CARD_FILE, folder / LABELS_FILE])
    return JointGenerator(model, card, sha256)
