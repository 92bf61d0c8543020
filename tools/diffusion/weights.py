"""Construction of new MTDMs, and loading of saved and bundled ones."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel

from memory import minilm
from memory.errors import SettingsError
from tools.diffusion import patch_pca
from tools.diffusion.label_codes import LabelCodes
from tools.diffusion.pipeline import MTDMPipeline
from tools.diffusion.preconditioning import PREDICTION_TYPES, Prediction
from tools.models.folders import explained, require_files

BUNDLED = Path(__file__).parents[1] / "weights"


def new_pipeline(
    image_shape: tuple[int, int, int],
    patch: int,
    channels: Sequence[int],
    mean: float,
    std: float,
    codes: LabelCodes | None = None,
    prediction: Prediction = "velocity",
    **config: Any,
) -> MTDMPipeline:
    """Build an untrained MTDM with text attention at the lowest resolution.

    Args:
        image_shape: (channels, height, width).
        patch: Side of the pixel-unshuffle.
        channels: Width of each level of the UNet.
        mean: Mean of the pixels in 0..1.
        std: Standard deviation of the pixels.
        codes: Label codes; None: the model draws images only.
        prediction: Prediction type of the network; "residual" needs `power`.
        **config: `basis`, `power`, `label_noise_offset` of `MTDMPipeline`.

    Raises:
        SettingsError: The image cannot be folded by `patch` and halved between levels.
    """
    image_channels, height, width = image_shape
    plain = len(channels) - 1
    unit = patch * 2 ** (len(channels) - 1)
    if height % unit or width % unit:
        raise SettingsError(
            f"An MTDM with patch {patch} and {len(channels)} levels draws images whose sides are "
            f"multiples of {unit} pixels, not {width}x{height}. Choose another size of the "
            "target's images, or set pretrain.patch or pretrain.channels."
        )
    codes = codes or LabelCodes()
    basis = patch_pca.restored(config.get("basis", ""))
    n_channels = (image_channels + codes.n_channels) * patch**2 if basis is None else len(basis)
    unet = UNet2DConditionModel(
        sample_size=(height // patch, width // patch),
        in_channels=n_channels,
        out_channels=n_channels,
        down_block_types=("DownBlock2D",) * plain + ("CrossAttnDownBlock2D",),
        mid_block_type="UNetMidBlock2DCrossAttn",
        up_block_types=("CrossAttnUpBlock2D",) + ("UpBlock2D",) * plain,
        block_out_channels=tuple(channels),
        layers_per_block=1,
        norm_num_groups=16,
        cross_attention_dim=minilm.DIMENSION,
        attention_head_dim=4,
        class_embed_type="projection",
        projection_class_embeddings_input_dim=minilm.DIMENSION,
    )
    scheduler = DDIMScheduler(
        beta_schedule="squaredcos_cap_v2",
        prediction_type=PREDICTION_TYPES[prediction],
        rescale_betas_zero_snr=True,
        timestep_spacing="trailing",
        clip_sample=False,
    )
    size = height if height == width else [height, width]
    stored = codes.to_json() if codes.kinds else {}
    config |= {"patch": patch, "mean": mean, "std": std, "label_codes": stored}
    return MTDMPipeline(unet, scheduler, image_channels, size, **config)


def load_pipeline(folder: Path, device: str = "cpu") -> MTDMPipeline:
    """Load a saved MTDM.

    Raises:
        WeightsError: Files are missing or damaged; the message names them.
    """
    needed = ["model_index.json", "unet/config.json", "unet/diffusion_pytorch_model.safetensors"]
    advice = (
        "Train one with `shaping pretrain`, or point generator.weights to a folder that has them."
    )
    require_files(folder, needed, "The MTDM folder", advice)
    with explained(
        f"The MTDM in {folder} is damaged or of another version: {{error}} "
        "Restore the folder, or train it again with `shaping pretrain`."
    ):
        pipeline: MTDMPipeline = MTDMPipeline.from_pretrained(
            folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
        )
    pipeline.set_progress_bar_config(disable=True)
    # On CPUs convolutions in channels-last format are about an eighth faster.
    pipeline.unet.to(memory_format=torch.channels_last)
    loaded: MTDMPipeline = pipeline.to(device)
    return loaded


def weights_folder(weights: str) -> Path:
    """Return the folder of weights given as `bundled:NAME` or as a path."""
    _, bundled, name = weights.rpartition("bundled:")
    return BUNDLED / name if bundled else Path(weights)
