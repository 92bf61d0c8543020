"""Training of a joint model: a pretrained text-to-image model learns to draw pixel labels too.

The UNet of a Stable Diffusion or SDXL model is widened by label channels, see
`tools.generators.joint.unet`; low-rank updates of its layers and the new weights of its first and
last convolution are trained on the generator split, all other weights are frozen. Labels bypass the
VAE and are folded onto its latents, see `LabelGrid`. The training loop is that of `finetuning`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import torch

from memory.errors import SettingsError
from memory.files import write_json
from tools.data.samples import Samples
from tools.diffusion.denoising import MIN_SNR_GAMMA, Progress
from tools.diffusion.label_codes import LabelCodes, LabelGrid
from tools.generators.joint.folder import JointCard, save_joint, widen
from tools.generators.text2image.lora import require_peft
from tools.generators.text2image.model_options import ModelOptions
from tools.models.diffusers_folder import model_folder
from tools.models.digests import folder_sha256
from tools.pretraining.finetuning import ATTENTION, RESNETS, FineTuning, NoisyBatch, lora_state
from tools.settings import JointSettings
from tools.targets import Target

_LAYERS = {"attention": ATTENTION, "all": ATTENTION + RESNETS}


def pretrain_joint(
    target: Target,
    options: ModelOptions,
    settings: JointSettings,
    folder: Path,
    device: str = "cpu",
    progress: Progress = lambda step, loss, seconds: None,
) -> Path:
    """Train a joint model on the model of `options`, or resume training; return its folder.

    Pixels without a label are excluded from the loss. Writes `train.json` with its tensors
    (checkpoint), `run.json` (identity of model and labels) and `joint/`: the LoRA, the new tensors
    and `joint.json`, its card, see `JointCard`. The model itself is not copied.

    Raises:
        WeightsError: The model is not Stable Diffusion or SDXL, or cannot be loaded.
        SettingsError: The target lacks labels, the folder holds a run with other settings or of
            another model, or peft is missing.
        DataError: Labels cannot be encoded.
    """
    require_peft()
    samples = _with_labels(target.split("generator"), target, settings)
    learner = JointFineTuning(samples, target, options, settings, device)
    model = model_folder(options.weights, options.revision, options.variant, online=False)
    model_sha256 = folder_sha256(model)
    _check_run(folder, model_sha256, learner)
    learner.train(samples, folder, progress)
    n_unseen, (error_image, error_labels) = learner.errors()
    card = JointCard(
        model=options.weights,
        revision=options.revision,
        variant=options.variant,
        model_sha256=model_sha256,
        **learner.card(),
        image_shape=target.image_shape,
        size=learner.size,
        labels=learner.grid,
        n_unseen=n_unseen,
        error_image=error_image,
        error_labels=error_labels,
    )
    save_joint(folder / "joint", card, learner.pipeline, lora_state(learner.pipeline.unet))
    return folder / "joint"


def _with_labels(samples: Samples, target: Target, settings: JointSettings) -> Samples:
    """Return samples with only the labels to learn; raise SettingsError if any is missing."""
    kinds = tuple(samples.labels) if settings.labels is None else settings.labels
    missing = sorted(set(kinds) - set(samples.labels))
    if missing or not kinds:
        raise SettingsError(
            f"A joint model learns {' and '.join(missing) or 'labels of pixels'}, but the target "
            f"{target.name!r} has {', '.join(samples.labels) or 'no labels of pixels'}. Choose "
            "among them with pretrain.joint.labels, or add --lora-only to learn images alone."
        )
    return replace(samples, labels={kind: samples.labels[kind] for kind in kinds})


class JointFineTuning(FineTuning):
    """A text-to-image model with a UNet widened by label channels, trained on images and labels.

    Args:
        samples: Training images; the label codes are fitted to their labels.
        target, options, settings, device: See `FineTuning`.
    """

    description = "A joint model"
    settings: JointSettings

    def __init__(
        self,
        samples: Samples,
        target: Target,
        options: ModelOptions,
        settings: JointSettings,
        device: str,
    ) -> None:
        self._codes = LabelCodes.of(samples, target.pixel_classes)
        self.layers = _LAYERS[settings.adapt]
        super().__init__(target, options, settings, device)

    def widen(self) -> Iterable[torch.nn.Parameter]:
        """Widen the UNet by the label channels."""
        _, height, width = self.target.image_shape
        scale = self.pipeline.vae_scale_factor
        self.grid = LabelGrid.of(self._codes, (height, width), self.size, scale)
        self._unet = widen(self.pipeline, self.grid.n_channels)
        return self._unet.label_weights.values()

    def losses(self, batch: NoisyBatch) -> tuple[torch.Tensor, ...]:
        """Return the mean squared errors of the prediction for latents and of the clean labels.

        The error of labels has Min-SNR weights clamped at `MIN_SNR_GAMMA` (Hang et al. 2023).
        """
        latents = self.latents(batch.images)
        states, conditions = self.states(batch.captions)
        labels = {k: v for k, v in batch.labels.items() if k in self._codes.kinds}
        channels, known = (part.to(self._device) for part in self.grid.encode(labels))
        clean = torch.cat([latents, channels], dim=1)
        noise = torch.randn(clean.shape, generator=batch.generator).to(self._device)
        times = batch.times.to(self._device)
        noisy = self.schedule.add_noise(clean, noise, times)
        with self.autocast():
            image, decoded = self._unet.denoise(noisy, times, states, added_cond_kwargs=conditions)
        goal = self.prediction_goal(latents, noise[:, : latents.shape[1]], times)
        weight = known / (1 - self._unet.signal(times)).clamp(min=1 / MIN_SNR_GAMMA)
        label_error = (weight * (decoded - channels) ** 2).sum() / known.sum().clamp(min=1)
        return ((image.float() - goal) ** 2).mean(), label_error


def _check_run(folder: Path, model_sha256: str, learner: JointFineTuning) -> None:
    """Raise SettingsError if the folder holds a run of another model, size or labels."""
    labels = learner.grid.to_json()
    run = {"model_sha256": model_sha256, "size": list(learner.size), "labels": labels}
    path = folder / "run.json"
    if not path.exists():
        write_json(path, run)
        return
    before = json.loads(path.read_text("utf-8"))
    changed = [key for key, value in run.items() if before.get(key) != value]
    if changed:
        raise SettingsError(
            f"{folder} holds a run with another {', another '.join(changed)}. Use the same model, "
            "generator.options.size and data to continue it, or another folder to start anew."
        )
