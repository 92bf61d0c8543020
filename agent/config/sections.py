"""Sections of the settings with keys, defaults and ranges; others are in `tools.settings`."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, JsonValue

from agent.config.urls import PlainUrl
from memory.records import PullText, Record, Share
from tools.settings import false_is_off

Options = dict[str, JsonValue]


class TargetSettings(Record):
    """The real data: `name` of a file in tools/targets, or `package.module:build`."""

    name: str = "elpv"
    options: Options = Field(default_factory=dict)

    @property
    def path(self) -> object:
        """Folder of a user's data set, None for a built-in target."""
        return self.options.get("path")


class GeneratorSettings(Record):
    """The image generator: `name` of a file in tools/generators, or `package.module:build`."""

    name: str = "mtdm"
    weights: str = Field("bundled:solar", description="bundled:NAME, or the folder of a pipeline")
    steps: int | None = Field(
        None, ge=1, le=1000, description="sampling steps; None: the generator's default"
    )
    guidance: float | None = Field(
        None, ge=0, le=20, description="classifier-free guidance; None: the generator's default"
    )
    guidance_interval: tuple[Share, Share] = Field(
        (0.0, 0.5), description="part of the sampling steps, 0..1, in which guidance acts"
    )
    pull: PullText | None = Field(
        None,
        description="guidance by the DSTM for prompts without their own, e.g. entropy 0.05, "
        "loss 0.03, real 0.1",
    )
    options: Options = Field(default_factory=dict)


class LabelerSettings(Record):
    """The labeler of generated images, whose pixel labels replace those of the generator.

    name: none, a file in tools/labelers (pseudo, marigold, ...), or `package.module:build`.
    """

    name: str = "none"
    options: Options = Field(default_factory=dict)


def _auto_is_none(slices: object) -> object:
    return () if slices == "auto" else slices


class FeedbackSettings(Record):
    """The slices that are measured, and the criteria for failures.

    slices: combinations of attributes; `auto`, with --target: each attribute of the data set alone
    and combined with the class.
    """

    slices: Annotated[tuple[tuple[str, ...], ...], BeforeValidator(_auto_is_none)] = (
        ("wafer",),
        ("wafer", "severity"),
        ("wafer", "brightness"),
        ("wafer", "dark_area"),
        ("wafer", "contrast"),
    )
    n_min: int = Field(10, ge=1)
    alpha: float = Field(
        0.05, gt=0, lt=1, description="false discovery rate of a session, shared by its rounds"
    )
    min_support: int = Field(
        3,
        ge=0,
        description="least photographs of a slice in the split generator for planners to request "
        "images of it; 0: no limit, for a generator trained on other photographs",
    )
    folds: int | None = Field(
        None,
        ge=2,
        le=20,
        description="number of folds of the photographs of audit and feedback, each predicted by a "
        "model trained without it; None: those of feedback, by the model of the round",
    )
    discovery: Annotated[
        Literal["off", "attributes", "clusters"], BeforeValidator(false_is_off)
    ] = Field("clusters", description="search for failures beyond the slices")
    embedding: Literal["dstm", "imagenet", "dstm+imagenet"] = Field(
        "dstm", description="embedding in which clusters are searched"
    )


class Price(Record):
    """The price of a model in US dollars per million tokens."""

    prompt: float = Field(ge=0)
    answer: float = Field(ge=0)


class LLMSettings(Record):
    """Requests to a language model, its budget, and the limits of its illegal calls."""

    mode: Literal["auto", "native", "json"] = Field(
        "auto", description="native tool calls, one JSON action, or chosen by a probe"
    )
    temperature: float | None = Field(None, ge=0, le=2, description="None: the server's default")
    timeout_s: float = Field(120, gt=0, description="of one request")
    stream: bool = Field(False, description="print answers as they are generated")
    tries: int = Field(4, ge=1, description="attempts per request, with growing pauses")
    pause_s: float = Field(1, ge=0, description="before the second attempt; doubled each time")
    cool_down_s: float = Field(60, ge=0, description="pause of requests after a failure")
    context_tokens: int = Field(12_000, ge=1000, description="largest length of a prompt")
    answer_tokens: int = Field(2_000, ge=50, description="largest length of an answer")
    max_tokens: int | None = Field(
        None, ge=1, description="budget of a session, prompts and answers together"
    )
    max_usd: float | None = Field(None, ge=0, description="budget of a session; needs a price")
    prices: dict[str, Price] = Field(default_factory=dict, description="by the model's name")
    max_illegal: int = Field(
        3, ge=1, description="illegal calls in a row after which the policy takes the step"
    )
    max_lookups: int = Field(6, ge=1, description="calls per phase that do not end it")
    fallback: str = Field("audited_failure", description="planner that replaces the model")
    images: bool = Field(False, description="send photographs to the server of a vision model")


class MemorySettings(Record):
    """The memory that all sessions share."""

    url: PlainUrl | None = Field(
        None, description="http://HOST:PORT of a Chroma server; None: HOME/memory"
    )


class LimitSettings(Record):
    """Limits at which a session ends, pauses, or counts as stuck, over all its runs together."""

    max_hours: float | None = Field(None, gt=0, description="of work, without pauses")
    max_gpu_hours: float | None = Field(None, gt=0)
    max_images: int | None = Field(None, ge=1)
    target_score: float | None = Field(None, description="of the main figure on feedback")
    patience: int | None = Field(None, ge=1, description="rounds without a better score")
    no_gain: int | None = Field(
        None,
        ge=1,
        description="rounds without an improvement over the best before that exceeds the noise of "
        "the feedback photographs",
    )
    finish: bool = Field(True, description="whether a language model may end the session")
    disk_reserve_gb: float = Field(0.5, ge=0, description="pause while less is free")
    silent_s: float = Field(900, gt=0, description="without a heartbeat it counts as stuck")


class SessionSettings(Record):
    """Name, budget and seed of a session."""

    name: str | None = None
    rounds: int = Field(4, ge=1, le=100_000)
    images_per_round: int = Field(200, ge=1, le=100_000)
    images_per_prompt: int = Field(8, ge=1)
    shard_size: int = Field(32, ge=1)
    seed: int = Field(0, ge=0)
    baseline: str | None = Field(
        None,
        description="folder of the model of round 0: best/ of a session, or a trained model of "
        "transformers; None: it is trained on the photographs",
    )
    deliver: Literal["main", "worst5", "balanced"] = Field(
        "main",
        description="criterion of the best round: the main figure on feedback, the mean of the "
        "five worst slices there, or the mean of both; of rounds within one standard error of "
        "the best, the one with the fewest images is delivered",
    )
    on_finish: str | None = Field(None, description="shell command to run at the end")
    checkpoints: PlainUrl = Field(
        "sqlite",
        pattern="^(sqlite|postgres(ql)?://.*)$",
        description="sqlite, a file of the session, or postgresql://USER@HOST/DATABASE with the "
        "password in PGPASSWORD or ~/.pgpass",
    )
