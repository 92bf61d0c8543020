"""The labeler `marigold`: diffusion models that predict depth and normals (Ke et al. 2024).

Loads Marigold pipelines of diffusers from local folders; only safetensors, no code of a folder is
run. Depth is relative, from 0 at the nearest point of an image to 1 at its farthest, so metres are
only as accurate as the scale in the options. The noise is the same for every image, so the labels
of an image do not depend on others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import DiffusionPipeline, MarigoldDepthPipeline, MarigoldNormalsPipeline
from numpy.typing import NDArray
from pydantic import Field

from memory.errors import SettingsError, WeightsError
from tools.data.samples import Dense, Images
from tools.diffusion.sampler import seeded_generator
from tools.generators import Generator
from tools.generators.text2image.diffusion_model import DTYPES
from tools.labelers.depth_unit import DepthOutput, DepthUnit, check_scale
from tools.models.diffusers_folder import checked_index
from tools.models.digests import folder_sha256, identity_of
from tools.models.folders import explained
from tools.plugins import read_options
from tools.tasks import pixel_batches

Kind = Literal["depth", "normals"]

_KINDS: Mapping[Kind, type[DiffusionPipeline]] = {
    "depth": MarigoldDepthPipeline,
    "normals": MarigoldNormalsPipeline,
}
_BATCH = 16
# Marigold's axes are right, up, towards the viewer; ours right, down, forward.
_AXES = np.array([1, -1, -1], np.float32)[:, None, None]


class MarigoldSettings(DepthUnit):
    """Options of the labeler; at least one of the two models is required.

    Attributes:
        members: Number of averaged runs with different noise; 3 or more also give a confidence.
    """

    depth: str | None = Field(None, description="folder of a MarigoldDepthPipeline")
    normals: str | None = Field(None, description="folder of a MarigoldNormalsPipeline")
    steps: int | None = Field(None, ge=1, description="denoising steps; None: the model's default")
    resolution: int | None = Field(
        None,
        ge=0,
        description="longer side of the model's input, pixels; 0: the images'; None: default",
    )
    members: int = Field(1, ge=1)
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Marigold:
    """A `Labeler`.

    Attributes:
        options: Scale and sampling.
        pipelines: Pipelines by kind of labels.
        sha256: Digests of their files, by kind.
    """

    options: MarigoldSettings
    pipelines: Mapping[Kind, DiffusionPipeline]
    sha256: Mapping[Kind, str]

    @property
    def kinds(self) -> Sequence[str]:
        """Return the kinds of labels that have a model."""
        return list(self.pipelines)

    @property
    def identity(self) -> str:
        """Return a digest of weights, scale and sampling."""
        options = self.options.model_dump(exclude={"depth", "normals"})
        ordered = [dict(sorted(part.items())) for part in (options, self.sha256)]
        return identity_of("marigold", ordered)

    def label(self, images: Images) -> tuple[Dense, Dense]:
        """Return labels and, with 3 or more members, their agreement, 0..1, per pixel."""
        labels: dict[str, NDArray[Any]] = {}
        confidence: dict[str, NDArray[np.float32]] = {}
        for kind in self.pipelines:
            parts = [self._predict(kind, pixels) for pixels in pixel_batches(images, _BATCH)]
            values, uncertainty = (np.concatenate(column) for column in zip(*parts, strict=True))
            labels[kind] = self._metres(values) if kind == "depth" else facing(values)
            if self.options.members > 1:
                confidence[kind] = (1 - uncertainty[:, 0]).clip(0, 1)
        return labels, confidence

    def _predict(
        self, kind: Kind, images: torch.Tensor
    ) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return a pipeline's prediction, (n, 1 or 3, h, w), and uncertainty, (n, 1, h, w)."""
        n, _, *size = images.shape
        none = np.zeros((n, 1, *size), np.float32)
        if not n:
            return np.zeros((0, 1 if kind == "depth" else 3, *size), np.float32), none
        members = self.options.members
        result = self.pipelines[kind](
            images,
            num_inference_steps=self.options.steps,
            processing_resolution=self.options.resolution,
            ensemble_size=members,
            # A single batch, since some schedulers draw noise for the whole batch in every step.
            batch_size=n * members,
            generator=[
                seeded_generator(0, "marigold", member)
                for _ in range(n)
                for member in range(members)
            ],
            output_type="pt",
            output_uncertainty=members > 1,
        )
        prediction = result.prediction.float().cpu().numpy()
        return prediction, none if members == 1 else result.uncertainty.float().cpu().numpy()

    def _metres(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        depth = torch.from_numpy(values[:, 0])
        return self.options.metres(depth, depth > 1e-3).numpy()


def facing(normals: NDArray[np.float32]) -> NDArray[np.float32]:
    """Convert Marigold's normals to those of `Samples`; NaN where one faces away.

    Args:
        normals: (n, 3, h, w), x right, y up, z towards the viewer, of about unit length.
    """
    ours = normals * _AXES
    length = np.linalg.norm(ours, axis=1, keepdims=True)
    known = (length > 1e-3) & (ours[:, 2:] <= 0)
    unit: NDArray[np.float32] = np.where(known, ours / np.maximum(length, 1e-3), np.nan)
    return unit.astype(np.float32)


def build(
    generator: Generator, pixel_classes: Sequence[str], device: str = "cpu", **options: object
) -> Marigold:
    """Load the pipelines of `MarigoldSettings`.

    Raises:
        SettingsError: An option or a scale is invalid.
        WeightsError: A model cannot be loaded.
    """
    chosen = read_options("labeler.options", MarigoldSettings, options)
    if chosen.members == 2:
        raise SettingsError("labeler.options.members=2 is no better than 1. Set it to 3 or more.")
    folders: dict[Kind, Path] = {
        kind: Path(path).expanduser()
        for kind in _KINDS
        if (path := getattr(chosen, kind)) is not None
    }
    if not folders:
        raise SettingsError(
            "The labeler 'marigold' needs a model: set labeler.options={depth: FOLDER} or "
            "{normals: FOLDER}."
        )
    for kind, folder in folders.items():
        _check(kind, folder)
    if "depth" in folders:
        _check_unit(folders["depth"], chosen)
    pipelines = {kind: _load(kind, folder, chosen, device) for kind, folder in folders.items()}
    digests = {kind: folder_sha256(folder) for kind, folder in folders.items()}
    return Marigold(chosen, pipelines, digests)


def _check(kind: Kind, folder: Path) -> None:
    index = checked_index(folder)
    expected = _KINDS[kind].__name__
    if index.get("_class_name") != expected:
        raise WeightsError(
            f"{folder} is a {index.get('_class_name')}, but labeler.options.{kind} needs a "
            f"{expected}. Give the folder of one."
        )


def _check_unit(folder: Path, options: MarigoldSettings) -> None:
    """Raise SettingsError unless the given unit is that of the model's output."""
    of_disparity = checked_index(folder).get("prediction_type") == "disparity"
    wanted: DepthOutput = "inverse" if of_disparity else "linear"
    if options.depth_output is None:
        raise SettingsError(
            f"The output of the depth model {folder} has no known unit. Set it with "
            f"labeler.options.depth_output={wanted} and depth_scale, metres."
        )
    if options.depth_output != wanted:
        raise SettingsError(
            f"labeler.options.depth_output is {options.depth_output}, but the output of the depth "
            f"model {folder} is {wanted}. Set depth_output={wanted} and depth_scale, metres."
        )
    check_scale(wanted, options.depth_scale)


def _load(kind: Kind, folder: Path, options: MarigoldSettings, device: str) -> DiffusionPipeline:
    with explained(
        f"The model in {folder} is damaged or of another version: {{error}} Copy it again."
    ):
        pipeline = _KINDS[kind].from_pretrained(
            folder, dtype=DTYPES[options.dtype], local_files_only=True, use_safetensors=True
        )
    pipeline.set_progress_bar_config(disable=True)
    unit = pipeline.vae_scale_factor
    for name, default in (
        ("resolution", pipeline.default_processing_resolution),
        ("steps", pipeline.default_denoising_steps),
    ):
        if getattr(options, name) is None and default is None:
            raise SettingsError(
                f"The model {folder} has no {name} of its own. Set labeler.options.{name}."
            )
    if (options.resolution or 0) % unit:
        raise SettingsError(
            f"labeler.options.resolution is {options.resolution}, but the model takes multiples "
            f"of {unit} pixels."
        )
    return pipeline.to(device)
