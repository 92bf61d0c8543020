"""Pretraining of an MTDM on the generator split of a target.

One linear function; running it again continues at the last checkpoint. What a step trains on is a
function of (seed, step), so an interrupted run ends with the weights of an undisturbed one.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch.nn.utils.rnn import pad_sequence

from eval.colours import label_colours
from memory import minilm
from memory.errors import SettingsError, unknown
from memory.files import write_atomic
from tools.data.drawn import Drawn
from tools.data.samples import Images, Samples
from tools.diffusion import patch_pca
from tools.diffusion.class_balance import class_weights, patch_weights
from tools.diffusion.denoising import Run, denoising_loss, folded, mirrored_batch, rows_of, words_of
from tools.diffusion.label_codes import KINDS, LabelCodes
from tools.diffusion.noise import seeded_noise
from tools.diffusion.pipeline import (
    MAX_TOKENS,
    MTDMPipeline,
    load_pipeline,
    new_pipeline,
    weights_folder,
)
from tools.settings import CaptionedRun, PretrainSettings
from tools.targets import Target, licence_of

CAPTIONS_PER_IMAGE = 6
_BASIS_IMAGES = 500
_ENCODED_AT_ONCE = 32


def pretrain(
    target: Target,
    settings: PretrainSettings,
    folder: Path,
    device: str = "cpu",
    progress: Callable[[int, float, float], None] = lambda step, loss, seconds: None,
) -> MTDMPipeline:
    """Train, or go on training, the MTDM in `folder`; return it with its averaged (EMA) weights.

    All labels of pixels that the target has are learnt with the images; where a pixel's label is
    not known the loss leaves it out, so an image without depth still teaches the other labels.

    Writes `train.safetensors` and `train.json` (to continue), `pipeline/` (to use, float16),
    `samples-STEP.png` and `log.jsonl`. On CUDA the network runs compiled in bfloat16. Raises
    SettingsError when the folder holds a run with other settings, or the images have a size that
    the network cannot draw; DataError for labels that cannot be coded.
    """
    samples = target.split("generator")
    torch.manual_seed(settings.seed)
    pipeline = _first_pipeline(samples, target, settings)
    if settings.noise_kept is not None:
        pipeline.register_to_config(noise_kept=list(settings.noise_kept))
    if settings.spacing is not None:
        pipeline.register_to_config(spacing=settings.spacing)
    unet = pipeline.unet.to(device, memory_format=torch.channels_last)
    run = Run(folder, settings, unet)
    first = run.restore()
    pipeline.unet = torch.compile(unet) if device.startswith("cuda") else unet
    captions = captions_of(samples, target, settings)
    may_flip = [direction in target.flips for direction in ("horizontal", "vertical")]
    across, down = ((False, True) if may else (False,) for may in may_flip)
    # Only what a step may say: the captions of other flips are never asked for.
    said = (image[h][v] for image in captions for h in across for v in down)
    texts = _TextCache(chain([""], *said))
    rarity = _rarity(samples, target, settings)

    def loss_of(step: int) -> torch.Tensor:
        rng = np.random.default_rng([settings.seed, step])
        chosen, flips = rows_of(len(samples), target, settings, step, rng)
        images, labels = mirrored_batch(samples, chosen, flips)
        x, weight = folded(pipeline, images, labels)
        if rarity is not None:
            weight *= rarity(labels["segmentation"])
        words = words_of(captions, chosen, flips, settings, rng)
        x, weight, states, mask = (part.to(device) for part in (x, weight, *texts(words)))
        return denoising_loss(pipeline, x, weight, states, mask, settings, step)

    def saved(done: int) -> None:
        _export(folder, pipeline, run.average, target, done)

    run.train(first, loss_of, progress, saved)
    if first >= settings.steps:
        # How it draws may be set anew without another step.
        saved(first)

    return load_pipeline(folder / "pipeline", device)


def _first_pipeline(samples: Samples, target: Target, settings: PretrainSettings) -> MTDMPipeline:
    """Return the pipeline that the training starts with: new, or one trained before."""
    if settings.start is not None:
        pipeline = load_pipeline(weights_folder(settings.start))
        names = pipeline.codes.class_names
        if pipeline.image_shape != tuple(target.image_shape) or (
            "segmentation" in samples.labels and names != tuple(target.pixel_classes)
        ):
            raise SettingsError(
                f"The MTDM {settings.start} draws images of shape {pipeline.image_shape} with the "
                f"classes {', '.join(names) or 'none'}, but the target {target.name!r} has "
                f"{tuple(target.image_shape)} and {', '.join(target.pixel_classes) or 'none'}. "
                "Start with another one, or leave pretrain.start out."
            )
        pipeline.unet.train()
        return pipeline
    pixels = samples.images.astype(np.float32) / 255

    codes = LabelCodes.of(samples, target.pixel_classes)

    def made(basis: str = "", power: Sequence[Sequence[float]] = ()) -> MTDMPipeline:
        return new_pipeline(
            target.image_shape,
            settings.patch,
            settings.channels,
            float(pixels.mean()),
            float(pixels.std()),
            codes,
            settings.prediction,
            basis,
            power,
            settings.label_lead if codes.kinds else 0.0,
        )

    plain = made()
    if settings.power_kept is None and settings.prediction != "remainder":
        return plain
    chosen = np.linspace(0, len(samples) - 1, min(len(samples), _BASIS_IMAGES)).astype(int)
    some = samples.take(chosen.tolist())
    x = folded(plain, some.images, some.labels)[0].numpy()
    basis = None
    if settings.power_kept is not None:
        basis = patch_pca.fit(x, _parts(plain, settings.power_kept))
        x = np.einsum("nchw,kc->nkhw", x, basis.astype(np.float32), optimize=True)
    remainder = settings.prediction == "remainder"
    return made(patch_pca.stored(basis), patch_pca.powers(x) if remainder else ())


def _rarity(
    samples: Samples, target: Target, settings: PretrainSettings
) -> Callable[[NDArray[np.uint8]], torch.Tensor] | None:
    """Return what gives the weights of the patches of some masks, None where all weigh the same."""
    if not settings.rare_power or "segmentation" not in samples.labels:
        return None

    def of_classes(ids: NDArray[np.uint8]) -> torch.Tensor:
        return class_weights(ids, len(target.pixel_classes), settings.rare_power)

    if settings.rare_within == "data":
        of_all = of_classes(samples.labels["segmentation"])
        return lambda ids: patch_weights(ids, of_all, settings.patch)

    def in_each(ids: NDArray[np.uint8]) -> torch.Tensor:
        by_image = torch.stack([of_classes(image[None]) for image in ids])
        return patch_weights(ids, by_image, settings.patch)

    return in_each


def _parts(pipeline: MTDMPipeline, kept: Mapping[str, float]) -> list[tuple[int, float]]:
    """Return how many channels of a patch each kind has, and the share of its power to keep.

    Kinds that are kept but not drawn are no error, so that a preset may serve several targets.
    """
    kinds = ("image", *pipeline.codes.kinds)
    for name in sorted(set(kept) - {"image", *KINDS}):
        raise SettingsError(unknown("kind of pretrain.power_kept", name, ("image", *KINDS)))
    widths = (pipeline.config.image_channels, *pipeline.codes.widths)
    area = pipeline.config.patch**2
    return [(w * area, kept.get(k, 1.0)) for k, w in zip(kinds, widths, strict=True)]


def captions_of(
    samples: Samples, target: Target, settings: CaptionedRun
) -> list[list[list[list[str]]]]:
    """Return captions[image][flipped horizontally][flipped vertically][variant].

    Attributes are left out at random, so that the model also understands a prompt that names only
    some; the first variant always names all.
    """
    rng = random.Random(settings.seed)
    vocabulary = target.vocabulary
    pools: dict[frozenset[tuple[str, str]], list[str]] = {}

    def variants(attributes: Mapping[str, str], n: int) -> list[str]:
        result = [vocabulary.caption(attributes, rng)]
        while len(result) < n:
            kept = {
                k: v for k, v in attributes.items() if rng.random() >= settings.attribute_dropout
            }
            if vocabulary.problems(kept):
                kept = {k: v for k, v in kept.items() if k not in vocabulary.requires}
            result.append(vocabulary.caption(kept, rng))
        return result

    def wordings(attributes: Mapping[str, str]) -> list[str]:
        if settings.shared_captions is None:
            return variants(attributes, CAPTIONS_PER_IMAGE)
        key = frozenset(attributes.items())
        if key not in pools:
            pools[key] = variants(attributes, settings.shared_captions)
        return pools[key]

    return [
        [[wordings(target.flip(dict(a), h, v)) for v in (False, True)] for h in (False, True)]
        for a in samples.attributes
    ]


class _TextCache:
    """Token states of all captions, encoded once before the training and kept as float16."""

    def __init__(self, texts: Iterable[str]) -> None:
        encoder = minilm.load()
        # Equal lengths side by side: little padding, and the cost falls by half.
        ordered = sorted(set(texts), key=lambda text: (len(text), text))
        self._states: dict[str, torch.Tensor] = {}
        for start in range(0, len(ordered), _ENCODED_AT_ONCE):
            part = ordered[start : start + _ENCODED_AT_ONCE]
            states, mask = encoder.token_states_together(part, MAX_TOKENS)
            for text, row, length in zip(part, states, mask.sum(1).tolist(), strict=True):
                self._states[text] = row[:length].half()

    def __call__(self, texts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return token states, padded to the longest text, and the mask."""
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
    c = pipeline.config
    widths = pipeline.unet.config.block_out_channels
    usable = new_pipeline(
        pipeline.image_shape,
        c.patch,
        widths,
        c.mean,
        c.std,
        pipeline.codes,
        basis=c.basis,
        power=c.power,
        label_lead=c.label_lead,
    )
    usable.scheduler = pipeline.scheduler
    usable.register_to_config(noise_kept=c.noise_kept, spacing=c.spacing)
    licence = licence_of(target)
    usable.register_to_config(trained_on=f"{target.name}: generator split. {licence}")
    usable.unet.load_state_dict({k: v.float().cpu() for k, v in average.items()})
    usable.unet.half()
    usable.save_pretrained(folder / "pipeline", safe_serialization=True)
    usable.unet.float()
    usable.set_progress_bar_config(disable=True)
    prompts = sample_prompts(target)
    rows = []
    for prompt in prompts:
        noise = torch.stack([seeded_noise(0, prompt, i, usable.noise_shape) for i in range(8)])
        drawn = usable([prompt] * 8, noise)
        rows.append(np.concatenate(list(_pictures(drawn, target.pixel_classes)), axis=2))
    grid = np.concatenate(rows, axis=1).transpose(1, 2, 0)
    picture = Image.fromarray(grid[..., 0] if grid.shape[2] == 1 else grid)
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


def sample_prompts(target: Target, n: int = 8) -> list[str]:
    """Return `n` canonical prompts that walk through the values of the target's attributes."""
    vocabulary = target.vocabulary
    prompts = []
    for row in range(n):
        attributes = {
            key: list(values)[(row // (i + 1)) % len(values)]
            for i, (key, values) in enumerate(vocabulary.attributes.items())
        }
        if vocabulary.problems(attributes):
            attributes = {k: v for k, v in attributes.items() if k not in vocabulary.requires}
        prompts.append(vocabulary.caption(attributes))
    return prompts
