"""Settings of the long stages, apart from their modules, which import torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, field_validator, model_validator

from memory.records import Record, Share

BOTH_FLIPS = ("horizontal", "vertical")

_RENAMED = {
    "label_lead": "label_noise_offset",
    "noise_kept": "s_noise",
    "power_kept": "explained_variance",
    "rare_power": "class_balance_exponent",
    "rare_within": "class_balance_scope",
    "spacing": "timestep_rho",
}


def false_is_off(value: object) -> object:
    """Return "off" for what YAML makes of it without quotes."""
    return "off" if value is False else value


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings under today's names, for those that earlier versions wrote.

    Where a setting is given under both names, the later entry counts.
    """
    current: dict[str, Any] = {}
    for key, value in values.items():
        name = _RENAMED.get(key, key)
        current[name] = "residual" if (key, value) == ("prediction", "remainder") else value
    return current


class WithEarlierNames(Record):
    """A record of settings that also reads the names of earlier versions."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_names(cls, values: Any) -> Any:
        return renamed(values) if isinstance(values, Mapping) else values


class TrainSettings(Record):
    """Settings of a DSTM's training; the number of steps does not depend on that of images."""

    task: str = "classification"
    model: str = Field(
        "convnet",
        description="convnet or unet, efficientnet_lite0 with ImageNet's weights (extra imagenet), "
        "the folder of a transformers model, or its hub id in the cache, ORGANISATION/NAME@COMMIT",
    )
    steps: int = Field(250, ge=1)
    batch_size: int = Field(64, ge=2)
    learning_rate: float = Field(2e-3, gt=0, description="the highest of the one-cycle schedule")
    weight_decay: float = Field(0.05, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    balance_classes: bool = Field(
        True,
        description="draws classes of images alike, and weighs rare classes of pixels more; a "
        "session may adjust the loss instead, see dstm.logit_adjustment",
    )
    augment: bool | Literal["strong"] = Field(
        True, description="true: as the task says; strong: see tools/tasks/strong.py, too"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32",
        description="of the network's arithmetic; auto: bfloat16 where the device has instructions "
        "for it, and a U-Net trains in about half the time; without them bfloat16 is much slower",
    )
    flips: tuple[Literal["horizontal", "vertical"], ...] | None = Field(
        None,
        exclude_if=lambda flips: flips is None,
        description="directions in which training mirrors images and, where classes of images are "
        "learnt, prediction averages views; None: those of the target",
    )
    seed: int = Field(0, ge=0)


# Best on Fashion-MNIST with a long tail.
DEFAULT_SHARE = 1 / 3


class DstmSettings(TrainSettings):
    """Settings of a session's DSTM, which may learn from real and generated images together."""

    train_on: Literal["real+synthetic", "synthetic", "real"] = Field(
        "real+synthetic",
        description="photographs of the splits generator and audit, generated images, or both",
    )
    synthetic_share: Share | Literal["auto"] = Field(
        DEFAULT_SHARE,
        description="of the draws of a class that are generated images, where it has both kinds; "
        "below min_class_weight less; auto: the best on feedback of three that round 1 tries",
    )
    synthetic_weight: float = Field(
        1.0, gt=0, description="of a generated image's loss; that of a photograph is 1"
    )
    min_class_weight: float = Field(
        50.0,
        ge=0,
        description="sum of the squared weights of a class's generated images from which on they "
        "are drawn in full; below, in proportion; 0: always in full, however few the audit keeps",
    )
    prompt_weights: dict[str, Share] = Field(
        {},
        exclude_if=lambda weights: not weights,
        description="factor of the weight of a prompt's images by its id, as plans set it",
    )
    real_images: int | None = Field(
        None,
        ge=1,
        description="photographs that the DSTM learns from, of each class the same share and at "
        "least one; None: all",
    )
    real_finish: Share = Field(
        0.0, description="share of the steps, the last ones, on photographs alone"
    )
    finish_layers: Literal["all", "last"] = Field(
        "all",
        exclude_if=lambda layers: layers == "all",
        description="what real_finish trains: all, or the last layer or decoder alone (SYNAuG, "
        "Ye-Bin et al. 2023)",
    )
    logit_adjustment: float = Field(
        0.0,
        ge=0,
        description="times the logarithm of a class's frequency, added to its logit in the loss "
        "(Menon et al. 2021); classification without balance_classes alone. If neither is given: "
        "1 for classification with photographs, else balance_classes",
    )
    freeze: Literal["none", "backbone"] = Field(
        "none", description="backbone: a pretrained model's last layer or decoder alone is trained"
    )
    backbone_rate: float = Field(
        1.0,
        gt=0,
        description="learning rate of all but the last layer or decoder, as a share of the highest",
    )

    @model_validator(mode="before")
    @classmethod
    def _choose_balance(cls, values: Any) -> Any:
        """Choose how rare classes are made up for, where it is not given."""
        if not isinstance(values, Mapping) or "balance_classes" in values:
            return values
        has_classes = values.get("task", "classification") == "classification"
        adjusts = has_classes and values.get("train_on") != "synthetic"
        tau = values.get("logit_adjustment", 1.0 if adjusts else 0.0)
        return {**values, "logit_adjustment": tau, "balance_classes": not tau}

    @model_validator(mode="after")
    def _check_freeze(self) -> Self:
        if self.freeze == "backbone" and self.model in ("convnet", "unet"):
            raise ValueError(
                f"freeze=backbone excludes model={self.model}, which is not pretrained: set "
                "model=efficientnet_lite0 or a folder, or freeze=none"
            )
        return self

    @model_validator(mode="after")
    def _check_logit_adjustment(self) -> Self:
        if self.logit_adjustment and (self.balance_classes or self.task != "classification"):
            problem = (
                "balance_classes=true, which draws all classes equally often"
                if self.balance_classes
                else f"task={self.task}"
            )
            raise ValueError(
                f"logit_adjustment={self.logit_adjustment:g} excludes {problem}: set "
                "logit_adjustment=0, or balance_classes=false with task=classification"
            )
        return self


class SelectionSettings(Record):
    """Which of a round's images the DSTM learns from; what was chosen once stays chosen."""

    method: str = Field("all", description="all, or a file in tools/selection, e.g. entropy, ral")
    keep: float = Field(1.0, gt=0, le=1, description="share of a round's images that is chosen")
    remember: bool = Field(True, description="ral: begin with what earlier sessions learned")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.method == "all") != (self.keep == 1):
            raise ValueError(
                f"the method {self.method} excludes keep={self.keep:g}: all needs keep=1, every "
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

    `train` sets the classifier or, with the method `dense`, each of `members` models of its task.
    """

    method: Literal["classifier", "dense", "none"] = "classifier"
    train: TrainSettings = TrainSettings()
    threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="probability from which on an image of any class is kept; None: each class has "
        "its own, from real photographs (dense: score, at most; None: 0.5)",
    )
    real_rejected: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="share of a class's real photographs below its limit, where threshold is None",
    )
    floor: Share = Field(0.1, description="the least weight of an image")
    copies: Annotated[Literal["off", "warn", "drop"], BeforeValidator(false_is_off)] = Field(
        "off",
        description="near copies of photographs that the generator was trained on: warn shows them "
        "in the report, drop also gives them weight 0",
    )
    members: int = Field(3, ge=1, description="models of the ensemble, method dense")
    focal_px: float | None = Field(
        None,
        gt=0,
        description="of the camera; None: estimated from depth and normals of the target",
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


class DistillationSettings(Record):
    """Settings of a network that draws in a few steps what its teacher draws in many."""

    teacher: str | None = Field(
        None, description="weights to distil: bundled:NAME or a folder; None: no distillation"
    )
    steps: int = Field(3, ge=1, description="of drawing")
    teacher_steps: int = Field(12, ge=1, description="of the teacher, a multiple of `steps`")
    n_images: int = Field(1024, ge=32, description="of the teacher, to learn from")

    @property
    def stride(self) -> int:
        """Steps of the teacher that one of the student stands for."""
        return self.teacher_steps // self.steps

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.teacher_steps % self.steps:
            raise ValueError(
                f"teacher_steps={self.teacher_steps} is no multiple of steps={self.steps}"
            )
        return self


class PretrainSettings(CaptionedRun, WithEarlierNames):
    """Settings of a pretraining of an MTDM; names of earlier versions are still read."""

    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="of the network's arithmetic; auto: bfloat16 where it is faster"
    )
    channels: tuple[int, ...] = (64, 128)
    patch: int = Field(4, ge=1)
    prediction: Literal["velocity", "clean", "residual"] = Field(
        "velocity",
        description="of the network; residual, of a linear denoiser, learns fastest where there "
        "are colours or labels",
    )
    label_noise_offset: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the noise levels in which labels are free of noise already",
    )
    label_dropout: Share = Field(
        0.0,
        description="share of the examples whose labels are all noise, so that the network "
        "also learns from images with unknown labels",
    )
    explained_variance: dict[str, Share] | None = Field(
        None,
        description="share of the variance of patches that their principal components explain, by "
        "kind (image, segmentation, depth, normals; others: all); None: no projection",
    )
    class_balance_exponent: Share = Field(
        0.0,
        description="a pixel's weight in the loss falls with this power of its class's frequency; "
        "0: all weigh the same",
    )
    class_balance_scope: Literal["data", "image"] = Field(
        "data", description="where a class's frequency is counted: in all images, or in each"
    )
    s_noise: tuple[Share, Share] | None = Field(
        None,
        description="share of the noise of image and labels that a step of drawing keeps; less "
        "makes pictures calmer and less varied; None: 1, or as the weights say",
    )
    timestep_rho: float | None = Field(
        None,
        ge=1,
        le=4,
        description="spacing of the steps of drawing; above 1 they are closer at high noise, and "
        "layouts vary more; None: 1, or as the weights say",
    )
    class_sampling_exponent: Share = Field(
        0.0,
        description="an image's chance to be in a batch falls with this power of its class's "
        "frequency; 0: every image equally often, 1: every class",
    )
    start: str | None = Field(None, description="weights to begin with: bundled:NAME or a folder")
    distillation: DistillationSettings = DistillationSettings()
    lora: LoraSettings = Field(
        LoraSettings(), description="of `shaping pretrain --from MODEL --lora-only` alone"
    )
    joint: JointSettings = Field(
        JointSettings(), description="of `shaping pretrain --from MODEL` alone"
    )
