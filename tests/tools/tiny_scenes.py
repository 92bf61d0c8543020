"""Small rendered scenes with labels of pixels, and tiny models for them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    StableDiffusionPipeline,
    UNet2DConditionModel,
)
from numpy.typing import NDArray
from transformers import CLIPTextModel

from benchmarks.architectures import tokenizer
from prompts.vocabulary import load_vocabulary
from tests.tools.tiny_diffusers import text_config
from tools.data.samples import Samples
from tools.diffusion.label_codes import LabelCodes, LabelGrid
from tools.generators.joint.folder import JointCard, save_joint, widen
from tools.generators.text2image.diffusion_model import DiffusionModel, load_model
from tools.generators.text2image.model_options import ModelOptions
from tools.models.digests import folder_sha256
from tools.pretraining.finetuning import ATTENTION, add_lora, lora_state
from tools.streets import CLASS_NAMES, HEIGHT, WIDTH, Scene, render


class Scenes:
    """The same few scenes of streets in every split; each has other attributes.

    coarseness: of each square of so many pixels' side the first one is kept.
    """

    name = "scenes"
    task = "segmentation"
    class_names: Sequence[str] = ("scene",)
    pixel_classes: Sequence[str] = CLASS_NAMES
    notice = "Rendered."
    flips: tuple[str, ...] = ()

    def __init__(self, n: int = 4, coarseness: int = 4) -> None:
        self.image_shape: tuple[int, int, int] = (3, HEIGHT // coarseness, WIDTH // coarseness)
        self.vocabulary = load_vocabulary("streets")
        by_attributes: dict[tuple[tuple[str, str], ...], Scene] = {}
        for seed in count():
            scene = render({}, seed)
            by_attributes.setdefault(tuple(sorted(scene.attributes.items())), scene)
            if len(by_attributes) == n:
                break
        scenes = list(by_attributes.values())

        def taken(kind: str) -> NDArray[Any]:
            every = np.stack([getattr(scene, kind) for scene in scenes])
            return np.ascontiguousarray(every[..., ::coarseness, ::coarseness])

        self.samples = Samples(
            images=taken("image"),
            classes=np.zeros(n, np.int64),
            attributes=[scene.attributes for scene in scenes],
            ids=[str(i) for i in range(n)],
            labels={kind: taken(kind) for kind in ("segmentation", "depth", "normals")},
        )

    def split(self, name: str) -> Samples:
        return self.samples

    def flip(self, attributes: dict[str, str], horizontal: bool, vertical: bool) -> dict[str, str]:
        return attributes

    def measure(self, image: NDArray[np.uint8], attributes: Mapping[str, str]) -> dict[str, str]:
        return {}


def stable_diffusion_of(scenes: Samples, folder: Path) -> None:
    """Random weights, latents of a quarter of the pixels' sides that have unit variance.

    It predicts velocities, as Stable Diffusion 2.1 does: a noise predictor's errors at the first
    steps are 15 times as large in the image, which one that was never trained does not get over.
    """
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(8, 8, 8),
        latent_channels=4,
        norm_num_groups=4,
    )
    pixels = torch.from_numpy(scenes.images).float() / 127.5 - 1
    with torch.no_grad():
        vae.register_to_config(
            scaling_factor=1 / float(vae.encode(pixels).latent_dist.mode().std())
        )
    config = text_config()
    config.hidden_size = 64
    height, width = scenes.images.shape[2:]
    StableDiffusionPipeline(
        vae=vae,
        text_encoder=CLIPTextModel(config),
        tokenizer=tokenizer(),
        unet=UNet2DConditionModel(
            sample_size=(height // 4, width // 4),
            down_block_types=("CrossAttnDownBlock2D",),
            up_block_types=("CrossAttnUpBlock2D",),
            block_out_channels=(128,),
            layers_per_block=1,
            norm_num_groups=16,
            cross_attention_dim=64,
            attention_head_dim=4,
        ),
        scheduler=DDIMScheduler(
            beta_schedule="scaled_linear",
            beta_start=0.00085,
            beta_end=0.012,
            prediction_type="v_prediction",
            clip_sample=False,
            steps_offset=1,
            set_alpha_to_one=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def untrained_joint(model: Path, folder: Path, scenes: Scenes, size: tuple[int, int]) -> None:
    """A joint model of a model in a folder, as `pretrain_joint` writes it, random weights."""
    loaded, card = stirred_joint(model, scenes, size)
    save_joint(folder, card, loaded.pipeline, lora_state(loaded.pipeline.unet))


def stirred_joint(
    model: Path, scenes: Scenes, size: tuple[int, int]
) -> tuple[DiffusionModel, JointCard]:
    loaded = load_model(ModelOptions(weights=str(model), steps=3, size=size), "cpu")
    pipeline = loaded.pipeline
    codes = LabelCodes.of(scenes.samples, scenes.pixel_classes)
    grid = LabelGrid.of(codes, scenes.image_shape[1:], size, pipeline.vae_scale_factor)
    unet = widen(pipeline, grid.n_channels)
    add_lora(unet, 2, 0, "cpu", ATTENTION)
    unet.eval()
    torch.manual_seed(4)
    for name, parameter in unet.named_parameters():
        if "lora_B" in name or ".labels." in name:
            torch.nn.init.normal_(parameter, std=0.1)
    card = JointCard(
        model=str(model),
        revision=None,
        variant=None,
        model_sha256=folder_sha256(model),
        trained_on="nothing",
        steps=0,
        rank=2,
        image_shape=scenes.image_shape,
        size=size,
        labels=grid,
        n_unseen=0,
        error_image=1.0,
        error_labels=1.0,
    )
    return loaded, card
