"""The labeler `marigold`: diffusion models that see depth and normals (Ke et al. 2024).

Marigold's pipelines of diffusers, in local folders; safetensors alone, no code of a folder is run.
Its depth is relative: of each picture by itself, from its nearest point at 0 to its farthest at 1,
so metres of it are as good as the scale that is stated. The noise is the same for every picture,
so what is said of one does not depend on the others.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import (
    DiffusionPipeline,
    MarigoldDepthPipeline,
    MarigoldNormalsPipeline,
)
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from pydantic import Field
from transformers.utils import logging as transformers_logging

from memory.errors import SettingsError, WeightsError
from tools.data.samples import Dense, Images
from tools.diffusion.noise import seeded_generator
from tools.generators import Generator
from tools.generators.text2image.diffusion_model import DTYPES
from tools.labelers._depth_unit import DepthOutput, DepthUnit, check_scale
from tools.labelers._options import read_options
from tools.models.diffusers_folder import checked_index, folder_sha256

Kind = Literal["depth", "normals"]

_KINDS: Mapping[Kind, type[DiffusionPipeline]] = {
    "depth": MarigoldDepthPipeline,
    "normals": MarigoldNormalsPipeline,
}
_BATCH = 16
# Marigold's axes are right, up, towards the viewer; ours right, down, forward.
_AXES = np.array([1, -1, -1], np.float32)[:, None, None]


class MarigoldSettings(DepthUnit):
    """Options of the labeler; at least one of the two models.

    members: runs with other noise that are joined; 3 or more also give a confidence.
    """

    depth: str | None = Field(None, description="folder of a MarigoldDepthPipeline")
    normals: str | None = Field(None, description="folder of a MarigoldNormalsPipeline")
    steps: int | None = Field(None, ge=1, description="of denoising; None: the model's own")
    resolution: int | None = Field(
        None,
        ge=0,
        description="longer side, pixels, that the model sees; 0: the images', None: own",
    )
    members: int = Field(1, ge=1)
    dtype: Literal["float32", "float16", "bfloat16"] = "float32"


@dataclass(frozen=True)
class Marigold:
    """The pipelines by what they give; see `tools.labelers.Labeler`. sha256: of their files."""

    options: MarigoldSettings
    pipelines: Mapping[Kind, DiffusionPipeline]
    sha256: Mapping[Kind, str]

    @property
    def kinds(self) -> Sequence[str]:
        """Return the kinds of labels that there is a model for."""
        return list(self.pipelines)

    @property
    def identity(self) -> str:
        """Return a digest of weights, scale and sampling."""
        meaning = self.options.model_dump(exclude={"depth", "normals"})
        content = json.dumps([meaning, dict(self.sha256)], sort_keys=True).encode()
        return f"marigold {hashlib.sha256(content).hexdigest()[:16]}"

    def label(self, images: Images) -> tuple[Dense, Dense]:
        """Return labels and, of 3 members or more, how far these agree, 0..1, in every pixel."""
        labels: dict[str, NDArray[Any]] = {}
        confidence: dict[str, NDArray[np.float32]] = {}
        for kind in self.pipelines:
            size = images.shape[2:]
            parts = [
                self._said(kind, images[start : start + _BATCH])
                for start in range(0, len(images), _BATCH)
            ]
            width = 1 if kind == "depth" else 3
            empty = (np.zeros((0, width, *size), np.float32), np.zeros((0, 1, *size), np.float32))
            said, unsure = (np.concatenate(column) for column in zip(empty, *parts, strict=True))
            labels[kind] = self._metres(said) if kind == "depth" else facing(said)
            if self.options.members > 1:
                confidence[kind] = (1 - unsure[:, 0]).clip(0, 1)
        return labels, confidence

    def _said(self, kind: Kind, images: Images) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return what a pipeline says, (n, 1 or 3, h, w), and its uncertainty, (n, 1, h, w)."""
        members = self.options.members
        found = self.pipelines[kind](
            torch.from_numpy(images).float() / 255,
            num_inference_steps=self.options.steps,
            processing_resolution=self.options.resolution,
            ensemble_size=members,
            # All at once, since some schedulers draw noise for all of them in every step.
            batch_size=len(images) * members,
            generator=[
                seeded_generator(0, "marigold", member)
                for _ in range(len(images))
                for member in range(members)
            ],
            output_type="pt",
            output_uncertainty=members > 1,
        )
        said = found.prediction.float().cpu().numpy()
        if members == 1:
            return said, np.zeros((len(said), 1, *said.shape[2:]), np.float32)
        return said, found.uncertainty.float().cpu().numpy()

    def _metres(self, said: NDArray[np.float32]) -> NDArray[np.float32]:
        shares = torch.from_numpy(said[:, 0])
        found: NDArray[np.float32] = self.options.metres(shares, shares > 1e-3).numpy()
        return found


def facing(said: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return Marigold's normals as unit vectors as in `Samples`, NaN where one faces away.

    said: (n, 3, h, w), x right, y up, z towards the viewer, of about unit length.
    """
    turned = said * _AXES
    length = np.linalg.norm(turned, axis=1, keepdims=True)
    known = (length > 1e-3) & (turned[:, 2:] <= 0)
    found: NDArray[np.float32] = np.where(known, turned / np.maximum(length, 1e-3), np.nan)
    return found.astype(np.float32)


def build(
    generator: Generator, pixel_classes: Sequence[str], device: str = "cpu", **options: object
) -> Marigold:
    """Load the pipelines of `MarigoldSettings`.

    Raises SettingsError for options or a scale that cannot be used, WeightsError for a folder that
    cannot.
    """
    chosen = read_options("marigold", MarigoldSettings, options)
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
    """Raise SettingsError unless the unit is stated and goes with what the model says."""
    of_disparity = checked_index(folder).get("prediction_type") == "disparity"
    wanted: DepthOutput = "inverse" if of_disparity else "linear"
    if options.depth_output is None:
        raise SettingsError(
            f"What the depth model {folder} says has no known unit. State it with "
            f"labeler.options.depth_output={wanted} and depth_scale, metres."
        )
    if options.depth_output != wanted:
        raise SettingsError(
            f"labeler.options.depth_output is {options.depth_output}, but what the depth model "
            f"{folder} says is {wanted}. Set depth_output={wanted} and depth_scale, metres."
        )
    check_scale(wanted, options.depth_scale)


def _load(kind: Kind, folder: Path, options: MarigoldSettings, device: str) -> DiffusionPipeline:
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        pipeline = _KINDS[kind].from_pretrained(
            folder, dtype=DTYPES[options.dtype], local_files_only=True, use_safetensors=True
        )
    except Exception as error:  # diffusers, transformers and safetensors raise many types
        raise WeightsError(
            f"The model in {folder} is damaged or of another version: {error} Copy it again."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    unit = pipeline.vae_scale_factor
    for name, own in (
        ("resolution", pipeline.default_processing_resolution),
        ("steps", pipeline.default_denoising_steps),
    ):
        value = getattr(options, name)
        if (own if value is None else value) is None:
            raise SettingsError(
                f"The model {folder} has no {name} of its own. Set labeler.options.{name}."
            )
    if (options.resolution or 0) % unit:
        raise SettingsError(
            f"labeler.options.resolution is {options.resolution}, but the model sees multiples of "
            f"{unit} pixels."
        )
    placed: DiffusionPipeline = pipeline.to(device)
    return placed
