"""Tiny models of transformers, random weights, of configurations that tests share."""

from __future__ import annotations

from typing import Any

from transformers import DPTConfig, SegformerConfig, ViTConfig


def vit(**changes: Any) -> ViTConfig:
    """A classifier of gray images, 16x16, that normalises every image for itself."""
    values = {
        "image_size": 16,
        "patch_size": 4,
        "num_channels": 1,
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 64,
        "architectures": ["ViTForImageClassification"],
    }
    return ViTConfig(**{**values, **changes})


def segformer(*names: str) -> SegformerConfig:
    """A model that labels pixels with named classes."""
    return SegformerConfig(
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[8, 16],
        patch_sizes=[3, 3],
        strides=[2, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=16,
        id2label=dict(enumerate(names)),
        label2id={name: i for i, name in enumerate(names)},
        architectures=["SegformerForSemanticSegmentation"],
    )


def dpt() -> DPTConfig:
    """A model that estimates depth."""
    return DPTConfig(
        hidden_size=16,
        num_hidden_layers=4,
        num_attention_heads=2,
        intermediate_size=32,
        image_size=32,
        patch_size=16,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[8, 8, 8, 8],
        fusion_hidden_size=8,
        architectures=["DPTForDepthEstimation"],
    )
