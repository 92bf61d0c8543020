"""Tiny text-to-image models of diffusers' real classes, random weights, saved to disk."""

from __future__ import annotations

from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    ControlNetModel,
    DDIMScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    FluxControlNetModel,
    FluxPipeline,
    FluxTransformer2DModel,
    ModelMixin,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from peft import LoraConfig, get_peft_model_state_dict
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    T5Config,
    T5EncoderModel,
    T5Tokenizer,
)

from benchmarks.architectures import LETTERS, tokenizer


def text_config(projection: int = 16) -> CLIPTextConfig:
    n = len(LETTERS) * 2
    return CLIPTextConfig(
        vocab_size=n + 2,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        projection_dim=projection,
        bos_token_id=n,
        eos_token_id=n + 1,
        pad_token_id=n + 1,
    )


def vae(channels: int = 4) -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 8),
        latent_channels=channels,
        norm_num_groups=4,
        sample_size=32,
        shift_factor=0.0,
    )


SDXL = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 8,
    "projection_class_embeddings_input_dim": 8 * 6 + 16,
}


def unet(cross: int, **more: object) -> UNet2DConditionModel:
    return UNet2DConditionModel(
        sample_size=16,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=cross,
        attention_head_dim=4,
        **more,
    )


def stable_diffusion(folder: Path) -> None:
    torch.manual_seed(0)
    StableDiffusionPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(),
        unet=unet(16),
        scheduler=DDIMScheduler(clip_sample=False, steps_offset=1, set_alpha_to_one=False),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    ).save_pretrained(folder)


def sdxl(folder: Path) -> None:
    torch.manual_seed(0)
    StableDiffusionXLPipeline(
        vae=vae(),
        text_encoder=CLIPTextModel(text_config()),
        text_encoder_2=CLIPTextModelWithProjection(text_config()),
        tokenizer=tokenizer(),
        tokenizer_2=tokenizer(),
        unet=unet(32, **SDXL),
        scheduler=EulerDiscreteScheduler(steps_offset=1, timestep_spacing="leading"),
    ).save_pretrained(folder)


FLUX = {
    "in_channels": 16,
    "num_layers": 1,
    "num_single_layers": 1,
    "attention_head_dim": 16,
    "num_attention_heads": 2,
    "joint_attention_dim": 16,
    "pooled_projection_dim": 16,
    "axes_dims_rope": (4, 4, 8),
}


def flux(folder: Path) -> None:
    torch.manual_seed(0)
    pieces = ["<pad>", "</s>", "<unk>", "▁", *LETTERS]
    FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(),
        vae=vae(channels=4),
        text_encoder=CLIPTextModel(text_config()),
        tokenizer=tokenizer(),
        text_encoder_2=T5EncoderModel(
            T5Config(
                vocab_size=len(pieces) + 100, d_model=16, d_kv=8, d_ff=16, num_layers=1, num_heads=2
            )
        ),
        tokenizer_2=T5Tokenizer(vocab=[(p, -float(i)) for i, p in enumerate(pieces)]),
        transformer=FluxTransformer2DModel(**FLUX),
    ).save_pretrained(folder)


def stirred(network: ModelMixin) -> ModelMixin:
    """A ControlNet begins with zeros, and so without effect; this one has some."""
    torch.manual_seed(3)
    for parameter in network.parameters():
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def controlnet(folder: Path, cross: int = 16, **more: object) -> None:
    """For `stable_diffusion`, or another `cross` and `more`."""
    network = ControlNetModel(
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        block_out_channels=(8, 16),
        layers_per_block=1,
        norm_num_groups=4,
        cross_attention_dim=cross,
        attention_head_dim=4,
        conditioning_embedding_out_channels=(4, 8),
        **more,
    )
    stirred(network).save_pretrained(folder)


def flux_controlnet(folder: Path) -> None:
    stirred(FluxControlNetModel(**FLUX)).save_pretrained(folder)


CONTROLNETS = {
    "sd": controlnet,
    "sdxl": lambda folder: controlnet(folder, 32, **SDXL),
    "flux": flux_controlnet,
}
MODELS = {"sd": stable_diffusion, "sdxl": sdxl, "flux": flux}


def lora(folder: Path, cross: int = 16, seed: int = 1) -> None:
    """A LoRA adapter of the UNet of `stable_diffusion`; another `cross` is for another model."""
    torch.manual_seed(seed)
    network = unet(cross)
    network.add_adapter(LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k", "to_v"]))
    state = get_peft_model_state_dict(network)
    made = {name: torch.randn_like(value) for name, value in state.items()}
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=made)
