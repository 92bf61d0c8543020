"""Pretraining of an MTDM on the generator split of a target.

Running `pretrain` again resumes from the last checkpoint.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from diffusers import UNet2DConditionModel
from numpy.typing import NDArray
from PIL import Image
from torch.nn.functional import avg_pool2d
from torch.nn.utils.rnn import pad_sequence

from eval.colours import label_colours
from memory import minilm
from memory.errors import SettingsError, unknown
from memory.files import write_atomic
from tools.data.drawn import Drawn
from tools.data.samples import KINDS, VOID, Images, Samples
from tools.diffusion import patch_pca
from tools.diffusion.denoising import DiffusionTrainer, Progress, denoising_loss, to_channels
from tools.diffusion.label_codes import LabelCodes
from tools.diffusion.pipeline import MAX_TOKENS, MTDMPipeline
from tools.diffusion.sampler import seeded_noise
from tools.diffusion.weights import load_pipeline, new_pipeline, weights_folder
from tools.pretraining.batches import Batches
from tools.pretraining.distillation import Balance, Bank, distillation_loss
from tools.settings import PretrainSettings
from tools.targets import Target, licence_of

_N_BASIS_IMAGES = 500
_ENCODE_BATCH = 32
_PARTS = ("unet", "scheduler")
# Limit of the loss weight of a pixel of a rare class.
_MAX_WEIGHT = 20.0


def pretrain(
    target: Target,
    settings: PretrainSettings,
    folder: Path,
    device: str = "cpu",
    progress: Progress = lambda step, loss, seconds: None,
) -> MTDMPipeline:
    """Train the MTDM in `folder`, or resume training; return it with its averaged weights.

    All pixel labels of the target are learnt with the images. Pixels without a label are excluded
    from the loss, so an image without depth still contributes its other labels.

    Writes `train.json` with its tensors (checkpoint), `pipeline/` (for use, float16),
    `samples-STEP.png` and `log.jsonl`. On CUDA the network is compiled and runs in bfloat16.

    Raises:
        SettingsError: The folder holds a run with other settings, or the network does not support
            the size of the images.
        DataError: Labels cannot be encoded.
    """
    samples = target.split("generator")
    torch.manual_seed(settings.seed)
    pipeline = _initial_pipeline(samples, target, settings)
    if settings.s_noise is not None:
        pipeline.register_to_config(s_noise=list(settings.s_noise))
    if settings.timestep_rho is not None:
        pipeline.register_to_config(timestep_rho=settings.timestep_rho)
    balance = _class_balance(samples, target, settings)
    bank = _distilled(pipeline, target, settings, folder, device, balance)
    unet = pipeline.unet.to(device, memory_format=torch.channels_last)
    trainer = DiffusionTrainer(folder, settings, unet)
    first = trainer.restore()
    pipeline.unet = torch.compile(unet) if device.startswith("cuda") else unet
    batches = Batches(samples, target, settings)
    encode = _TextCache(bank.texts if bank else batches.texts())

    def loss_of(step: int) -> torch.Tensor:
        if bank:
            return distillation_loss(pipeline, bank, encode, settings, step)
        batch = batches(step)
        x, weight = to_channels(pipeline, batch.images, batch.labels)
        if balance is not None:
            weight *= balance(batch.labels["segmentation"])
        inputs = (x, weight, *encode(batch.captions))
        x, weight, states, mask = (part.to(device) for part in inputs)
        return denoising_loss(pipeline, x, weight, states, mask, settings, step)

    def export(done: int) -> None:
        _export(folder, pipeline, trainer.average, target, done)

    trainer.train(first, loss_of, progress, export)
    if first >= settings.steps:
        # The sampling settings may have changed although no step was left.
        export(first)

    return load_pipeline(folder / "pipeline", device)


def _initial_pipeline(samples: Samples, target: Target, settings: PretrainSettings) -> MTDMPipeline:
    """Return the initial pipeline: a new one, or the pretrained one that the settings name."""
    if start := settings.distillation.teacher or settings.start:
        return _earlier_pipeline(start, samples, target)
    pixels = samples.images.astype(np.float32) / 255
    codes = LabelCodes.of(samples, target.pixel_classes)

    def build(basis: str = "", power: Sequence[Sequence[float]] = ()) -> MTDMPipeline:
        return new_pipeline(
            target.image_shape,
            settings.patch,
            settings.channels,
            float(pixels.mean()),
            float(pixels.std()),
            codes,
            settings.prediction,
            basis=basis,
            power=power,
            label_noise_offset=settings.label_noise_offset if codes.kinds else 0.0,
        )

    plain = build()
    if settings.explained_variance is None and settings.prediction != "residual":
        return plain
    chosen = np.linspace(0, len(samples) - 1, min(len(samples), _N_BASIS_IMAGES)).astype(int)
    part = samples.take(chosen.tolist())
    x = to_channels(plain, part.images, part.labels)[0].numpy()
    basis = None
    if settings.explained_variance is not None:
        basis = patch_pca.fit(x, _pca_parts(plain, settings.explained_variance))
        x = np.einsum("nchw,kc->nkhw", x, basis.astype(np.float32), optimize=True)
    power = patch_pca.powers(x) if settings.prediction == "residual" else ()
    return build(patch_pca.stored(basis), power)


def _earlier_pipeline(start: str, samples: Samples, target: Target) -> MTDMPipeline:
    """Load a pretrained MTDM; raise SettingsError if its images or classes do not match."""
    pipeline = load_pipeline(weights_folder(start))
    names = pipeline.codes.class_names
    if pipeline.image_shape != tuple(target.image_shape) or (
        "segmentation" in samples.labels and names != tuple(target.pixel_classes)
    ):
        raise SettingsError(
            f"The MTDM {start} draws images of shape {pipeline.image_shape} with the "
            f"classes {', '.join(names) or 'none'}, but the target {target.name!r} has "
            f"{tuple(target.image_shape)} and {', '.join(target.pixel_classes) or 'none'}. "
            "Start with another one, or leave pretrain.start out."
        )
    pipeline.unet.train()
    return pipeline


def _distilled(
    pipeline: MTDMPipeline,
    target: Target,
    settings: PretrainSettings,
    folder: Path,
    device: str,
    balance: Balance | None,
) -> Bank | None:
    """Return the teacher's trajectories and set up the student; None: no distillation."""
    chosen = settings.distillation
    if chosen.teacher is None:
        return None
    teacher = load_pipeline(weights_folder(chosen.teacher), device)
    # Equal spacing, so that steps of the student begin and end at steps of the teacher.
    teacher.register_to_config(timestep_rho=pipeline.config.timestep_rho)
    dropout = settings.attribute_dropout
    bank = Bank(folder / "bank", teacher, target, chosen, dropout, balance)
    # A step of the student keeps as much noise as the teacher's steps that it replaces.
    s_noise = [share**chosen.stride for share in teacher.config.s_noise]
    pipeline.register_to_config(steps=chosen.steps, guidance=1.0, s_noise=s_noise)
    return bank


def _class_balance(samples: Samples, target: Target, settings: PretrainSettings) -> Balance | None:
    """Return a function from segmentations to loss weights of patches; None: equal weights."""
    if not settings.class_balance_exponent or "segmentation" not in samples.labels:
        return None

    def weights_of(ids: NDArray[np.uint8]) -> torch.Tensor:
        return class_weights(ids, len(target.pixel_classes), settings.class_balance_exponent)

    if settings.class_balance_scope == "data":
        of_data = weights_of(samples.labels["segmentation"])
        return lambda ids: patch_weights(ids, of_data, settings.patch)
    return lambda ids: patch_weights(
        ids, torch.stack([weights_of(image[None]) for image in ids]), settings.patch
    )


def _pca_parts(pipeline: MTDMPipeline, explained: Mapping[str, float]) -> list[tuple[int, float]]:
    """Return, per kind, the channels of a patch and the share of their variance to explain.

    Kinds that the target lacks are ignored, so that a preset can serve several targets.
    """
    kinds = ("image", *pipeline.codes.kinds)
    for name in sorted(set(explained) - {"image", *KINDS}):
        raise SettingsError(unknown("kind of pretrain.explained_variance", name, ("image", *KINDS)))
    widths = (pipeline.config.image_channels, *pipeline.codes.widths)
    area = pipeline.config.patch**2
    return [(w * area, explained.get(k, 1.0)) for k, w in zip(kinds, widths, strict=True)]


class _TextCache:
    """Token states of all captions, encoded once before training and stored as float16."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoder = minilm.load()
        # Batches of similar lengths need little padding, which halves the cost.
        ordered = sorted(set(texts), key=lambda text: (len(text), text))
        self._states: dict[str, torch.Tensor] = {}
        for start in range(0, len(ordered), _ENCODE_BATCH):
            part = ordered[start : start + _ENCODE_BATCH]
            states, mask = encoder.token_states_together(part, MAX_TOKENS)
            for text, row, length in zip(part, states, mask.sum(1).tolist(), strict=True):
                self._states[text] = row[:length].half()

    def __call__(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token states, padded to the longest text, and their mask."""
        rows = [self._states[text].float() for text in texts]
        masks = [torch.ones(len(row), dtype=torch.long) for row in rows]
        return pad_sequence(rows, batch_first=True), pad_sequence(masks, batch_first=True)


def _export(
    folder: Path,
    pipeline: MTDMPipeline,
    average: Mapping[str, torch.Tensor],
    target: Target,
    step: int,
) -> None:
    """Save the averaged weights as a usable pipeline and a grid of samples."""
    # Omit the path of the initial weights.
    shape = {k: v for k, v in pipeline.unet.config.items() if k != "_name_or_path"}
    unet = UNet2DConditionModel.from_config(shape)
    unet.load_state_dict({k: v.float().cpu() for k, v in average.items()})
    config = {k: v for k, v in pipeline.config.items() if k not in _PARTS and k[0] != "_"}
    config["trained_on"] = f"{target.name}: generator split. {licence_of(target)}"
    usable = MTDMPipeline(unet, pipeline.scheduler, **config)
    usable.unet.half()
    usable.save_pretrained(folder / "pipeline", safe_serialization=True)
    usable.unet.float()
    usable.set_progress_bar_config(disable=True)
    prompts = sample_prompts(target)
    rows = [(prompt, i) for prompt in prompts for i in range(8)]
    noise = torch.stack([seeded_noise(0, prompt, i, usable.noise_shape) for prompt, i in rows])
    pictures = _pictures(usable([prompt for prompt, _ in rows], noise), target.pixel_classes)
    _, n_channels, height, width = pictures.shape
    tiles = pictures.reshape(len(prompts), 8, n_channels, height, width).transpose(0, 3, 1, 4, 2)
    grid = tiles.reshape(len(prompts) * height, 8 * width, n_channels)
    picture = Image.fromarray(grid[..., 0] if n_channels == 1 else grid)
    write_atomic(folder / f"samples-{step:07d}.png", lambda handle: picture.save(handle, "PNG"))
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps({"step": step, "prompts": prompts}) + "\n")


def _pictures(drawn: Drawn, class_names: Sequence[str]) -> Images:
    """Return images with their labels below them, (n, c, h, w)."""
    depth = drawn.labels.get("depth", np.ones(1))
    scale = (float(depth.min()), float(depth.max()))
    colours = label_colours(drawn.labels, drawn.labels, class_names, scale)
    if not colours:
        return drawn.images
    images = np.broadcast_to(drawn.images, colours[0].shape)
    return np.concatenate([images, *colours], axis=2)


def sample_prompts(target: Target) -> list[str]:
    """Return eight prompts that cycle through the values of the target's attributes."""
    vocabulary = target.vocabulary
    prompts = []
    for row in range(8):
        attributes = {
            key: list(values)[(row // (i + 1)) % len(values)]
            for i, (key, values) in enumerate(vocabulary.attributes.items())
        }
        if vocabulary.problems(attributes):
            attributes = {k: v for k, v in attributes.items() if k not in vocabulary.requires}
        prompts.append(vocabulary.caption(attributes))
    return prompts


def class_weights(segmentation: NDArray[np.uint8], n_classes: int, exponent: float) -> torch.Tensor:
    """Return the loss weight of a pixel of each class, (256,), with mean 1 over the pixels.

    Poles, signs and cyclists cover a few percent of the pixels, and a small network learns what is
    common. Weights fall with a power of the class's frequency (the sampling of Mikolov et al. 2013
    and Mahajan et al. 2018; cf. Cui et al. 2019), are clipped at `_MAX_WEIGHT` before the final
    normalisation, and apply to whole patches, image and labels alike, so that an object is learnt
    together with its label. With frequencies over all images, an image with rare classes weighs
    more as a whole; with frequencies within each image, all images weigh the same and small classes
    weigh more within each.

    Args:
        segmentation: Class ids, (n, h, w).
        n_classes: Number of classes; unknown pixels and classes without pixels have weight 1.
        exponent: 0: equal weights; 1: all classes have the same share of the loss.
    """
    # Image by image, because bincount converts to int64.
    per_image = (np.bincount(ids.reshape(-1), minlength=VOID + 1) for ids in segmentation)
    counts = sum(per_image, np.zeros(VOID + 1))[:n_classes]
    present = counts > 0
    weights = np.ones(VOID + 1, np.float32)
    if present.any():
        shares = counts[present] / counts.sum()
        raised = shares**-exponent
        raised = (raised / (shares * raised).sum()).clip(max=_MAX_WEIGHT)
        weights[:n_classes][present] = raised / (shares * raised).sum()
    return torch.from_numpy(weights)


def patch_weights(
    segmentation: NDArray[np.uint8], weights: torch.Tensor, patch: int
) -> torch.Tensor:
    """Return the mean weight of the pixels of each patch, (n, 1, h / patch, w / patch).

    Args:
        segmentation: Class ids, (n, h, w).
        weights: Weights of the classes, (256,), or per image, (n, 256).
        patch: Side of a patch, pixels.
    """
    ids = torch.from_numpy(segmentation.astype(np.int64))
    of_images = weights.expand(len(ids), -1)
    of_pixels = of_images.gather(1, ids.flatten(1)).view(ids.shape)
    return avg_pool2d(of_pixels[:, None], patch)
