"""The labeler `feature_decoder`: predicts pixel labels from features of the MTDM's denoiser.

A small head is trained on the up-block activations of the denoiser for a few dozen labelled images
with a little noise (DatasetGAN, Zhang et al. 2021; DatasetDM, Wu et al. 2023). It adds these labels
to an MTDM that draws only images, or other labels; label channels of the MTDM are not used.
`shaping label-head fit` trains a head.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from safetensors.torch import save
from torch import nn
from torch.nn.functional import interpolate, pixel_shuffle

from memory.errors import DataError, SettingsError, WeightsError
from memory.files import write_bytes, write_json
from memory.records import Record
from memory.user_folders import writing
from tools.data.samples import KINDS, Dense, Images, Samples
from tools.diffusion.label_codes import mirrored
from tools.diffusion.pipeline import MTDMPipeline
from tools.generators import Generator
from tools.generators.mtdm import MTDMGenerator
from tools.models.embeddings import recorded
from tools.models.folders import load_weights, read_description, require_files
from tools.settings import TrainSettings
from tools.tasks import Minibatch, pixel_batches
from tools.tasks.multi import Multi

TENSORS, DESCRIPTION = "head.safetensors", "head.json"
_BATCH = 32

# Standard deviation of the members' log depth (a tenth of the distance) at which the confidence
# falls to 1/e.
_DEPTH_SPREAD = 0.1


class HeadSettings(Record):
    """Settings of a head and its training.

    Attributes:
        timesteps: Timesteps, of 1,000, at which features are extracted.
        members: Number of heads with different seeds; their agreement is the confidence.
    """

    timesteps: tuple[int, ...] = Field((50, 250), min_length=1)
    width: int = Field(96, ge=1, description="channels of the hidden layers")
    members: int = Field(3, ge=1)
    steps: int = Field(400, ge=1, description="training steps of each member")
    batch_size: int = Field(16, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    weight_decay: float = Field(0.05, ge=0)
    seed: int = Field(0, ge=0)


class Description(Record):
    """Contents of head.json: kinds of labels, pixel classes and a digest of the head's MTDM."""

    kinds: tuple[str, ...]
    class_names: tuple[str, ...]
    denoiser: str
    n_images: int
    settings: HeadSettings
    figures: dict[str, float] = Field(default_factory=dict)


class UNetFeatures:
    """Extracts the denoiser's up-block activations and the folded pixels of images."""

    def __init__(self, pipeline: MTDMPipeline, timesteps: Sequence[int]) -> None:
        self._pipeline = pipeline
        self._timesteps = tuple(timesteps)
        # The same noise for every image, so that labels do not depend on the batch.
        generator = torch.Generator().manual_seed(0)
        self._noise = torch.randn(1, *pipeline.noise_shape, generator=generator)

    @property
    def n_channels(self) -> int:
        """Number of channels per folded pixel."""
        widths = self._pipeline.unet.config.block_out_channels
        return int(sum(widths)) * len(self._timesteps) + self._pipeline.n_image_channels

    @torch.inference_mode()
    def __call__(self, images: Images) -> torch.Tensor:
        """Extract features, float32, on the CPU, (n, n_channels, height / patch, width / patch)."""
        return torch.cat([self._extract(pixels) for pixels in pixel_batches(images, _BATCH)])

    def _extract(self, pixels: torch.Tensor) -> torch.Tensor:
        pipeline = self._pipeline
        with recorded(pipeline.unet.up_blocks) as outputs:
            for step in self._timesteps:
                pipeline.extract_features(pixels, self._noise, step)
        image = pipeline.fold(pixels)
        maps = [
            interpolate(x.float().cpu(), image.shape[2:], mode="bilinear", align_corners=False)
            for x in outputs
        ]
        return torch.cat([*maps, image], dim=1)


class Head(nn.Module):
    """Maps normalised features to outputs of `tools.tasks.multi` for every pixel."""

    def __init__(self, n_features: int, width: int, n_outputs: int, patch: int) -> None:
        super().__init__()
        self._patch = patch
        self.mean: torch.Tensor
        self.std: torch.Tensor
        self.register_buffer("mean", torch.zeros(n_features, 1, 1))
        self.register_buffer("std", torch.ones(n_features, 1, 1))
        self.layers = nn.Sequential(
            nn.Dropout2d(0.1),
            nn.Conv2d(n_features, width, 1),
            nn.GELU(),
            nn.Conv2d(width, width, 3, padding=1),
            nn.GELU(),
            nn.Conv2d(width, n_outputs * patch**2, 1),
        )

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """Map features, (n, n_features, h / patch, w / patch), to (n, n_outputs, h, w)."""
        outputs: torch.Tensor = self.layers((features - self.mean) / self.std)
        return pixel_shuffle(outputs, self._patch)


@dataclass(frozen=True)
class FeatureDecoder:
    """Heads on the features of an MTDM; a `Labeler`."""

    features: UNetFeatures
    heads: nn.ModuleList
    description: Description
    device: str

    @property
    def kinds(self) -> Sequence[str]:
        """Return the kinds of labels that the head was trained on."""
        return self.description.kinds

    @property
    def identity(self) -> str:
        """Return a digest of the heads; the generator's identity covers the MTDM."""
        content = hashlib.sha256(json.dumps(self.description.to_json(), sort_keys=True).encode())
        for _, value in sorted(self.heads.state_dict().items()):
            content.update(value.cpu().contiguous().numpy().tobytes())
        return f"feature_decoder {content.hexdigest()[:16]}"

    @torch.inference_mode()
    def label(self, images: Images) -> tuple[Dense, Dense]:
        """Return the mean label of the members, and their agreement, 0..1."""
        task = Multi(self.kinds)
        features = self.features(images).to(self.device)
        outputs = [task.split_outputs(head(features).float()) for head in self.heads]
        labels: dict[str, NDArray[Any]] = {}
        confidence: dict[str, NDArray[np.float32]] = {}
        for kind, of_members in zip(self.kinds, zip(*outputs, strict=True), strict=True):
            mean, agreement = _aggregate(kind, torch.stack(of_members))
            labels[kind], confidence[kind] = mean.cpu().numpy(), agreement.cpu().numpy()
        return labels, confidence


def _aggregate(kind: str, outputs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the label and the agreement, 0..1, of members' outputs, (members, n, c, h, w)."""
    if kind == "segmentation":
        probability, ids = outputs.softmax(2).mean(0).max(1)
        return ids.byte(), probability
    if kind == "depth":
        logarithms = outputs[:, :, 0]
        spread = logarithms.std(0, correction=0)
        return logarithms.mean(0).exp(), (-spread / _DEPTH_SPREAD).exp()
    mean = nn.functional.normalize(outputs, dim=2).mean(0)
    # The mean of diverging unit vectors is short.
    return nn.functional.normalize(mean, dim=1), mean.norm(dim=1).clamp(max=1)


def fit(
    pipeline: MTDMPipeline,
    samples: Samples,
    class_names: Sequence[str],
    settings: HeadSettings,
    device: str = "cpu",
    progress: Callable[[int, int], None] = lambda done, total: None,
    flips: Sequence[str] = ("horizontal",),
) -> FeatureDecoder:
    """Train heads on labelled images and, if plausible, on their mirror images.

    Args:
        pipeline: MTDM whose denoiser provides the features.
        samples: Samples with pixel labels.
        class_names: Names of the pixel classes.
        settings: Settings of the heads.
        device: Torch device.
        progress: Called with the number of finished steps and the total.
        flips: Flips of the target; "horizontal" adds images mirrored left to right.

    Raises:
        DataError: The images have no pixel labels, or their shape is not the MTDM's.
    """
    kinds = tuple(kind for kind in KINDS if kind in samples.labels)
    if not kinds:
        raise DataError(
            "A label head learns labels of pixels, but the images have none. Choose a target with "
            f"{', '.join(KINDS)}."
        )
    if samples.images.shape[1:] != pipeline.image_shape:
        raise DataError(
            f"The MTDM draws images of shape {pipeline.image_shape}, but the labelled ones have "
            f"the shape {samples.images.shape[1:]}. Choose the target that it was trained on."
        )
    task = Multi(kinds)
    learnt = _with_mirrored(samples) if "horizontal" in flips else samples
    labels = task.labels(learnt).to(device)
    extractor = UNetFeatures(pipeline, settings.timesteps)
    features = extractor(learnt.images).to(device)
    description = Description(
        kinds=kinds,
        class_names=tuple(class_names) if "segmentation" in kinds else (),
        denoiser=_denoiser(pipeline),
        n_images=len(samples),
        settings=settings,
    )
    heads = _new_heads(extractor, description, pipeline.config.patch).to(device)
    train = TrainSettings(label_smoothing=0, balance_classes=True)
    total = settings.members * settings.steps
    for member, module in enumerate(heads):
        head = cast("Head", module)
        head.mean.copy_(features.mean((0, 2, 3)).view(-1, 1, 1))
        head.std.copy_(features.std((0, 2, 3)).view(-1, 1, 1).clamp(min=1e-3))
        if "depth" in kinds:
            _init_depth(head, description, samples.labels["depth"], pipeline.config.patch)
        optimizer = torch.optim.AdamW(
            head.parameters(), settings.learning_rate, weight_decay=settings.weight_decay
        )
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimizer, settings.learning_rate, total_steps=settings.steps + 1
        )
        generator = torch.Generator().manual_seed(settings.seed + member)
        head.train()
        for step in range(settings.steps):
            rows = torch.randint(len(features), (settings.batch_size,), generator=generator)
            batch = Minibatch(features[rows], labels[rows])
            loss = task.loss(head(batch.images), batch, train).mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            progress(member * settings.steps + step + 1, total)
    return FeatureDecoder(extractor, heads.eval(), description, device)


def labelled(samples: Samples, n: int, n_check: int, seed: int) -> tuple[Samples, Samples]:
    """Return `n` random training samples and up to `n_check` other validation samples.

    Raises:
        DataError: There are fewer than n + 1 samples.
    """
    if len(samples) <= n:
        raise DataError(
            f"The generator split has {len(samples)} images; a head that learns from {n} needs "
            "more, to be tested on others. Give a smaller -n."
        )
    rows = np.random.default_rng(seed).permutation(len(samples))
    return samples.take(rows[:n]), samples.take(rows[n : n + n_check])


def validation_figures(
    decoder: FeatureDecoder, samples: Samples, class_names: Sequence[str]
) -> dict[str, float]:
    """Return the metrics of predicted labels against those of the samples, by name."""
    labels, _ = decoder.label(samples.images)
    return {
        f"{part.name}: {name}": estimate.value
        for part in Multi(decoder.kinds).parts
        for name, estimate in part.figures(labels[part.name], samples, class_names)[0].items()
    }


def save_head(folder: Path, decoder: FeatureDecoder, figures: dict[str, float]) -> None:
    """Write head.safetensors, then head.json with the metrics of the head.

    Raises:
        SettingsError: A file of that name belongs to the user.
    """
    tensors = {k: v.cpu().contiguous() for k, v in decoder.heads.state_dict().items()}
    described = decoder.description.model_copy(update={"figures": figures})
    with writing(folder, (TENSORS, DESCRIPTION)):
        (folder / DESCRIPTION).unlink(missing_ok=True)
        write_bytes(folder / TENSORS, save(tensors))
        write_json(folder / DESCRIPTION, described.to_json())


def load_head(folder: Path, pipeline: MTDMPipeline, device: str = "cpu") -> FeatureDecoder:
    """Load saved heads; raises WeightsError if files are missing or belong to another MTDM."""
    again = "Make one with `shaping label-head fit`."
    require_files(folder, (TENSORS, DESCRIPTION), "The label head", again)
    description = read_description(folder / DESCRIPTION, Description, again)
    given = _denoiser(pipeline)
    if description.denoiser != given:
        raise WeightsError(
            f"The label head {folder} was fitted to the MTDM {description.denoiser}, but the "
            f"generator's weights are {given}. Fit one to these with `shaping label-head fit`."
        )
    extractor = UNetFeatures(pipeline, description.settings.timesteps)
    heads = _new_heads(extractor, description, pipeline.config.patch)
    load_weights(heads, folder / TENSORS, again)
    return FeatureDecoder(extractor, heads.to(device).eval(), description, device)


def build(
    generator: Generator, pixel_classes: Sequence[str], device: str = "cpu", head: str = ""
) -> FeatureDecoder:
    """Load the head in the folder `head` for the MTDM that draws the images.

    Raises:
        SettingsError: The generator is not an MTDM, or no folder is given.
        WeightsError: The head cannot be loaded, or has other classes than the target.
    """
    if not isinstance(generator, MTDMGenerator):
        raise SettingsError(
            f"The labeler 'feature_decoder' uses the denoiser of an MTDM, but the generator is "
            f"{generator.name!r}. Set generator.name=mtdm, or labeler.name=pseudo."
        )
    if not head:
        raise SettingsError(
            "The labeler 'feature_decoder' needs a head: set labeler.options={head: FOLDER}, as "
            "`shaping label-head fit` made it."
        )
    decoder = load_head(Path(head).expanduser(), generator.pipeline, device)
    named = decoder.description.class_names
    if named and named != tuple(pixel_classes):
        raise WeightsError(
            f"The label head {head} knows the classes {', '.join(named)}, but the target's are "
            f"{', '.join(pixel_classes) or 'none'}. Fit one on this target."
        )
    return decoder


def _new_heads(extractor: UNetFeatures, description: Description, patch: int) -> nn.ModuleList:
    """Return untrained heads, without changing torch's global generator."""
    settings = description.settings
    n_classes = len(description.class_names)
    n_outputs = sum(part.n_outputs or n_classes for part in Multi(description.kinds).parts)
    heads = []
    with torch.random.fork_rng(devices=[]):
        for member in range(settings.members):
            torch.manual_seed(settings.seed + member)
            heads.append(Head(extractor.n_channels, settings.width, n_outputs, patch))
    return nn.ModuleList(heads)


def _init_depth(
    head: Head, description: Description, depth_m: NDArray[np.float32], patch: int
) -> None:
    """Initialise the depth bias of an untrained head to the mean log depth."""
    first = len(description.class_names) * patch**2
    known = depth_m[np.isfinite(depth_m) & (depth_m > 0)]
    if len(known):
        last: Any = head.layers[-1]
        last.bias.data[first : first + patch**2] = float(np.log(known).mean())


def _with_mirrored(samples: Samples) -> Samples:
    """Return samples followed by their images mirrored left to right."""
    flipped = mirrored(samples.labels, True, False)
    return Samples(
        images=np.concatenate([samples.images, samples.images[..., ::-1]]),
        classes=np.tile(samples.classes, 2),
        attributes=[*samples.attributes, *samples.attributes],
        ids=[*samples.ids, *(f"{name} mirrored" for name in samples.ids)],
        labels={
            kind: np.concatenate([values, flipped[kind]]) for kind, values in samples.labels.items()
        },
    )


def _denoiser(pipeline: MTDMPipeline) -> str:
    """Return a digest of the MTDM's weights."""
    content = hashlib.sha256()
    for name, value in sorted(pipeline.unet.state_dict().items()):
        content.update(name.encode())
        content.update(value.float().cpu().contiguous().numpy().tobytes())
    return content.hexdigest()[:16]
