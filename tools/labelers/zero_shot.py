"""The labeler `zero_shot`: segmentation from text prompts.

A CLIPSeg model (Lüddecke and Ecker 2022) of transformers, in a local folder with safetensors,
predicts the probability of every phrase in each pixel. The most probable class is the label; pixels
whose probabilities are all below the threshold are unknown.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch.nn.functional import interpolate
from transformers import AutoTokenizer, CLIPSegForImageSegmentation

from memory.errors import SettingsError, WeightsError, unknown
from memory.records import Record
from tools.data.samples import VOID, Dense, Images
from tools.generators import Generator
from tools.models.diffusers_folder import network_config
from tools.models.digests import folder_sha256, identity_of
from tools.models.folders import explained
from tools.models.transformers_folder import load_whole
from tools.plugins import read_options
from tools.tasks import pixel_batches

_BATCH = 8


class ZeroShotSettings(Record):
    """Options of the labeler.

    Attributes:
        segmentation: Folder of a CLIPSeg model.
        phrases: Phrases by class of the target; default: the name of the class.
        threshold: Minimum probability of a label; pixels below it are unknown.
    """

    segmentation: str | None = None
    phrases: dict[str, str] = Field(default_factory=dict)
    threshold: float = Field(0.3, ge=0, le=1)


@dataclass(frozen=True)
class ZeroShot:
    """A `Labeler`.

    Attributes:
        model: CLIPSeg model, on its device.
        phrases: Phrase of each class.
        embeddings: Embeddings of the phrases, (classes, d).
        threshold: Minimum probability of a label.
        side: Side of the model's square input in pixels.
        mean, std: Normalisation of pixels in 0..1, (3, 1, 1).
        sha256: Digest of the model's files.
    """

    model: CLIPSegForImageSegmentation
    phrases: Sequence[str]
    embeddings: torch.Tensor
    threshold: float
    side: int
    mean: torch.Tensor
    std: torch.Tensor
    sha256: str

    @property
    def kinds(self) -> Sequence[str]:
        """Return the kind of labels, segmentation."""
        return ["segmentation"]

    @property
    def identity(self) -> str:
        """Return a digest of weights, phrases and threshold."""
        return identity_of("zero_shot", [self.sha256, list(self.phrases), self.threshold])

    def label(self, images: Images) -> tuple[Dense, Dense]:
        """Return the most probable class of every pixel, and its probability."""
        ids, confidence = [], []
        for pixels in pixel_batches(images, _BATCH, self.mean.device):
            probabilities = self._probabilities(pixels)
            highest = probabilities.max(1)
            classes = np.where(highest < self.threshold, VOID, probabilities.argmax(1))
            ids.append(classes.astype(np.uint8))
            confidence.append(highest)
        return {"segmentation": np.concatenate(ids)}, {"segmentation": np.concatenate(confidence)}

    @torch.inference_mode()
    def _probabilities(self, images: torch.Tensor) -> NDArray[np.float32]:
        """Return the probability of every class, (n, classes, h, w).

        Equivalent to the model's `forward`, but each image is encoded once for all classes.
        """
        if not len(images):
            return np.zeros((0, len(self.phrases), *images.shape[2:]), np.float32)
        pixels = interpolate(images, (self.side, self.side), mode="bilinear", antialias=True)
        pixels = (pixels.expand(-1, 3, -1, -1) - self.mean) / self.std
        hidden = self.model.clip.get_image_features(
            pixel_values=pixels, output_hidden_states=True
        ).hidden_states
        n, k = len(images), len(self.phrases)
        activations = [hidden[i + 1].repeat_interleave(k, 0) for i in self.model.extract_layers]
        logits = self.model.decoder(activations, self.embeddings.repeat(n, 1)).logits
        logits = logits.reshape(n, k, *logits.shape[1:])
        sized = interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)
        return sized.sigmoid().cpu().numpy()


def build(
    generator: Generator, pixel_classes: Sequence[str], device: str = "cpu", **options: object
) -> ZeroShot:
    """Load the model of `ZeroShotSettings`.

    Raises:
        SettingsError: An option is invalid, or the target has no pixel classes.
        WeightsError: The model cannot be loaded.
    """
    chosen = read_options("labeler.options", ZeroShotSettings, options)
    if chosen.segmentation is None:
        raise SettingsError(
            "The labeler 'zero_shot' needs a model: set labeler.options={segmentation: FOLDER}, "
            "with the folder of a CLIPSeg model."
        )
    phrases = _phrases(chosen.phrases, pixel_classes)
    folder = Path(chosen.segmentation).expanduser()
    model_type = network_config(folder, "The zero-shot model").get("model_type")
    if model_type != "clipseg":
        raise WeightsError(
            f"{folder} is a model of the type {model_type!r}, but the labeler 'zero_shot' needs "
            "'clipseg'. The labeler 'pseudo' takes models with classes of their own."
        )
    side, mean, std = _preprocessing(folder)
    kind = "a CLIPSegForImageSegmentation"
    model = load_whole(CLIPSegForImageSegmentation, folder, kind).eval()
    embeddings = _embeddings(folder, model, phrases)
    return ZeroShot(
        model.to(device),
        phrases,
        embeddings.to(device),
        chosen.threshold,
        side,
        mean.to(device),
        std.to(device),
        folder_sha256(folder),
    )


def _phrases(given: Mapping[str, str], pixel_classes: Sequence[str]) -> list[str]:
    """Return the phrase of each class; raises SettingsError if two are equal."""
    if not pixel_classes:
        raise SettingsError("The target has no classes of pixels that a segmentation could name.")
    for name in given:
        if name not in pixel_classes:
            problem = unknown("class of the target", name, pixel_classes)
            raise SettingsError(f"labeler.options.phrases: {problem}")
    class_of: dict[str, str] = {}
    for name in pixel_classes:
        phrase = given.get(name, name).strip()
        if not phrase:
            raise SettingsError(
                f"The class {name!r} has no text. Set labeler.options.phrases={{{name!r}: TEXT}}."
            )
        if phrase in class_of:
            raise SettingsError(
                f"The classes {class_of[phrase]!r} and {name!r} have the same text {phrase!r}. Set "
                "labeler.options.phrases to different ones."
            )
        class_of[phrase] = name
    return list(class_of)


def _preprocessing(folder: Path) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Return the side in pixels, and mean and std, (3, 1, 1), of the model's input."""
    files = [folder / name for name in ("preprocessor_config.json", "processor_config.json")]
    present = [path for path in files if path.is_file()]
    if not present:
        raise WeightsError(
            f"The zero-shot model {folder} is partial: it has no preprocessor_config.json. Copy it "
            "again, or save its CLIPSegProcessor there."
        )
    try:
        values = json.loads(present[0].read_bytes())
        values = values.get("image_processor", values)
        size = values["size"]
        side = int(size if isinstance(size, int) else size.get("height") or size["shortest_edge"])
        mean, std = (
            torch.tensor(values[key], dtype=torch.float32).reshape(3, 1, 1)
            for key in ("image_mean", "image_std")
        )
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise WeightsError(
            f"{present[0]} lacks size, image_mean or image_std: {error!r}. Restore it."
        ) from error
    return side, mean, std


@torch.inference_mode()
def _embeddings(
    folder: Path, model: CLIPSegForImageSegmentation, phrases: Sequence[str]
) -> torch.Tensor:
    """Return the embeddings of phrases for the decoder, (n, d)."""
    # Without these files transformers silently creates a tokenizer without a vocabulary.
    if not any(
        all((folder / name).is_file() for name in names)
        for names in (["tokenizer.json"], ["vocab.json", "merges.txt"])
    ):
        raise WeightsError(
            f"The zero-shot model {folder} is partial: it lacks its tokenizer (tokenizer.json, or "
            "vocab.json and merges.txt). Copy it again."
        )
    with explained(f"The tokenizer in {folder} is damaged: {{error}} Copy it again."):
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    config: Any = model.config.text_config
    tokens = tokenizer(list(phrases), padding=True, return_tensors="pt")
    longest, n_tokens = max(
        zip(phrases, tokens["attention_mask"].sum(1).tolist(), strict=True), key=lambda row: row[1]
    )
    if n_tokens > config.max_position_embeddings:
        raise SettingsError(
            f"The phrase {longest!r} has {n_tokens} tokens, but the model takes only "
            f"{config.max_position_embeddings}. Shorten it in labeler.options.phrases."
        )
    if (largest := int(tokens["input_ids"].max())) >= config.vocab_size:
        raise WeightsError(
            f"The tokenizer in {folder} is of another model: it gives token {largest}, but the "
            f"model's vocabulary has {config.vocab_size}. Copy the folder again."
        )
    embeddings: torch.Tensor = model.get_conditional_embeddings(
        len(phrases), tokens["input_ids"], tokens["attention_mask"]
    )
    return embeddings
