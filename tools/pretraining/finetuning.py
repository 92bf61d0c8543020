"""Fine-tuning of a pretrained text-to-image model by a low-rank update (LoRA, Hu et al. 2022).

`DomainLora` learns the appearance of a target's images; `joint` also learns labels. Supports UNets
that denoise the latents of a VAE: Stable Diffusion and SDXL. Running a training again resumes it
from the last checkpoint.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from diffusers import DDPMScheduler, DiffusionPipeline, UNet2DConditionModel
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray

from memory.errors import WeightsError
from memory.files import write_json
from tools.data.drawn import LORA_FILE
from tools.data.samples import Dense, Samples
from tools.diffusion.denoising import DiffusionTrainer, Progress
from tools.generators.label_first.conditions import pictures
from tools.generators.text2image.diffusion_model import dtype_of, load_model, size_like
from tools.generators.text2image.lora import require_peft
from tools.generators.text2image.model_options import ModelOptions
from tools.models.diffusers_folder import model_folder
from tools.models.digests import folder_sha256
from tools.pretraining.batches import Batches, captions_of
from tools.settings import LoraSettings
from tools.targets import Target, licence_of

ATTENTION = ("to_q", "to_k", "to_v", "to_out.0")
RESNETS = ("conv1", "conv2", "conv_shortcut", "time_emb_proj")
SUPPORTED = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")

_N_UNSEEN = 16


class NoisyBatch(NamedTuple):
    """Data of a training step.

    Attributes:
        images: uint8, (n, 1 or 3, h, w).
        labels: As in `Samples`.
        captions: One per image.
        times: Noise levels, (n,); 0 is the least noise.
        generator: Random generator of the noise.
    """

    images: NDArray[np.uint8]
    labels: Dense
    captions: Sequence[str]
    times: torch.Tensor
    generator: torch.Generator


class FineTuning(ABC):
    """A frozen text-to-image model with a trainable LoRA in its UNet.

    Subclasses may change the UNet in `widen` and define the objective in `losses`.

    Args:
        target: Its image shape sets the aspect ratio of training.
        options: Options of the model; `dtype` is the precision of the computation.
        settings: Rank, seed and training settings.
        device: A torch device.

    Raises:
        WeightsError: The model is none of `SUPPORTED`, or cannot be loaded.
    """

    description: str
    """Name of the trained model in error messages."""
    layers: Sequence[str] = ATTENTION
    """Suffixes of the names of layers that get a LoRA."""

    def __init__(
        self, target: Target, options: ModelOptions, settings: LoraSettings, device: str
    ) -> None:
        self.target, self.settings, self._device = target, settings, device
        self.pipeline = load_to_train(options, device, self.description)
        self.size = size_like(self.pipeline, options, target.image_shape[1:])
        dtype = dtype_of(options, device)
        # float16 would require gradient scaling.
        self._dtype = torch.float32 if dtype == torch.float16 else dtype
        self.schedule = DDPMScheduler.from_config(self.pipeline.scheduler.config)
        self.n_times = int(self.schedule.config.num_train_timesteps)
        new_parameters = self.widen()
        add_lora(self.pipeline.unet, settings.rank, settings.seed, device, self.layers)
        for parameter in new_parameters:
            parameter.requires_grad_()
        # Trainable parameters of the network, the content of checkpoints.
        self.weights = torch.nn.ParameterList(
            parameter for parameter in self.pipeline.unet.parameters() if parameter.requires_grad
        )

    def widen(self) -> Iterable[torch.nn.Parameter]:
        """Change the UNet before the LoRA is added, and return new parameters to train."""
        return ()

    @abstractmethod
    def losses(self, batch: NoisyBatch) -> tuple[torch.Tensor, ...]:
        """Return the losses of a batch, scalars; their sum is minimised."""

    def train(self, samples: Samples, folder: Path, progress: Progress) -> None:
        """Train on samples, or resume training; at the end the UNet has the averaged weights.

        A batch is a function of (seed, step).

        Raises:
            SettingsError: The folder holds a run with other settings.
        """
        trainer = DiffusionTrainer(folder, self.settings, self.weights)
        first = trainer.restore()
        batches = Batches(samples, self.target, self.settings)

        def loss_of(step: int) -> torch.Tensor:
            batch = batches(step)
            seed = self.settings.seed * 1_000_003 + step
            generator = torch.Generator("cpu").manual_seed(seed)
            times = torch.randint(self.n_times, (len(batch.images),), generator=generator)
            return torch.stack(self.losses(NoisyBatch(*batch, times, generator))).sum()

        trainer.train(first, loss_of, progress)
        self.weights.load_state_dict(trainer.average)

    @torch.no_grad()
    def errors(self) -> tuple[int, list[float]]:
        """Return the number of held-out images and the mean of each loss on them."""
        self.pipeline.unet.eval()
        rows = [[loss.item() for loss in self.losses(batch)] for batch in self._unseen()]
        return len(rows), [float(mean) for mean in np.mean(rows, axis=0)]

    def _unseen(self) -> Iterator[NoisyBatch]:
        """Yield held-out images of the audit split at evenly spaced times, one per batch."""
        audit = self.target.split("audit")
        rows = np.linspace(0, len(audit) - 1, min(len(audit), _N_UNSEEN)).astype(int)
        unseen = audit.take(rows.tolist())
        captions = captions_of(unseen, self.target, self.settings)
        times = torch.linspace(0, self.n_times - 1, len(unseen)).long()
        for i in range(len(unseen)):
            row = slice(i, i + 1)
            labels = {kind: values[row] for kind, values in unseen.labels.items()}
            generator = torch.Generator("cpu").manual_seed(i)
            text = [captions[i][0][0][0]]
            yield NoisyBatch(unseen.images[row], labels, text, times[row], generator)

    def card(self) -> dict[str, Any]:
        """Return the training entries common to the cards of fine-tuned models."""
        return {
            "trained_on": f"{self.target.name}: generator split. {licence_of(self.target)}",
            "steps": self.settings.steps,
            "rank": self.settings.rank,
        }

    def autocast(self) -> torch.autocast:
        """Return the autocast context of the computation's precision."""
        enabled = self._dtype != torch.float32
        kind = self._device.split(":")[0]
        return torch.autocast(kind, self._dtype if enabled else torch.bfloat16, enabled=enabled)

    @torch.no_grad()
    def latents(self, images: NDArray[np.uint8]) -> torch.Tensor:
        """Return the VAE latents of images, uint8, (n, 1 or 3, h, w)."""
        vae = self.pipeline.vae
        rgb = np.stack([np.asarray(one) for one in pictures(images, self.size, smooth=True)])
        pixels = torch.from_numpy(rgb).permute(0, 3, 1, 2).to(self._device, torch.float32)
        with self.autocast():
            mode = vae.encode(pixels / 127.5 - 1).latent_dist.mode()
        latents: torch.Tensor = mode.float() * vae.config.scaling_factor
        return latents

    @torch.no_grad()
    def states(self, captions: Sequence[str]) -> tuple[torch.Tensor, dict[str, Any] | None]:
        """Return token states of captions and, for SDXL, the further conditions of the UNet."""
        pipeline = self.pipeline
        with self.autocast():
            # The method of the class, because that of the instance caches every text.
            encoded = type(pipeline).encode_prompt(
                pipeline,
                prompt=list(captions),
                device=self._device,
                num_images_per_prompt=1,
                do_classifier_free_guidance=False,
            )
        if len(encoded) == 2:
            return encoded[0], None
        states, _, pooled, _ = encoded
        # Micro-conditioning of SDXL: original size, crop, target size.
        ids = torch.tensor([[*self.size, 0, 0, *self.size]], device=self._device).float()
        return states, {"text_embeds": pooled, "time_ids": ids.expand(len(captions), -1)}

    def prediction_goal(
        self, latents: torch.Tensor, noise: torch.Tensor, times: torch.Tensor
    ) -> torch.Tensor:
        """Return the prediction target of the UNet for latents noised at `times`, (n,)."""
        goals: dict[str, torch.Tensor] = {
            "epsilon": noise,
            "sample": latents,
            "v_prediction": self.schedule.get_velocity(latents, noise, times),
        }
        return goals[self.schedule.config.prediction_type]


def load_to_train(options: ModelOptions, device: str, description: str) -> DiffusionPipeline:
    """Load a model in float32 without adapters, with all weights frozen.

    Args:
        options: Options of the model.
        device: A torch device.
        description: Name of the trained model in error messages.

    Raises:
        WeightsError: The model is none of `SUPPORTED`, or cannot be loaded.
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
    # diffusers would warn about truncated captions at every step.
    diffusers_logging.set_verbosity_error()
    pipeline = load_model(plain, device).pipeline
    if type(pipeline).__name__ not in SUPPORTED:
        raise WeightsError(
            f"{description} is trained for {' or '.join(SUPPORTED)}, but the model "
            f"{options.weights} is a {type(pipeline).__name__}. Choose another one."
        )
    for part in pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.requires_grad_(requires_grad=False)
    return pipeline


def add_lora(
    unet: UNet2DConditionModel, rank: int, seed: int, device: str, layers: Sequence[str]
) -> None:
    """Add a trainable LoRA to all layers of a UNet whose names end in one of `layers`."""
    from peft import LoraConfig

    torch.manual_seed(seed)
    unet.add_adapter(LoraConfig(r=rank, lora_alpha=rank, target_modules=list(layers)))
    if device.startswith("cuda"):
        unet.enable_gradient_checkpointing()
    unet.train()


def lora_state(unet: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """Return the LoRA weights of a UNet in the format of diffusers."""
    from peft import get_peft_model_state_dict

    return {
        name: value.detach().cpu().contiguous()
        for name, value in get_peft_model_state_dict(unet).items()
    }


def pretrain_lora(
    target: Target,
    options: ModelOptions,
    settings: LoraSettings,
    folder: Path,
    device: str = "cpu",
    progress: Progress = lambda step, loss, seconds: None,
) -> Path:
    """Train a LoRA for the model of `options`, or resume training; return its folder.

    Writes `train.json` with its tensors (checkpoint) and `adapter/`: the LoRA file, which any
    diffusers pipeline of the model's kind can load, and `adapter.json` with the training data and
    the model's error on held-out images of the audit split, with and without the LoRA.

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
    """A text-to-image model trained on images with captions of their attributes, without labels."""

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
