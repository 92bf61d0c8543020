"""Settings of the long-running stages, separate from their modules, which import torch."""

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
    """Return "off" for False, the value that YAML reads from an unquoted `off`."""
    return "off" if value is False else value


def renamed(values: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the settings of earlier versions to their current names.

    If a setting is given under both names, the later entry takes precedence.
    """
    current: dict[str, Any] = {}
    for key, value in values.items():
        name = _RENAMED.get(key, key)
        current[name] = "residual" if (key, value) == ("prediction", "remainder") else value
    return current


class WithEarlierNames(Record):
    """A record of settings that also accepts the names of earlier versions."""

    @model_validator(mode="before")
    @classmethod
    def _read_earlier_names(cls, values: Any) -> Any:
        return renamed(values) if isinstance(values, Mapping) else values


class TrainSettings(Record):
    """Settings of a DSTM's training; `steps` does not depend on the number of images."""

    task: str = "classification"
    model: str = Field(
        "convnet",
        description="convnet or unet, efficientnet_lite0 with ImageNet's weights (extra imagenet), "
        "the folder of a transformers model, or its hub id in the cache, ORGANISATION/NAME@COMMIT",
    )
    steps: int = Field(250, ge=1)
    batch_size: int = Field(64, ge=2)
    learning_rate: float = Field(2e-3, gt=0, description="maximum of the one-cycle schedule")
    weight_decay: float = Field(0.05, ge=0)
    label_smoothing: float = Field(0.1, ge=0, lt=1)
    balance_classes: bool = Field(
        True,
        description="samples image classes equally often, and weights rare pixel classes more; a "
        "session may adjust the loss instead, see dstm.logit_adjustment",
    )
    augment: bool | Literal["strong"] = Field(
        True, description="true: augmentation of the task; strong: also of tools/tasks/strong.py"
    )
    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "float32",
        description="arithmetic of the network; auto: bfloat16 if the device has instructions for "
        "it, which about halves the time of a U-Net; without them bfloat16 is much slower",
    )
    flips: tuple[Literal["horizontal", "vertical"], ...] | None = Field(
        None,
        exclude_if=lambda flips: flips is None,
        description="directions in which training mirrors images and, for image classification, "
        "prediction averages views; None: those of the target",
    )
    seed: int = Field(0, ge=0)


# Best value on long-tailed Fashion-MNIST.
DEFAULT_SHARE = 1 / 3


class DstmSettings(TrainSettings):
    """Settings of a session's DSTM, which may learn from photographs and generated images."""

    train_on: Literal["real+synthetic", "synthetic", "real"] = Field(
        "real+synthetic",
        description="photographs of the splits generator and audit, generated images, or both",
    )
    synthetic_share: Share | Literal["auto"] = Field(
        DEFAULT_SHARE,
        description="share of generated images among the draws of a class with both kinds; less "
        "below min_class_weight; auto: the best on feedback of three values compared in round 1",
    )
    synthetic_weight: float = Field(
        1.0, gt=0, description="loss weight of a generated image; photographs have weight 1"
    )
    min_class_weight: float = Field(
        50.0,
        ge=0,
        description="sum of squared weights of a class's generated images from which on they get "
        "their full share; below, a proportional one; 0: always full, however few the audit keeps",
    )
    prompt_weights: dict[str, Share] = Field(
        {},
        exclude_if=lambda weights: not weights,
        description="factor on the weights of a prompt's images by prompt id; set by plans",
    )
    real_images: int | None = Field(
        None,
        ge=1,
        description="number of photographs to learn from, the same share of each class and at "
        "least one; None: all",
    )
    real_finish: Share = Field(
        0.0, description="share of the steps, at the end, that use photographs alone"
    )
    finish_layers: Literal["all", "last"] = Field(
        "all",
        exclude_if=lambda layers: layers == "all",
        description="layers that real_finish trains: all, or only the last layer or decoder "
        "(SYNAuG, Ye-Bin et al. 2023)",
    )
    logit_adjustment: float = Field(
        0.0,
        ge=0,
        description="factor of a class's log frequency, added to its logit in the loss (Menon et "
        "al. 2021); only for classification without balance_classes. If neither is given: 1 for "
        "classification with photographs, otherwise balance_classes",
    )
    freeze: Literal["none", "backbone"] = Field(
        "none", description="backbone: train only the last layer or decoder of a pretrained model"
    )
    backbone_rate: float = Field(
        1.0,
        gt=0,
        description="learning rate below the last layer or decoder, relative to learning_rate",
    )

    @model_validator(mode="before")
    @classmethod
    def _choose_balance(cls, values: Any) -> Any:
        """Choose between logit adjustment and balanced sampling if neither is given."""
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
    """Selection of a round's images for the DSTM; earlier rounds keep their selection."""

    method: str = Field("all", description="all, or a file in tools/selection, e.g. entropy or ral")
    keep: float = Field(1.0, gt=0, le=1, description="share of a round's images to select")
    remember: bool = Field(True, description="ral: start from the network of earlier sessions")

    @model_validator(mode="after")
    def _check(self) -> Self:
        if (self.method == "all") != (self.keep == 1):
            raise ValueError(
                f"the method {self.method} excludes keep={self.keep:g}: all needs keep=1, every "
                "other method less, e.g. selection.method=entropy and selection.keep=0.5"
            )
        return self


class ComputeSettings(Record):
    """Devices that draw and audit images, and processes that train a DSTM.

    Images are identical on all devices; a DSTM differs by rounding, and more if it uses batch
    normalisation.
    """

    place: str = Field("local", description="local, ray, or ray:HOST:PORT of a Ray cluster")
    workers: int | None = Field(None, ge=1, description="ray: maximum number; None: one per device")
    cpus: float = Field(1, gt=0, description="ray: CPUs reserved for each worker")
    retries: int = Field(8, ge=0, description="ray: retries of a shard after its worker died")
    patience_s: float = Field(600, ge=0, description="ray: longest time without a node")
    train_processes: int = Field(
        1, ge=1, description="processes that train a DSTM: one per GPU, or all on the CPU"
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
        """Address of the Ray cluster; None if `place` has none."""
        return self.place.partition(":")[2] or None


class AuditSettings(Record):
    """Settings of the audit: of classes, of pixel labels, or none if labels are exact.

    `train` sets the training of the classifier or, with the method `dense`, of each of the
    `members` of the ensemble.
    """

    method: Literal["classifier", "dense", "none"] = "classifier"
    train: TrainSettings = TrainSettings()
    threshold: float | None = Field(
        None,
        gt=0,
        le=1,
        description="probability from which on an image is kept; None: one per class, calibrated "
        "on real photographs (dense: upper bound of the score; None: 0.5)",
    )
    real_rejected: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="share of a class's real photographs that is rejected, if threshold is None",
    )
    floor: Share = Field(0.1, description="minimum weight of an image")
    copies: Annotated[Literal["off", "warn", "drop"], BeforeValidator(false_is_off)] = Field(
        "off",
        description="near copies of the generator's training photographs: warn shows them in the "
        "report, drop also gives them weight 0",
    )
    members: int = Field(3, ge=1, description="number of models of the ensemble, method dense")
    focal_px: float | None = Field(
        None,
        gt=0,
        description="focal length; None: estimated from depth and normals of the target",
    )


class CaptionedRun(Record):
    """Settings of a resumable training on captioned images; `steps` may be raised later."""

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
        description="captions per combination of attributes; None: one for each image",
    )


class LoraSettings(CaptionedRun):
    """Settings of a domain LoRA for a third-party text-to-image model."""

    steps: int = Field(1000, ge=1)
    batch_size: int = Field(4, ge=1)
    learning_rate: float = Field(1e-4, gt=0)
    warmup_steps: int = Field(50, ge=0)
    ema_decay: float = Field(0.99, gt=0, lt=1)
    rank: int = Field(8, ge=1)
    save_every: int = Field(250, ge=1)


class JointSettings(LoraSettings):
    """Settings of a joint model: a third-party text-to-image model that learns pixel labels."""

    steps: int = Field(5000, ge=1)
    labels: tuple[Literal["segmentation", "depth", "normals"], ...] | None = Field(
        None, description="kinds of pixel labels to learn; None: all kinds of the target"
    )
    adapt: Literal["attention", "all"] = Field(
        "attention", description="layers with a LoRA: attention alone, or also convolutions"
    )


class DistillationSettings(Record):
    """Settings of the distillation of a network that samples in fewer steps than its teacher."""

    teacher: str | None = Field(
        None, description="weights to distil: bundled:NAME or a folder; None: no distillation"
    )
    steps: int = Field(3, ge=1, description="sampling steps of the student")
    teacher_steps: int = Field(12, ge=1, description="those of the teacher, a multiple of `steps`")
    n_images: int = Field(1024, ge=32, description="images of the teacher to learn from")

    @property
    def stride(self) -> int:
        """Number of teacher steps per student step."""
        return self.teacher_steps // self.steps

    @model_validator(mode="after")
    def _check_steps(self) -> Self:
        if self.teacher_steps % self.steps:
            raise ValueError(
                f"teacher_steps={self.teacher_steps} is no multiple of steps={self.steps}"
            )
        return self


class PretrainSettings(CaptionedRun, WithEarlierNames):
    """Settings of the pretraining of an MTDM; accepts the names of earlier versions."""

    precision: Literal["auto", "float32", "bfloat16"] = Field(
        "auto", description="arithmetic of the network; auto: bfloat16 where it is faster"
    )
    channels: tuple[int, ...] = (64, 128)
    patch: int = Field(4, ge=1)
    prediction: Literal["velocity", "clean", "residual"] = Field(
        "velocity",
        description="output of the network; residual, of a linear denoiser, learns fastest on "
        "colour images and on labels",
    )
    label_noise_offset: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="share of the noise levels, the lowest ones, at which labels are free of noise",
    )
    label_dropout: Share = Field(
        0.0,
        description="share of the examples whose labels are replaced by noise, so that the network "
        "also learns from images with unknown labels",
    )
    explained_variance: dict[str, Share] | None = Field(
        None,
        description="share of the variance that the principal components of patches explain, by "
        "kind (image, segmentation, depth, normals; others: all); None: no projection",
    )
    class_balance_exponent: Share = Field(
        0.0,
        description="a pixel's loss weight falls with this power of the frequency of its class; "
        "0: equal weights",
    )
    class_balance_scope: Literal["data", "image"] = Field(
        "data", description="count class frequencies over all images, or in each image"
    )
    s_noise: tuple[Share, Share] | None = Field(
        None,
        description="share of the noise of image and labels that a sampling step keeps; less gives "
        "smoother and less varied images; None: 1, or the value stored with the weights",
    )
    timestep_rho: float | None = Field(
        None,
        ge=1,
        le=4,
        description="spacing of the sampling steps; above 1 they are denser at high noise, and "
        "layouts vary more; None: 1, or the value stored with the weights",
    )
    class_sampling_exponent: Share = Field(
        0.0,
        description="an image's sampling probability falls with this power of its class's "
        "frequency; 0: images are equally likely, 1: classes are",
    )
    start: str | None = Field(None, description="initial weights: bundled:NAME or a folder")
    distillation: DistillationSettings = DistillationSettings()
    lora: LoraSettings = Field(
        LoraSettings(), description="only for `shaping pretrain --from MODEL --lora-only`"
    )
    joint: JointSettings = Field(
        JointSettings(), description="only for `shaping pretrain --from MODEL`"
    )
