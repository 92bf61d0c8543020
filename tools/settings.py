"""Settings of the long stages. They stand here because their own modules import torch."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, field_validator, model_validator

from memory.records import Record, Share


class TrainSettings(Record):
    """Settings of a training; the number of steps does not depend on the number of images."""

    task: str = "classification"
    model: str = Field("convnet", description="convnet, or the folder of a transformers model")
    steps: int = Field(250, ge=1)
    batch_size: int = Field(64, ge=2)
    learning_rate: float = Field(2e-3, gt=0, description="the highest of the one-cycle schedule")
    weight_decay: float = Field(0.05, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    balance_classes: bool = True
    augment: bool = True
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="of the network's arithmetic; where a processor has instructions for bfloat16, "
        "a U-Net trains in about half the time",
    )
    seed: int = Field(0, ge=0)


class SelectionSettings(Record):
    """Which of a round's images the DSTM learns from; what was chosen once stays chosen."""

    method: str = Field("all", description="all, or a file in tools/selection, e.g. entropy, ral")
    keep: float = Field(1.0, gt=0, le=1, description="share of a round's images that is chosen")
    remember: bool = Field(True, description="ral: begin with what earlier sessions learned")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.method == "all") != (self.keep == 1):
            raise ValueError(
                f"the method {self.method} does not go with keep={self.keep:g}; all keeps 1, every "
                "other method less, e.g. selection.method=entropy and selection.keep=0.5"
            )
        return self


class ComputeSettings(Record):
    """Where images are drawn and audited, and on how many devices of one machine a DSTM is trained.

    Images are the same everywhere; a DSTM differs by rounding, and more where its normalisation
    looks at a batch.
    """

    place: str = Field("local", description="local, ray, or ray:HOST:PORT of a Ray cluster")
    workers: int | None = Field(None, ge=1, description="ray: at most; None: one per GPU or cpus")
    cpus: float = Field(1, gt=0, description="ray: that are kept free for each worker")
    retries: int = Field(8, ge=0, description="ray: of a shard whose worker died")
    patience_s: float = Field(600, ge=0, description="ray: without any node before it is an error")
    train_processes: int = Field(
        1, ge=1, description="that share a DSTM's training: one for each GPU, or all on the CPU"
    )

    @field_validator("place")
    @classmethod
    def _check_place(cls, place: str) -> str:
        where, colon, address = place.partition(":")
        if where not in ("local", "ray") or (colon and (where == "local" or not address)):
            raise ValueError("expected local, ray, or ray:HOST:PORT")
        return place

    @property
    def address(self) -> str | None:
        """Of the Ray cluster, None where none is given."""
        return self.place.partition(":")[2] or None


class AuditSettings(Record):
    """Settings of the audit: of classes, of labels of pixels, or none where labels are exact.

    `train` says what judges: with the method `dense`, each of `members` models of its task.
    """

    method: Literal["classifier", "dense", "none"] = "classifier"
    train: TrainSettings = TrainSettings()
    threshold: float = Field(0.5, gt=0, le=1, description="an image is kept from here on")
    floor: Share = Field(0.1, description="the least weight of an image")
    members: int = Field(3, ge=1, description="models of the ensemble, method dense")
    focal_px: float | None = Field(
        None, gt=0, description="of the camera; None: as depth and normals of the target tell"
    )


class CaptionedRun(Record):
    """Settings of a resumable training on images with captions; `steps` may be raised later."""

    steps: int = Field(3250, ge=1)
    batch_size: int = Field(32, ge=1)
    learning_rate: float = Field(5e-4, gt=0)
    warmup_steps: int = Field(300, ge=0)
    cooldown_share: Share = 0.2
    ema_decay: float = Field(0.999, gt=0, lt=1)
    seed: int = 0
    save_every: int = Field(500, ge=1)
    text_dropout: Share = 0.1
    attribute_dropout: Share = 0.2
    shared_captions: int | None = Field(
        None,
        ge=1,
        description="wordings per combination of attributes; None: each image has its own",
    )


class LoraSettings(CaptionedRun):
    """Settings of a domain LoRA, trained on a text-to-image model of others."""

    steps: int = Field(1000, ge=1)
    batch_size: int = Field(4, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    warmup_steps: int = Field(50, ge=0)
    ema_decay: float = Field(0.99, gt=0, lt=1)
    rank: int = Field(8, ge=1)
    save_every: int = Field(250, ge=1)


class JointSettings(LoraSettings):
    """Settings of a joint model: a text-to-image model of others that learns labels of pixels."""

    steps: int = Field(5000, ge=1)
    labels: tuple[Literal["segmentation", "depth", "normals"], ...] | None = Field(
        None, description="those that are learnt; None: all that the target has"
    )
    adapt: Literal["attention", "all"] = Field(
        "attention", description="layers with a LoRA: those of attention, or convolutions too"
    )


class PretrainSettings(CaptionedRun):
    """Settings of a pretraining of an MTDM."""

    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the network's arithmetic; auto: bfloat16 where it is faster"
    )
    channels: tuple[int, ...] = (64, 128)
    patch: int = Field(4, ge=1)
    prediction: Literal["velocity", "clean", "remainder"] = Field(
        "velocity",
        description="of the network; remainder, of what a linear denoiser expects, learns fastest "
        "where there are colours or labels",
    )
    label_lead: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the noise levels in which labels are free of noise already",
    )
    label_dropout: Share = Field(
        0.0,
        description="share of the examples whose labels are all noise, so that the network "
        "also knows images whose labels are not known",
    )
    power_kept: dict[str, Share] | None = Field(
        None,
        description="share of the power of patches that their principal components keep, by kind "
        "(image, segmentation, depth, normals; others keep all); None: the network sees all pixels",
    )
    rare_power: Share = Field(
        0.0,
        description="how much more patches with rare classes weigh in the loss: a pixel's weight "
        "falls with this power of its class's frequency; 0: all weigh the same",
    )
    rare_within: Literal["data", "image"] = Field(
        "data", description="where a class's frequency is counted: in all images, or in each"
    )
    noise_kept: tuple[Share, Share] | None = Field(
        None,
        description="what a step of drawing keeps of the noise of image and labels; with less, the "
        "pictures of a young MTDM are calmer, and vary less; None: all, or as the weights say",
    )
    spacing: float | None = Field(
        None,
        ge=1,
        le=4,
        description="of the steps of drawing: with more than 1 they are closer where there is much "
        "noise, and layouts vary more; None: 1, or as the weights say",
    )
    start: str | None = Field(None, description="weights to begin with: bundled:NAME or a folder")
    lora: LoraSettings = Field(
        LoraSettings(), description="of `shaping pretrain --from MODEL --lora-only` alone"
    )
    joint: JointSettings = Field(
        JointSettings(), description="of `shaping pretrain --from MODEL` alone"
    )
