"""Training of a domain LoRA: a text-to-image model of others learns how a target's images look.

Low-rank updates of the UNet's attention learn from the generator split, each image with a caption
of its attributes; all else of the model stays as it is. See `finetuning`.
"""

from __future__ import annotations

from pathlib import Path

import torch

from memory.files import write_json
from tools.data.drawn import LORA_FILE
from tools.diffusion.denoising import Progress
from tools.generators.text2image.lora import require_peft
from tools.generators.text2image.model_options import ModelOptions
from tools.models.diffusers_folder import model_folder
from tools.models.digests import folder_sha256
from tools.pretraining.finetuning import FineTuning, NoisyBatch, lora_state
from tools.settings import LoraSettings
from tools.targets import Target


def pretrain_lora(
    target: Target,
    options: ModelOptions,
    settings: LoraSettings,
    folder: Path,
    device: str = "cpu",
    progress: Progress = lambda step, loss, seconds: None,
) -> Path:
    """Train, or continue to train, a LoRA for the model of `options`; return its folder.

    Writes `train.json` with its tensors (to continue) and `adapter/`: the LoRA file, which any
    diffusers pipeline of the model's kind loads, and `adapter.json` with what it was trained on and
    its error on held-out images of the audit split, without and with it.

    Raises:
        WeightsError: The model is not Stable Diffusion or SDXL, or cannot be loaded.
        SettingsError: The folder holds a run with other settings, or peft is missing.
    """
    require_peft()
    learner = DomainLora(target, options, settings, device)
    learner.train(target.split("generator"), folder, progress)
    adapter, unet = folder / "adapter", learner.pipeline.unet
    learner.pipeline.save_lora_weights(adapter, unet_lora_layers=lora_state(unet))
    model = model_folder(options.weights, options.revision, options.variant, online=False)
    n_unseen, (error_with,) = learner.errors()
    unet.disable_adapters()
    _, (error_without,) = learner.errors()
    unet.enable_adapters()
    card = {
        "model": options.weights,
        "model_sha256": folder_sha256(model),
        **learner.card(),
        "size": list(learner.size),
        "file": LORA_FILE,
        "n_unseen": n_unseen,
        "error_with": error_with,
        "error_without": error_without,
    }
    write_json(adapter / "adapter.json", card)
    return adapter


class DomainLora(FineTuning):
    """A text-to-image model that learns images alone."""

    description = "A domain LoRA"

    def losses(self, batch: NoisyBatch) -> tuple[torch.Tensor, ...]:
        """Return the mean squared error of the UNet's prediction."""
        latents = self.latents(batch.images)
        states, conditions = self.states(batch.captions)
        noise = torch.randn(latents.shape, generator=batch.generator).to(self._device)
        times = batch.times.to(self._device)
        noisy = self.schedule.add_noise(latents, noise, times)
        with self.autocast():
            output = self.pipeline.unet(noisy, times, states, added_cond_kwargs=conditions).sample
        return (((output.float() - self.prediction_goal(latents, noise, times)) ** 2).mean(),)
