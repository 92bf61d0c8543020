"""ControlNets: networks that condition a diffusion model on an image (Zhang et al. 2023)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffusers import ControlNetModel, FluxControlNetModel, ModelMixin, SD3ControlNetModel

from memory.errors import WeightsError
from tools.generators.text2image.diffusion_model import dtype_of
from tools.generators.text2image.model_options import ModelOptions
from tools.models.diffusers_folder import checked_index, model_folder, network_config
from tools.models.folders import explained

# Class of the ControlNet by class of the denoiser.
_CLASSES = {
    "UNet2DConditionModel": ControlNetModel,
    "SD3Transformer2DModel": SD3ControlNetModel,
    "FluxTransformer2DModel": FluxControlNetModel,
}
# Configuration that a ControlNet shares with its denoiser.
_SHARED = (
    "in_channels", "block_out_channels", "layers_per_block", "cross_attention_dim",
    "addition_embed_type", "projection_class_embeddings_input_dim", "attention_head_dim",
    "num_attention_heads", "joint_attention_dim", "pooled_projection_dim",
)  # fmt: skip


def load_controlnet(given: str, options: ModelOptions, device: str) -> ModelMixin:
    """Return the ControlNet in the folder `given` for the model of `options`.

    Raises:
        WeightsError: The folder is missing, partial or pickled, or the ControlNet was made for
            another model; checked before weights are read.
    """
    folder = Path(given).expanduser()
    config = network_config(folder, "The ControlNet")
    model = model_folder(options.weights, options.revision, options.variant, options.allow_network)
    denoiser = _denoiser_config(model)
    kind = _CLASSES.get(denoiser["_class_name"])
    if kind is None:
        raise WeightsError(
            f"No ControlNet is known for the model {model} with its {denoiser['_class_name']}. "
            f"Choose a model with one of {', '.join(_CLASSES)}, or leave "
            "generator.options.controlnet out and set strength."
        )
    foreign = f"The ControlNet {folder} is not for the model {model}: "
    advice = " Choose one that was trained for this kind of model."
    if config.get("_class_name") != kind.__name__:
        raise WeightsError(
            f"{foreign}it is a {config.get('_class_name')}, expected a {kind.__name__}.{advice}"
        )
    for key in _SHARED:
        if key in config and key in denoiser and config[key] != denoiser[key]:
            raise WeightsError(
                f"{foreign}its {key} is {config[key]}, the model's is {denoiser[key]}.{advice}"
            )
    if config.get("conditioning_channels", 3) != 3 or config.get("num_mode"):
        raise WeightsError(
            f"The ControlNet {folder} does not take one RGB picture. Choose one for a single kind "
            "of condition."
        )
    variant = options.variant
    if variant is not None and not any(folder.glob(f"*.{variant}.safetensors")):
        variant = None
    with explained(
        f"The ControlNet {folder} is damaged or of another version: {{error}} Copy it again."
    ):
        return kind.from_pretrained(
            folder,
            torch_dtype=dtype_of(options, device),
            variant=variant,
            local_files_only=True,
            use_safetensors=True,
        )


def _denoiser_config(model: Path) -> dict[str, Any]:
    index = checked_index(model)
    name = "unet" if "unet" in index else "transformer"
    if name not in index:
        raise WeightsError(
            f"The model {model} has neither a unet nor a transformer, so no ControlNet steers it."
        )
    return {"_class_name": index[name][1], **network_config(model / name, "The network")}
