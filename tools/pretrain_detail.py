"""Training of an MTDM's detail network, after the main one: see `tools.generators.mtdm`."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DModel

from tools.denoising import Run, batch_of, denoising_loss
from tools.generators.mtdm import MTDMPipeline, load_pipeline, new_detail
from tools.settings import DetailSettings
from tools.targets import Target


def pretrain_detail(
    target: Target,
    settings: DetailSettings,
    folder: Path,
    device: str = "cpu",
    progress: Callable[[int, float, float], None] = lambda step, loss, seconds: None,
) -> MTDMPipeline:
    """Train, or go on training, the detail network of the MTDM in `folder`; return the pipeline.

    Begins with the detail network that the pipeline has, if it is of the same kind. Writes its
    training state to `detail/` and itself into `pipeline/`, float16. Raises SettingsError when the
    folder holds a run with other settings, or the images a size that the network cannot draw.
    """
    samples = target.split("generator")
    pipeline = load_pipeline(folder / "pipeline")
    torch.manual_seed(settings.seed)
    detail = _first_detail(pipeline, settings).to(device)
    detail.to(memory_format=torch.channels_last)
    run = Run(folder / "detail", settings, detail)
    first = run.restore()
    pipeline.detail = torch.compile(detail) if device.startswith("cuda") else detail
    pipeline.register_to_config(
        detail_patch=settings.patch,
        detail_below=settings.below,
        label_steps=settings.label_steps,
    )
    started = time.monotonic()
    for step in range(first, settings.steps):
        rng = np.random.default_rng([settings.seed, step])
        _, _, x, weight = batch_of(pipeline, samples, target, settings, step, rng)
        loss = denoising_loss(
            pipeline,
            pipeline.predict_detail,
            x.to(device),
            weight.to(device),
            settings,
            step,
            rng,
            settings.below,
        )
        run.update(step, loss)
        progress(step + 1, loss.item(), time.monotonic() - started)
        if run.is_due(step + 1):
            run.save(step + 1, loss.item())
    usable = new_detail(pipeline, settings.patch, settings.channels)
    usable.load_state_dict({k: v.float().cpu() for k, v in run.average.items()})
    pipeline.register_modules(detail=usable.half())
    pipeline.unet.half()
    pipeline.save_pretrained(folder / "pipeline", safe_serialization=True)
    return load_pipeline(folder / "pipeline", device)


def _first_detail(pipeline: MTDMPipeline, settings: DetailSettings) -> UNet2DModel:
    """Return the network that the training starts with: new, or that of the pipeline."""
    detail = new_detail(pipeline, settings.patch, settings.channels)
    known = pipeline.detail
    if (
        known is not None
        and pipeline.config.detail_patch == settings.patch
        and tuple(known.config.block_out_channels) == settings.channels
    ):
        detail.load_state_dict(known.state_dict())
    return detail
