"""What trainings of a text-to-image model of others share: the model as it is, and a LoRA in it.

For UNets that denoise the latents of a VAE: Stable Diffusion and SDXL.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray

from memory.errors import WeightsError
from tools.data.samples import Dense, Samples
from tools.diffusion.denoising import Captions, mirrored_batch, rows_of, words_of
from tools.generators.label_first.conditions import pictures
from tools.generators.text2image.diffusion_model import dtype_of, load_model
from tools.generators.text2image.model_options import ModelOptions
from tools.settings import CaptionedRun
from tools.targets import Target

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
RESNETS = ("conv1", "conv2", "conv_shortcut", "time_emb_proj")

_N_UNSEEN = 16

SUPPORTED = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")


def load_to_train(options: ModelOptions, device: str, what: str) -> DiffusionPipeline:
    """Load the model of some options in float32, without adapters; all of it is frozen.

    what: is trained for it, as errors say. Raises WeightsError for a model that is none of
    `SUPPORTED` or cannot be loaded.
    """
    plain = options.model_copy(
        update={
            "adapters": {},
            "compile": False,
            "offload": "none",
            "dtype": "float32",
            "quantize": "none",
        }
    )
    # What the encoder cannot read of a caption is cut; it would say so at every step.
    diffusers_logging.set_verbosity_error()
    pipeline = load_model(plain, device).pipeline
    if type(pipeline).__name__ not in SUPPORTED:
        raise WeightsError(
            f"{what} is trained for {' or '.join(SUPPORTED)}, but the model {options.weights} is "
            f"a {type(pipeline).__name__}. Choose another one."
        )
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(requires_grad=False)
    return pipeline


def add_lora(
    unet: UNet2DConditionModel, rank: int, seed: int, device: str, layers: Sequence[str]
) -> None:
    """Give a UNet a LoRA to train, in all layers whose names end in one of `layers`."""
    from peft import LoraConfig

    torch.manual_seed(seed)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers)))
    if device.startswith("cuda"):
        unet.enable_gradient_checkpointing()
    unet.train()


def lora_state(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """Return the LoRA of a UNet as diffusers saves it."""
    from peft import get_peft_model_state_dict

    return {
        name: value.detach().cpu().contiguous()
        for name, value in get_peft_model_state_dict(unet).items()
    }


class Batch(NamedTuple):
    """What a step trains on: images, their labels and prompts, and how noisy they are made.

    images: (n, c, h, w); labels: as in `Samples`; times: (n,), 0 is the least noise; noise: its
    source, from which the times were drawn already.
    """

    images: NDArray[np.uint8]
    labels: Dense
    words: list[str]
    times: torch.Tensor
    noise: torch.Generator


def batch_of(
    samples: Samples,
    captions: Captions,
    target: Target,
    settings: CaptionedRun,
    step: int,
    n_times: int,
) -> Batch:
    """Return the batch of a step, a function of (seed, step); captions: as of `captions_of`."""
    rng = np.random.default_rng([settings.seed, step])
    chosen, flips = rows_of(len(samples), target, settings, step, rng)
    images, labels = mirrored_batch(samples, chosen, flips)
    words = words_of(captions, chosen, flips, settings, rng)
    noise = torch.Generator("cpu").manual_seed(settings.seed * 1_000_003 + step)
    times = torch.randint(n_times, (len(chosen),), generator=noise)
    return Batch(images, labels, words, times, noise)


def unseen_of(target: Target) -> Samples:
    """Return a few photographs of the audit split, spread evenly over it, to measure errors on."""
    unseen = target.split("audit")
    rows = np.linspace(0, len(unseen) - 1, min(len(unseen), _N_UNSEEN)).astype(int)
    return unseen.take(rows.tolist())


class Frozen:
    """What of a pipeline's parts is not trained, and how they see images and words.

    size: height and width at which images are learnt; options: those of the model, `dtype` is that
    of the arithmetic.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        size: tuple[int, int],
        options: ModelOptions,
        device: str,
    ) -> None:
        self._pipeline, self._size, self._device = pipeline, size, device
        dtype = dtype_of(options, device)
        # Gradients in float16 would need scaling.
        self._dtype = torch.float32 if dtype == torch.float16 else dtype
        self.schedule = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.n_times = int(self.schedule.config.num_train_timesteps)

    def autocast(self) -> torch.autocast:
        """Return the context of the arithmetic."""
        enabled = self._dtype != torch.float32
        kind = self._device.split(":")[0]
        return torch.autocast(kind, self._dtype if enabled else torch.bfloat16, enabled=enabled)

    @torch.no_grad()
    def latents(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Return the latents of images, (n, 1 or 3, h, w)."""
        vae = self._pipeline.vae
        seen = pictures(images, self._size, smooth=True)
        pixels = torch.from_numpy(np.stack([np.asarray(one) for one in seen]))
        pixels = pixels.permute(0, 3, 1, 2).to(self._device, torch.float32) / 127.5 - 1
        with self.autocast():
            found = vae.encode(pixels).latent_dist.mode()
        latents: torch.Tensor = found.float() * vae.config.scaling_factor
        return latents

    @torch.no_grad()
    def states(self, words: Sequence[str]) -> tuple[torch.Tensor, dict[str, Any] | None]:
        """Return the text's states, and what SDXL's UNet takes beside them."""
        pipeline = self._pipeline
        with self.autocast():
            # The class's own: that of the instance keeps every text that it has seen.
            found = type(pipeline).encode_prompt(
                pipeline,
                prompt=list(words),
                device=self._device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )
        if len(found) == 2:
            return found[0], None
        states, _, pooled, _ = found
        # Its own size, not cropped, is what an image is drawn at.
        ids = torch.tensor([[*self._size, 0, 0, *self._size]], device=self._device).float()
        return states, {"text_embeds": pooled, "time_ids": ids.expand(len(words), -1)}

    def wanted(
        self, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """Return what the UNet should predict of latents made noisy at times, (n,)."""
        kinds: dict[str, torch.Tensor] = {
            "epsilon": noise,
            "sample": latents,
            "v_prediction": self.schedule.get_velocity(latents, noise, times),
        }
        return kinds[self.schedule.config.prediction_type]
