"""Stable Diffusion 1.5 and SDXL with random weights, from configurations in this file.

Their speed and memory equal those of the published models, whose weights are not needed.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerDiscreteScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

LETTERS = "abcdefghijklmnopqrstuvwxyz,-"

_NOISE = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
_CLIP_L = {
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "projection_dim": 768,
}
_CLIP_G = {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "projection_dim": 1280,
    "hidden_act": "gelu",
}
_TINY_CLIP = {
    "hidden_size": 16,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "projection_dim": 16,
}


@dataclass(frozen=True)
class Architecture:
    """A text-to-image model.

    Attributes:
        size: Side of an image, pixels.
        unet: Arguments of diffusers' `UNet2DConditionModel`.
        text: Arguments of the configuration of each CLIP encoder; two for SDXL.
        vae: Width of each level of the VAE.
        norm_groups: Number of groups of the VAE's group normalisation.
    """

    size: int
    unet: Mapping[str, Any]
    text: Sequence[Mapping[str, Any]] = (_CLIP_L,)
    vae: Sequence[int] = (128, 256, 512, 512)
    norm_groups: int = 32


# Arguments omitted in "sd15" have the defaults of diffusers, which are those of Stable Diffusion 1.
MODELS = {
    "sd15": Architecture(512, {"sample_size": 64, "cross_attention_dim": 768}),
    "sdxl": Architecture(
        1024,
        {
            "sample_size": 128,
            "down_block_types": ("DownBlock2D", *("CrossAttnDownBlock2D",) * 2),
            "up_block_types": (*("CrossAttnUpBlock2D",) * 2, "UpBlock2D"),
            "block_out_channels": (320, 640, 1280),
            "attention_head_dim": (5, 10, 20),
            "transformer_layers_per_block": (1, 2, 10),
            "cross_attention_dim": 2048,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 256,
            "projection_class_embeddings_input_dim": 256 * 6 + 1280,
            "use_linear_projection": True,
        },
        (_CLIP_L, _CLIP_G),
    ),
}
_TINY = {
    "sample_size": 8,
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "block_out_channels": (8, 16),
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "attention_head_dim": 4,
}
TINY_MODELS = {
    "sd15": Architecture(32, {**_TINY, "cross_attention_dim": 16}, (_TINY_CLIP,), (8,) * 4, 4),
    "sdxl": Architecture(
        32,
        {
            **_TINY,
            "cross_attention_dim": 32,
            "addition_embed_type": "text_time",
            "addition_time_embed_dim": 8,
            "projection_class_embeddings_input_dim": 8 * 6 + 16,
        },
        (_TINY_CLIP,) * 2,
        (8,) * 4,
        4,
    ),
}


def tokenizer() -> CLIPTokenizer:
    """Return a tokenizer with one token per letter."""
    words = [*LETTERS, *(f"{letter}</w>" for letter in LETTERS)]
    words += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {word: i for i, word in enumerate(words)}
    return CLIPTokenizer(vocab=vocab, merges=[], model_max_length=77)


def saved_model(architecture: Architecture, folder: Path, device: str, dtype: torch.dtype) -> Path:
    """Return `folder` with a model of random weights, which is created if it does not exist.

    Args:
        architecture: Architecture of the model.
        folder: Folder of the model, in the layout of diffusers.
        device: Device on which the weights are initialised.
        dtype: Precision of the saved weights.
    """
    if folder.exists():
        return folder
    torch.manual_seed(0)
    levels = len(architecture.vae)
    end = 2 * len(LETTERS)
    ids = {"bos_token_id": end, "eos_token_id": end + 1, "pad_token_id": end + 1}
    with torch.device(device):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * levels,
            up_block_types=("UpDecoderBlock2D",) * levels,
            block_out_channels=tuple(architecture.vae),
            layers_per_block=2,
            latent_channels=4,
            norm_num_groups=architecture.norm_groups,
            sample_size=architecture.size,
        )
        unet = UNet2DConditionModel(**architecture.unet)
        configs = [CLIPTextConfig(vocab_size=49408, **ids, **one) for one in architecture.text]
        encoders = [CLIPTextModel(configs[0])]
        encoders += [CLIPTextModelWithProjection(config) for config in configs[1:]]
    parts = {"vae": vae, "unet": unet, "text_encoder": encoders[0], "tokenizer": tokenizer()}
    if len(encoders) == 1:
        pipeline = StableDiffusionPipeline(
            **parts,
            scheduler=DDIMScheduler(
                **_NOISE, clip_sample=False, steps_offset=1, set_alpha_to_one=False
            ),
            safety_checker=None,
            feature_extractor=None,
            requires_safety_checker=False,
        )
    else:
        pipeline = StableDiffusionXLPipeline(
            **parts,
            text_encoder_2=encoders[1],
            tokenizer_2=tokenizer(),
            scheduler=EulerDiscreteScheduler(**_NOISE, steps_offset=1, timestep_spacing="leading"),
        )
    # Write atomically, because a figure may be stopped while it writes.
    unfinished = folder.with_suffix(".unfinished")
    pipeline.to(dtype=dtype).save_pretrained(unfinished)
    unfinished.rename(folder)
    return folder
