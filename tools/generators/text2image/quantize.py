"""Quantization of the denoiser's weights with the package torchao.

Only the weights of linear layers are quantized, on loading. Computation keeps its precision, so the
model needs less memory but is not faster by itself.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

import torch
from diffusers import PipelineQuantizationConfig, TorchAoConfig

from memory.errors import SettingsError
from tools.generators.text2image.model_options import ModelOptions


def quantization(
    options: ModelOptions, index: Mapping[str, Any], dtype: torch.dtype, device: str
) -> dict[str, Any]:
    """Return the arguments of a pipeline's `from_pretrained`; {} without quantization.

    Args:
        options: Options of the model.
        index: Content of `model_index.json` in the model's folder.
        dtype: Precision of the computation.
        device: A torch device.

    Raises:
        SettingsError: torchao is not installed, or precision, device or other options exclude
            quantization.
    """
    if options.quantize == "none":
        return {}
    option = f"generator.options.quantize={options.quantize}"
    usable = [torch.bfloat16, torch.float32] if device == "cpu" else [torch.bfloat16]
    if dtype not in usable:
        names = " or ".join(str(kind).removeprefix("torch.") for kind in usable)
        raise SettingsError(
            f"{option} computes in {names} on the device {device}, but here it would be "
            f"{str(dtype).removeprefix('torch.')}. Set generator.options.dtype, or leave it out "
            "where the device has no such precision."
        )
    denoiser = next((name for name in ("unet", "transformer") if name in index), None)
    if denoiser is None:
        raise SettingsError(
            f"{option} needs a model with a unet or a transformer; this one has "
            f"{', '.join(name for name in index if not name.startswith('_'))}. Leave it out."
        )
    if options.offload != "none":
        raise SettingsError(
            f"{option} excludes generator.options.offload={options.offload}. Leave one out."
        )
    if importlib.util.find_spec("torchao") is None:
        raise SettingsError(
            f"{option} needs the package torchao: pip install 'feedback-shaping[quantize]', or "
            "leave it out."
        )

    from torchao.quantization import Int8WeightOnlyConfig

    config = TorchAoConfig(Int8WeightOnlyConfig())
    return {"quantization_config": PipelineQuantizationConfig(quant_mapping={denoiser: config})}
