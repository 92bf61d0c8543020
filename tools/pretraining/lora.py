"""Training of a domain LoRA: a text-to-image model of others learns how a target's images look.

Low-rank updates of the UNet's attention (LoRA, Hu et al. 2022) learn from the generator split, each
image with a caption of its attributes; all else of the model stays as it is. Running it again
continues at the last checkpoint. What a step trains on is a function of (seed, step).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray

from memory.files import write_json
from tools.data.drawn import LORA_FILE
from tools.diffusion.denoising import Run
from tools.generators.text2image.diffusion_model import size_like
from tools.generators.text2image.lora import require_peft
from tools.generators.text2image.model_options import ModelOptions
from tools.models.diffusers_folder import folder_sha256, model_folder
from tools.pretraining.finetuning import (
    ATTENTION,
    Frozen,
    add_lora,
    batch_of,
    load_to_train,
    lora_state,
    unseen_of,
)
from tools.pretraining.pretrain import captions_of
from tools.settings import LoraSettings
from tools.targets import Target, licence_of


def pretrain_lora(
    target: Target,
    options: ModelOptions,
    settings: LoraSettings,
    folder: Path,
    device: str = "cpu",
    progress: Callable[[int, float, float], None] = lambda step, loss, seconds: None,
) -> Path:
    """Train, or go on training, a LoRA for the model of `options`; return the adapter's folder.

    Writes `train.json` with its tensors (to continue) and `adapter/`: the LoRA file, which any
    diffusers pipeline of the model's kind loads, and `adapter.json`, which says what it was trained
    on and its error on images of the audit split, which it has not seen, without and with it.

    Raises WeightsError for a model that is none of Stable Diffusion's or SDXL's, or cannot be
    loaded; SettingsError when the folder holds a run with other settings, or peft is missing.
    """
    require_peft()
    pipeline = load_to_train(options, device, "A domain LoRA")
    size = size_like(pipeline, options, target.image_shape[1:])
    learner = _Learner(pipeline, Frozen(pipeline, size, options, device), settings, device)
    run = Run(folder, settings, learner.weights)
    first = run.restore()
    samples = target.split("generator")
    captions = captions_of(samples, target, settings)

    def loss_of(step: int) -> torch.Tensor:
        batch = batch_of(samples, captions, target, settings, step, learner.n_times)
        return learner.loss(batch.images, batch.words, batch.times, batch.noise)

    run.train(first, loss_of, progress)

    learner.load(run.average)
    unseen = unseen_of(target)
    said = [texts[0][0][0] for texts in captions_of(unseen, target, settings)]
    adapter = folder / "adapter"
    pipeline.save_lora_weights(adapter, unet_lora_layers=lora_state(pipeline.unet))
    model = model_folder(options.weights, options.revision, options.variant, online=False)
    figures = learner.errors(unseen.images, said)
    write_json(
        adapter / "adapter.json",
        {
            "model": options.weights,
            "model_sha256": folder_sha256(model),
            "trained_on": f"{target.name}: generator split. {licence_of(target)}",
            "steps": settings.steps,
            "rank": settings.rank,
            "size": list(size),
            "file": LORA_FILE,
            "n_unseen": len(unseen),
            **figures,
        },
    )
    return adapter


class _Learner:
    """A pipeline whose UNet has a LoRA to train."""

    def __init__(
        self, pipeline: DiffusionPipeline, frozen: Frozen, settings: LoraSettings, device: str
    ) -> None:
        self._pipeline, self._frozen, self._device = pipeline, frozen, device
        self.n_times = frozen.n_times
        add_lora(pipeline.unet, settings.rank, settings.seed, device, ATTENTION)
        # Of the network, what is learnt, and so what a checkpoint holds.
        self.weights = torch.nn.ParameterList(
            parameter for parameter in pipeline.unet.parameters() if parameter.requires_grad
        )

    def loss(
        self,
        images: NDArray[np.uint8],
        words: Sequence[str],
        times: torch.Tensor,
        noise: torch.Generator,
    ) -> torch.Tensor:
        """Return the mean squared error of what the UNet predicts of noisy images.

        images: (n, 1 or 3, h, w); times: (n,), 0 is the least noise.
        """
        latents = self._frozen.latents(images)
        states, more = self._frozen.states(words)
        drawn = torch.randn(latents.shape, generator=noise).to(self._device)
        times = times.to(self._device)
        noisy = self._frozen.schedule.add_noise(latents, drawn, times)
        with self._frozen.autocast():
            found = self._pipeline.unet(noisy, times, states, added_cond_kwargs=more).sample
        wanted = self._frozen.wanted(latents, drawn, times)
        error: torch.Tensor = ((found.float() - wanted) ** 2).mean()
        return error

    @torch.no_grad()
    def errors(self, images: NDArray[np.uint8], words: Sequence[str]) -> dict[str, float]:
        """Return the loss without and with the LoRA, the times spread evenly over all."""
        unet = self._pipeline.unet.eval()
        times = torch.linspace(0, self.n_times - 1, len(images)).long()

        def mean() -> float:
            return float(
                np.mean(
                    [
                        self.loss(
                            images[i : i + 1],
                            words[i : i + 1],
                            times[i : i + 1],
                            torch.Generator("cpu").manual_seed(i),
                        ).item()
                        for i in range(len(images))
                    ]
                )
            )

        figures = {"error_with": mean()}
        unet.disable_adapters()
        figures["error_without"] = mean()
        unet.enable_adapters()
        return figures

    def load(self, weights: dict[str, torch.Tensor]) -> None:
        """Set the LoRA to other weights, named as those of `self.weights`."""
        self.weights.load_state_dict(weights)
