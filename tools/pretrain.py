"""Pretraining of an MTDM on the generator split of a target.

One linear function; running it again continues at the last checkpoint. What a step trains on is a
function of (seed, step), so an interrupted run ends with the weights of an undisturbed one.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import load_file, save
from torch.nn.functional import pixel_unshuffle
from torch.nn.utils.rnn import pad_sequence

from eval.colours import label_colours
from memory import minilm
from memory.errors import SettingsError
from memory.files import write_atomic, write_bytes, write_json
from tools.generators import Drawn
from tools.generators.mtdm import (
    MAX_TOKENS,
    PREDICTIONS,
    MTDMPipeline,
    load_pipeline,
    new_pipeline,
    seeded_noise,
    weights_folder,
)
from tools.label_codes import LabelCodes, mirrored
from tools.samples import Dense, Images, Samples
from tools.settings import PretrainSettings
from tools.targets import Target

CAPTIONS_PER_IMAGE = 6
_ENCODED_AT_ONCE = 32
_MOST_WEIGHT = 5.0


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
    unet = pipeline.unet.to(device)
    average = {k: v.detach().clone() for k, v in unet.state_dict().items()}
    optimizer = torch.optim.AdamW(
        unet.parameters(), settings.learning_rate, betas=(0.9, 0.99), weight_decay=0.01
    )
    first = _restore(folder, settings, unet, average, optimizer)
    network = torch.compile(unet) if device.startswith("cuda") else unet
    pipeline.unet = network
    captions = captions_of(samples, target, settings)
    clean = pipeline.scheduler.config.prediction_type == PREDICTIONS["clean"]
    may_flip = [direction in target.flips for direction in ("horizontal", "vertical")]
    across, down = ((False, True) if may else (False,) for may in may_flip)
    # Only what a step may say: the captions of other flips are never asked for.
    said = (image[h][v] for image in captions for h in across for v in down)
    texts = _TextCache(chain([""], *said))
    generator = torch.Generator("cpu")
    alphas = pipeline.scheduler.alphas_cumprod.to(device)

    started = time.monotonic()
    for step in range(first, settings.steps):
        rng = np.random.default_rng([settings.seed, step])
        generator.manual_seed(settings.seed * 1_000_003 + step)
        chosen = _epoch_order(len(samples), settings, step)
        flips = rng.integers(0, 2, (len(chosen), 2)).astype(bool) & may_flip
        images, labels = _mirrored_batch(samples, chosen, flips)
        words = [
            ""
            if rng.random() < settings.text_dropout
            else _one_of(captions[i][int(h)][int(v)], rng)
            for i, (h, v) in zip(chosen, flips, strict=True)
        ]
        states, mask = (part.to(device) for part in texts(words))
        x, weight = _folded(pipeline, images, labels)
        x, weight = x.to(device), weight.to(device)
        noise = torch.randn(x.shape, generator=generator).to(device)
        t = torch.randint(len(alphas), (len(x),), generator=generator).to(device)
        a = alphas[t].view(-1, 1, 1, 1)
        noisy = a.sqrt() * x + (1 - a).sqrt() * noise
        if clean:
            wanted = x
            # The loss of the velocity, without the greatest weights (Hang et al. 2023).
            weight = weight * (1 / (1 - a)).clamp(max=_MOST_WEIGHT)
        else:
            wanted = a.sqrt() * noise - (1 - a).sqrt() * x
        for group in optimizer.param_groups:
            group["lr"] = _learning_rate(step, settings)
        with torch.autocast("cuda", torch.bfloat16, enabled=device.startswith("cuda")):
            found = pipeline.predict(noisy, t, states, mask).float()
            loss = (weight * (found - wanted) ** 2).sum() / weight.sum()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(unet.parameters(), 1.0)
        optimizer.step()
        decay = min(settings.ema_decay, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, value in unet.state_dict().items():
                average[name].lerp_(value, 1 - decay)
        done = step + 1
        progress(done, loss.item(), time.monotonic() - started)
        if done % settings.save_every == 0 or done == settings.steps:
            _save(folder, settings, done, loss.item(), unet, average, optimizer)
            _export(folder, pipeline, average, target, done)

    pipeline = load_pipeline(folder / "pipeline", device)
    return pipeline


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
    return new_pipeline(
        target.image_shape,
        settings.patch,
        settings.channels,
        float(pixels.mean()),
        float(pixels.std()),
        LabelCodes.of(samples, target.pixel_classes),
        settings.prediction,
    )


def _mirrored_batch(
    samples: Samples, chosen: Sequence[int], flips: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
    """Return images and labels; flips: (n, 2), left to right and top to bottom."""
    images, labels = [], []
    for i, (horizontal, vertical) in zip(chosen, flips.tolist(), strict=True):
        flipped = {"image": samples.images[i], **{k: v[i] for k, v in samples.labels.items()}}
        turned = mirrored(flipped, horizontal, vertical)
        images.append(turned.pop("image"))
        labels.append(turned)
    return np.stack(images), {k: np.stack([row[k] for row in labels]) for k in samples.labels}


def _folded(
    pipeline: MTDMPipeline, images: NDArray[np.uint8], labels: Dense
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the network's channels and the weight of each in the loss, 0 where unknown."""
    pixels = torch.from_numpy(images.astype(np.float32) / 255)
    known = torch.ones_like(pixels)
    if not pipeline.codes.kinds:
        return pipeline.fold(pixels), pixel_unshuffle(known, pipeline.config.patch)
    values, is_known = pipeline.codes.encode(labels, images.shape[2:])
    known = torch.cat([known, torch.from_numpy(is_known.astype(np.float32))], dim=1)
    x = pipeline.fold(pixels, torch.from_numpy(values))
    return x, pixel_unshuffle(known, pipeline.config.patch)


def _one_of(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))]


def _learning_rate(step: int, settings: PretrainSettings) -> float:
    """Warm up, hold, then fall linearly to zero over the last part (cooldown)."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup_steps))
    left = (settings.steps - step) / max(1.0, settings.cooldown_share * settings.steps)
    return settings.learning_rate * min(warm, left, 1.0)


def _epoch_order(n: int, settings: PretrainSettings, step: int) -> list[int]:
    """Return the image indices of a step: shuffled epochs laid end to end."""
    start = step * settings.batch_size
    positions = range(start, start + settings.batch_size)
    orders = {
        epoch: np.random.default_rng([settings.seed, 1, epoch]).permutation(n)
        for epoch in {p // n for p in positions}
    }
    return [int(orders[p // n][p % n]) for p in positions]


def captions_of(
    samples: Samples, target: Target, settings: PretrainSettings
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


def _save(
    folder: Path,
    settings: PretrainSettings,
    step: int,
    loss: float,
    unet: torch.nn.Module,
    average: Mapping[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> None:
    """Write the training state; the JSON file last, since it vouches for the tensors."""
    tensors = {f"unet.{k}": v for k, v in unet.state_dict().items()}
    tensors |= {f"average.{k}": v for k, v in average.items()}
    state = optimizer.state_dict()["state"]
    for index, values in state.items():
        tensors |= {f"optimizer.{index}.{name}": value for name, value in values.items()}
    data = save({k: v.detach().cpu().contiguous() for k, v in tensors.items()})
    for old in folder.glob("train-*.safetensors"):
        if old.name != _current(folder):
            old.unlink()
    name = f"train-{step:07d}.safetensors"
    write_bytes(folder / name, data)
    meta = {"step": step, "file": name, "loss": loss, "settings": settings.model_dump(mode="json")}
    write_json(folder / "train.json", meta)


def _current(folder: Path) -> str | None:
    path = folder / "train.json"
    return json.loads(path.read_text("utf-8"))["file"] if path.exists() else None


def _restore(
    folder: Path,
    settings: PretrainSettings,
    unet: torch.nn.Module,
    average: dict[str, torch.Tensor],
    optimizer: torch.optim.Optimizer,
) -> int:
    """Load the last checkpoint, if there is one, and return its step."""
    path = folder / "train.json"
    if not path.exists():
        return 0
    meta = json.loads(path.read_text("utf-8"))
    free = {"steps", "save_every"}
    mine: dict[str, Any] = settings.model_dump(mode="json", exclude=free)
    other = {k: v for k, v in meta["settings"].items() if k not in free}
    if mine != other:
        changed = [f"{k}: {other.get(k)} -> {mine.get(k)}" for k in mine if mine[k] != other.get(k)]
        raise SettingsError(
            f"{folder} holds a run with other settings ({'; '.join(changed)}). Use the same "
            "settings to continue it, or another folder to start anew."
        )
    tensors = load_file(folder / meta["file"])
    unet.load_state_dict({k[5:]: v for k, v in tensors.items() if k.startswith("unet.")})
    for name in average:
        average[name].copy_(tensors[f"average.{name}"])
    state: dict[int, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        if key.startswith("optimizer."):
            _, index, name = key.split(".")
            state.setdefault(int(index), {})[name] = value
    optimizer.load_state_dict({**optimizer.state_dict(), "state": state})
    return int(meta["step"])


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
    usable = new_pipeline(pipeline.image_shape, c.patch, widths, c.mean, c.std, pipeline.codes)
    usable.scheduler = pipeline.scheduler
    usable.register_to_config(trained_on=f"{target.name}: generator split. {target.notice}")
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
