"""The labeler `zero_shot`: classes of pixels by words alone.

A CLIPSeg model (Lüddecke and Ecker 2022) of transformers in a local folder, safetensors alone,
says of every phrase how probable it is in each pixel. The most probable class is the label; a pixel
in which none is probable enough is unknown.
"""

from __future__ import annotations

import hashlib
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
from transformers.utils import logging as transformers_logging

from memory.errors import SettingsError, WeightsError, unknown
from memory.records import Record
from tools.data.samples import VOID, Dense, Images
from tools.generators import Generator
from tools.labelers._options import read_options
from tools.models.diffusers_folder import folder_sha256, network_config
from tools.models.transformers_folder import load_whole

_BATCH = 8


class ZeroShotSettings(Record):
    """Options of the labeler.

    segmentation: folder of a CLIPSeg model; phrases: what is said for a class of the target, by
    default its name; threshold: a pixel in which no class is as probable as this is unknown.
    """

    segmentation: str | None = None
    phrases: dict[str, str] = Field(default_factory=dict)
    threshold: float = Field(0.3, ge=0, le=1)


@dataclass(frozen=True)
class ZeroShot:
    """The model and what it was told of the classes; see `tools.labelers.Labeler`.

    phrases: of each class; embeddings: theirs, (classes, d); side: pixels of the square that the
    model sees; mean, std: (3, 1, 1), of pixels in 0..1; sha256: of the model's files.
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
        """Return the one kind of labels."""
        return ["segmentation"]

    @property
    def identity(self) -> str:
        """Return a digest of weights, phrases and threshold."""
        content = json.dumps([self.sha256, list(self.phrases), self.threshold]).encode()
        return f"zero_shot {hashlib.sha256(content).hexdigest()[:16]}"

    def label(self, images: Images) -> tuple[Dense, Dense]:
        """Return the most probable class of every pixel, and its probability."""
        size = images.shape[2:]
        ids = [np.zeros((0, *size), np.uint8)]
        sure = [np.zeros((0, *size), np.float32)]
        for start in range(0, len(images), _BATCH):
            probable = self._probabilities(images[start : start + _BATCH])
            most = probable.max(1)
            found = np.where(most < self.threshold, VOID, probable.argmax(1))
            ids.append(found.astype(np.uint8))
            sure.append(most)
        return {"segmentation": np.concatenate(ids)}, {"segmentation": np.concatenate(sure)}

    @torch.inference_mode()
    def _probabilities(self, images: Images) -> NDArray[np.float32]:
        """Return the probability of every class, (n, classes, h, w).

        As the model's `forward` has it, but an image is encoded once for all classes.
        """
        pixels = torch.from_numpy(images).to(self.mean.device).float() / 255
        pixels = interpolate(pixels, (self.side, self.side), mode="bilinear", antialias=True)
        pixels = (pixels.expand(-1, 3, -1, -1) - self.mean) / self.std
        hidden = self.model.clip.get_image_features(
            pixel_values=pixels, output_hidden_states=True
        ).hidden_states
        n, k = len(images), len(self.phrases)
        activations = [hidden[i + 1].repeat_interleave(k, 0) for i in self.model.extract_layers]
        logits = self.model.decoder(activations, self.embeddings.repeat(n, 1)).logits
        logits = logits.reshape(n, k, *logits.shape[1:])
        sized = interpolate(logits, images.shape[2:], mode="bilinear", align_corners=False)
        found: NDArray[np.float32] = sized.sigmoid().cpu().numpy()
        return found


def build(
    generator: Generator, pixel_classes: Sequence[str], device: str = "cpu", **options: object
) -> ZeroShot:
    """Load the model of `ZeroShotSettings`.

    Raises SettingsError for options that cannot be used and for a target without classes of pixels,
    WeightsError for a folder that cannot be used.
    """
    chosen = read_options("zero_shot", ZeroShotSettings, options)
    if chosen.segmentation is None:
        raise SettingsError(
            "The labeler 'zero_shot' needs a model: set labeler.options={segmentation: FOLDER}, "
            "with the folder of a CLIPSeg model."
        )
    phrases = _phrases(chosen.phrases, pixel_classes)
    folder = Path(chosen.segmentation).expanduser()
    kind = network_config(folder, "The zero-shot model").get("model_type")
    if kind != "clipseg":
        raise WeightsError(
            f"{folder} is a model of the type {kind!r}, but the labeler 'zero_shot' needs "
            "'clipseg'. The labeler 'pseudo' takes models with classes of their own."
        )
    side, mean, std = _seen(folder)
    model = _load(folder)
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
    """Return what is said for each class; raises SettingsError where two cannot be told apart."""
    if not pixel_classes:
        raise SettingsError("The target has no classes of pixels that a segmentation could name.")
    for name in given:
        if name not in pixel_classes:
            told = unknown("class of the target", name, pixel_classes)
            raise SettingsError(f"labeler.options.phrases: {told}")
    class_of: dict[str, str] = {}
    for name in pixel_classes:
        phrase = given.get(name, name).strip()
        if not phrase:
            raise SettingsError(
                f"The class {name!r} has no text. Say with labeler.options.phrases={{{name!r}: "
                "TEXT} what it looks like."
            )
        if phrase in class_of:
            raise SettingsError(
                f"The classes {class_of[phrase]!r} and {name!r} are both called {phrase!r}. Set "
                "labeler.options.phrases to words that tell them apart."
            )
        class_of[phrase] = name
    return list(class_of)


def _seen(folder: Path) -> tuple[int, torch.Tensor, torch.Tensor]:
    """Return how a folder wants pictures: side in pixels, mean and std, (3, 1, 1) each."""
    files = [folder / name for name in ("preprocessor_config.json", "processor_config.json")]
    present = [path for path in files if path.is_file()]
    if not present:
        raise WeightsError(
            f"The zero-shot model {folder} is partial: it has no preprocessor_config.json, which "
            "says how it wants pictures. Copy it again, or save its CLIPSegProcessor there."
        )
    try:
        said = json.loads(present[0].read_bytes())
        said = said.get("image_processor", said)
        size = said["size"]
        side = int(size if isinstance(size, int) else size.get("height") or size["shortest_edge"])
        mean, std = (
            torch.tensor(said[key], dtype=torch.float32).reshape(3, 1, 1)
            for key in ("image_mean", "image_std")
        )
    except (ValueError, LookupError, TypeError, AttributeError, RuntimeError) as error:
        raise WeightsError(
            f"{present[0]} does not say size, image_mean and image_std: {error!r}. Restore it."
        ) from error
    return side, mean, std


def _load(folder: Path) -> CLIPSegForImageSegmentation:
    """Load the model with all of its weights, from safetensors."""
    transformers_logging.disable_progress_bar()
    model = load_whole(
        CLIPSegForImageSegmentation,
        folder,
        unusable=lambda error: f"The zero-shot model {folder} is damaged: {error} Copy it again.",
        partial=lambda n, first: (
            f"The zero-shot model {folder} lacks {n} weights, e.g. {first}. Give the folder of a "
            "CLIPSegForImageSegmentation."
        ),
    )
    return model.eval()


@torch.inference_mode()
def _embeddings(
    folder: Path, model: CLIPSegForImageSegmentation, phrases: Sequence[str]
) -> torch.Tensor:
    """Return the phrases as the decoder is given them, (n, d)."""
    # Without these files transformers makes a tokenizer that knows no word, and says nothing.
    if not any(
        all((folder / name).is_file() for name in names)
        for names in (["tokenizer.json"], ["vocab.json", "merges.txt"])
    ):
        raise WeightsError(
            f"The zero-shot model {folder} is partial: it lacks its tokenizer (tokenizer.json, or "
            "vocab.json and merges.txt). Copy it again."
        )
    try:
        tokenizer = AutoTokenizer.from_pretrained(
            folder, local_files_only=True, trust_remote_code=False
        )
    except Exception as error:  # transformers and tokenizers raise many types for a bad file
        raise WeightsError(
            f"The tokenizer in {folder} is damaged: {error} Copy it again."
        ) from error
    config: Any = model.config.text_config
    tokens = tokenizer(list(phrases), padding=True, return_tensors="pt")
    longest, n_tokens = max(
        zip(phrases, tokens["attention_mask"].sum(1).tolist(), strict=True), key=lambda row: row[1]
    )
    if n_tokens > config.max_position_embeddings:
        raise SettingsError(
            f"The phrase {longest!r} has {n_tokens} tokens, but the model reads only "
            f"{config.max_position_embeddings}. Shorten it in labeler.options.phrases."
        )
    if (largest := int(tokens["input_ids"].max())) >= config.vocab_size:
        raise WeightsError(
            f"The tokenizer in {folder} is of another model: it says token {largest}, but the "
            f"model knows {config.vocab_size}. Copy the folder again."
        )
    found: torch.Tensor = model.get_conditional_embeddings(
        len(phrases), tokens["input_ids"], tokens["attention_mask"]
    )
    return found
