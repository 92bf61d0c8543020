"""Training of a joint model: a text-to-image model of others learns to draw labels of pixels too.

A big MTDM. The UNet of a Stable Diffusion or SDXL model is widened by the labels, see
`generators._joint_unet`; low-rank updates (LoRA, Hu et al. 2022) of its layers and the new parts of
its first and last convolution are learnt on the generator split, all else stays as it is. Labels
are not sent through the VAE but folded, see `label_grid`. Running it again continues at the last
checkpoint. What a step trains on is a function of (seed, step).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from diffusers import DiffusionPipeline
from numpy.typing import NDArray

from memory.errors import SettingsError
from memory.files import write_json
from tools.data.samples import Dense, Samples
from tools.diffusion.denoising import Run
from tools.diffusion.label_codes import LabelCodes
from tools.diffusion.label_grid import LabelGrid
from tools.generators.joint.folder import JointCard, save_joint, widen
from tools.generators.text2image.diffusion_model import size_like
from tools.generators.text2image.lora import require_peft
from tools.generators.text2image.model_options import ModelOptions
from tools.models.diffusers_folder import folder_sha256, model_folder
from tools.pretraining.finetuning import (
    ATTENTION,
    RESNETS,
    Frozen,
    add_lora,
    batch_of,
    load_to_train,
    lora_state,
    unseen_of,
)
from tools.pretraining.pretrain import captions_of
from tools.settings import JointSettings
from tools.targets import Target, licence_of

_LAYERS = {"attention": ATTENTION, "all": ATTENTION + RESNETS}
# Labels with little noise do not outweigh the others (Hang et al. 2023).
_MOST_WEIGHT = 5.0


def pretrain_joint(
    target: Target,
    options: ModelOptions,
    settings: JointSettings,
    folder: Path,
    device: str = "cpu",
    progress: Callable[[int, float, float], None] = lambda step, loss, seconds: None,
) -> Path:
    """Train, or go on training, a joint model on the model of `options`; return its folder.

    Where a pixel's label is not known the loss leaves it out. Writes `train.json` with its tensors
    (to continue), `run.json` (of what is trained) and `joint/`: the LoRA, the new tensors and
    `joint.json`, its card, see `JointCard`. All of it is small: the model itself is not copied.

    Raises WeightsError for a model that is none of Stable Diffusion's or SDXL's, or cannot be
    loaded; SettingsError for labels that the target lacks, when the folder holds a run with other
    settings or of another model, or peft is missing; DataError for labels that cannot be coded.
    """
    require_peft()
    samples = _with_labels(target.split("generator"), target, settings)
    pipeline = load_to_train(options, device, "A joint model")
    size = size_like(pipeline, options, (target.image_shape[1], target.image_shape[2]))
    grid = LabelGrid.of(
        LabelCodes.of(samples, target.pixel_classes),
        (target.image_shape[1], target.image_shape[2]),
        size,
        pipeline.vae_scale_factor,
    )
    model = model_folder(options.weights, options.revision, options.variant, online=False)
    model_sha256 = folder_sha256(model)
    _check_run(folder, model_sha256, size, grid)
    learner = _Learner(pipeline, Frozen(pipeline, size, options, device), grid, settings, device)
    run = Run(folder, settings, learner.weights)
    first = run.restore()
    captions = captions_of(samples, target, settings)

    def loss_of(step: int) -> torch.Tensor:
        of_image, of_labels = learner.losses(
            *batch_of(samples, captions, target, settings, step, learner.n_times)
        )
        return of_image + of_labels

    run.train(first, loss_of, progress)

    learner.weights.load_state_dict(run.average)
    unseen = unseen_of(target)
    error_image, error_labels = learner.errors(unseen, target, settings)
    card = JointCard(
        model=options.weights,
        revision=options.revision,
        variant=options.variant,
        model_sha256=model_sha256,
        trained_on=f"{target.name}: generator split. {licence_of(target)}",
        steps=settings.steps,
        rank=settings.rank,
        image_shape=target.image_shape,
        size=size,
        labels=grid,
        n_unseen=len(unseen),
        error_image=error_image,
        error_labels=error_labels,
    )
    save_joint(folder / "joint", card, pipeline, lora_state(pipeline.unet))
    return folder / "joint"


def _with_labels(samples: Samples, target: Target, settings: JointSettings) -> Samples:
    """Return samples with the labels that are learnt alone; raises SettingsError."""
    wanted = tuple(samples.labels) if settings.labels is None else settings.labels
    missing = sorted(set(wanted) - set(samples.labels))
    if missing or not wanted:
        raise SettingsError(
            f"A joint model learns {' and '.join(missing) or 'labels of pixels'}, but the target "
            f"{target.name!r} has {', '.join(samples.labels) or 'no labels of pixels'}. Choose "
            "among them with pretrain.joint.labels, or add --lora-only to learn images alone."
        )
    return replace(samples, labels={kind: samples.labels[kind] for kind in wanted})


def _check_run(folder: Path, model_sha256: str, size: tuple[int, int], grid: LabelGrid) -> None:
    """Refuse to go on with a run of another model, size or other labels; raises SettingsError."""
    said = {"model_sha256": model_sha256, "size": list(size), "labels": grid.to_json()}
    path = folder / "run.json"
    if not path.exists():
        write_json(path, said)
        return
    before = json.loads(path.read_text("utf-8"))
    changed = [key for key, value in said.items() if before.get(key) != value]
    if changed:
        raise SettingsError(
            f"{folder} holds a run with another {', another '.join(changed)}. Use the same model, "
            "generator.options.size and data to continue it, or another folder to start anew."
        )


class _Learner:
    """A pipeline whose UNet, widened by labels, learns."""

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        frozen: Frozen,
        grid: LabelGrid,
        settings: JointSettings,
        device: str,
    ) -> None:
        self._frozen, self._grid, self._device = frozen, grid, device
        self.n_times = frozen.n_times
        self._unet = widen(pipeline, grid.n_channels)
        add_lora(self._unet, settings.rank, settings.seed, device, _LAYERS[settings.adapt])
        for parameter in self._unet.label_weights.values():
            parameter.requires_grad_()
        # Of the network, what is learnt, and so what a checkpoint holds.
        self.weights = torch.nn.ParameterList(
            parameter for parameter in self._unet.parameters() if parameter.requires_grad
        )

    def losses(
        self,
        images: NDArray[np.uint8],
        labels: Dense,
        words: Sequence[str],
        times: torch.Tensor,
        noise: torch.Generator,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the mean squared errors of what the UNet says of noisy images and labels.

        images: (n, 1 or 3, h, w); times: (n,), 0 is the least noise. That of labels is of clean
        ones, weighted by one over the noise's power, as far as that is not extreme.
        """
        latents = self._frozen.latents(images)
        states, more = self._frozen.states(words)
        channels, known = (part.to(self._device) for part in self._grid.encode(labels))
        clean = torch.cat([latents, channels], dim=1)
        drawn = torch.randn(clean.shape, generator=noise).to(self._device)
        times = times.to(self._device)
        noisy = self._frozen.schedule.add_noise(clean, drawn, times)
        with self._frozen.autocast():
            of_image, of_labels = self._unet.denoise(noisy, times, states, added_cond_kwargs=more)
        wanted = self._frozen.wanted(latents, drawn[:, : latents.shape[1]], times)
        share = known / (1 - self._unet.signal(times)).clamp(min=1 / _MOST_WEIGHT)
        error_labels = (share * (of_labels - channels) ** 2).sum() / known.sum().clamp(min=1)
        return ((of_image.float() - wanted) ** 2).mean(), error_labels

    @torch.no_grad()
    def errors(
        self, unseen: Samples, target: Target, settings: JointSettings
    ) -> tuple[float, float]:
        """Return the mean losses on images, the times spread evenly over all."""
        self._unet.eval()
        known = set(self._grid.codes.kinds) & set(unseen.labels)
        said = [texts[0][0][0] for texts in captions_of(unseen, target, settings)]
        times = torch.linspace(0, self.n_times - 1, len(unseen)).long()
        found = []
        for i in range(len(unseen)):
            row = slice(i, i + 1)
            losses = self.losses(
                unseen.images[row],
                {kind: unseen.labels[kind][row] for kind in known},
                said[row],
                times[row],
                torch.Generator("cpu").manual_seed(i),
            )
            found.append([loss.item() for loss in losses])
        of_image, of_labels = np.mean(found, axis=0)
        return float(of_image), float(of_labels)
