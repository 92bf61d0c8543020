"""Folder of a joint model: saving its weights and card, and installing it on its base model."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from diffusers import DiffusionPipeline, UNet2DConditionModel
from safetensors import SafetensorError
from safetensors.torch import load_file, save

from memory.errors import WeightsError
from memory.files import write_bytes, write_json
from memory.records import Record
from tools.data.samples import KINDS
from tools.diffusion.label_codes import LabelGrid
from tools.generators.joint.unet import JointUNet
from tools.models.folders import read_description, require_files

CARD_FILE = "joint.json"
ADAPTER_FILE = "joint_lora.safetensors"
LABELS_FILE = "joint_labels.safetensors"


class JointCard(Record):
    """Card of a joint model.

    Attributes:
        model, revision, variant, model_sha256: Base model that it was trained on.
        image_shape: Image shape of the target, (c, h, w).
        size: Height and width of the model's images, pixels.
        labels: Layout of the labels on its latents.
        error_image: Mean squared error of the prediction for latents, on `n_unseen` held-out
            images of the audit split.
        error_labels: Mean squared error of the clean labels on the same images, with the Min-SNR
            weights of training, which are at least 1; labels have about unit variance.
    """

    model: str
    revision: str | None
    variant: str | None
    model_sha256: str
    trained_on: str
    steps: int
    rank: int
    image_shape: tuple[int, int, int]
    size: tuple[int, int]
    labels: LabelGrid
    n_unseen: int
    error_image: float
    error_labels: float


def read_card(folder: Path) -> JointCard:
    """Return the card of a joint model, after checking that its files exist.

    Raises:
        WeightsError: The folder is missing, partial, pickled or damaged, or has unknown labels.
    """
    advice = "generator.options.joint is the folder that `shaping pretrain --from MODEL` wrote."
    require_files(folder, (CARD_FILE, ADAPTER_FILE, LABELS_FILE), "The joint model", advice)
    again = "Copy the folder again, or train it again with `shaping pretrain --from MODEL`."
    card = read_description(folder / CARD_FILE, JointCard, again)
    strange = sorted(set(card.labels.codes.kinds) - set(KINDS))
    if strange:
        raise WeightsError(
            f"The joint model {folder} draws labels of the kind {strange[0]!r}. Known are: "
            f"{', '.join(KINDS)}."
        )
    return card


def save_joint(
    folder: Path, card: JointCard, pipeline: DiffusionPipeline, lora: Mapping[str, torch.Tensor]
) -> None:
    """Write a joint model; the card comes last, as it marks the tensors as complete.

    Args:
        folder: Folder to write.
        card: Card of the model.
        pipeline: Pipeline with the widened UNet.
        lora: LoRA weights of the UNet in the format of diffusers.
    """
    pipeline.save_lora_weights(folder, unet_lora_layers=dict(lora), weight_name=ADAPTER_FILE)
    tensors = {k: v.detach().cpu().contiguous() for k, v in pipeline.unet.label_weights.items()}
    write_bytes(folder / LABELS_FILE, save(tensors))
    write_json(folder / CARD_FILE, card.to_json())


def install(folder: Path, card: JointCard, pipeline: DiffusionPipeline, model_sha256: str) -> None:
    """Widen the UNet of the base model and load the label weights; the LoRA is not loaded here.

    Raises:
        WeightsError: The pipeline is of another model, or tensors are damaged or do not match.
    """
    if model_sha256 != card.model_sha256:
        raise WeightsError(
            f"The joint model {folder} was trained on {card.model} (SHA-256 "
            f"{card.model_sha256[:16]}), but generator.weights is another model, or other files of "
            f"it (SHA-256 {model_sha256[:16]}). Set generator.weights to the one it was trained on."
        )
    joint = widen(pipeline, card.labels.n_channels)
    file = folder / LABELS_FILE
    try:
        tensors = load_file(file)
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{file} is damaged: {error} Copy it again.") from error
    _load_labels(joint, tensors, file)


def widen(pipeline: DiffusionPipeline, n_labels: int) -> JointUNet:
    """Replace a pipeline's UNet by a widened one; raise WeightsError without a UNet or a VAE."""
    unet = pipeline.components.get("unet")
    if not isinstance(unet, UNet2DConditionModel) or pipeline.components.get("vae") is None:
        raise WeightsError(
            f"A joint model needs a UNet and a VAE, but the model is a {type(pipeline).__name__}. "
            "Choose a Stable Diffusion or SDXL model."
        )
    joint = JointUNet.widened(unet, n_labels, pipeline.scheduler)
    pipeline.unet = joint
    return joint


@torch.no_grad()
def _load_labels(joint: JointUNet, tensors: Mapping[str, torch.Tensor], file: Path) -> None:
    """Load the weights of the widened convolutions; raise WeightsError if shapes do not match."""
    expected, given = (
        {name: tuple(value.shape) for name, value in weights.items()}
        for weights in (joint.label_weights, tensors)
    )
    if expected != given:
        raise WeightsError(
            f"{file} holds tensors of the shapes {given}, expected {expected}. Copy it again."
        )
    for name, value in joint.label_weights.items():
        value.copy_(tensors[name])
