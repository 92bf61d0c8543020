"""Tiny BigGANs, random weights, saved to disk as the generator `class_gan` reads them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from tools.generators.class_gan.biggan import BigGAN, BigGANConfig

CONFIG: dict[str, Any] = {
    "latent_size": 12,
    "class_names": ["sound", "crack", "break"],
    "serves": {"sound": "functional", "crack": "defective", "break": "defective"},
    "embedding_size": 6,
    "image_size": 64,
    "image_channels": 1,
    "channels": [16, 16, 8],
    "attention": [32],
}


def stirred(network: BigGAN) -> BigGAN:
    """Weights under which latents and classes matter, as they do not at the start of a training."""
    torch.manual_seed(0)
    for name, value in network.state_dict().items():
        if name.endswith("stored_var"):
            value.uniform_(0.5, 2)
        elif value.ndim > 1:
            torch.nn.init.normal_(value, std=value[0].numel() ** -0.5)
        else:
            value.normal_(std=0.2)
    return network.eval()


def biggan(folder: Path, **changes: Any) -> BigGAN:
    """Save a network to `folder`; changes: of `CONFIG`, None takes a key out."""
    said = {k: v for k, v in {**CONFIG, **changes}.items() if v is not None}
    network = stirred(BigGAN(BigGANConfig.model_validate(said)))
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(said))
    save_file(network.state_dict(), folder / "model.safetensors")
    return network
