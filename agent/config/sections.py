"""The sections of the settings but those of `tools.settings`: their keys, defaults and ranges."""

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
        """Where a user's own photographs lie, None for a target that is no user's."""
        return self.options.get("path")


class GeneratorSettings(Record):
    """What draws the images: `name` of a file in tools/generators, or `package.module:build`."""

    name: str = "mtdm"
    weights: str = Field("bundled:solar", description="bundled:NAME, or a pipeline's folder")
    steps: int | None = Field(None, ge=1, le=1000, description="of drawing; None: the generator's")
    guidance: float | None = Field(None, ge=0, le=20, description="None: the generator's")
    guidance_interval: tuple[Share, Share] = Field((0.0, 0.5), description="share of the steps")
    pull: PullText | None = Field(
        None, description="by the DSTM, of prompts that say none: entropy 0.05, loss 0.03, real 0.1"
    )
    options: Options = Field(default_factory=dict)


class LabelerSettings(Record):
    """What labels the pixels of drawn images, replacing what the generator says of them.

    name: none, a file in tools/labelers (pseudo, marigold, ...), or `package.module:build`.
    """

    name: str = "none"
    options: Options = Field(default_factory=dict)


def _auto_is_none(slices: object) -> object:
    return () if slices == "auto" else slices


class FeedbackSettings(Record):
    """Which slices are measured, and when one counts as a failure.

    slices: attributes to cross; `auto`, with --target, for all of the data and each with the class.
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
        description="photographs of the split generator that a slice needs for images of it to be "
        "asked for; 0: none, for a generator that has learnt from others than these",
    )
    folds: int | None = Field(
        None,
        ge=2,
        le=20,
        description="the photographs of audit and feedback are judged in so many folds, each by a "
        "model without it; None: those of feedback, by the model of the round",
    )
    discovery: Annotated[
        Literal["off", "attributes", "clusters"], BeforeValidator(false_is_off)
    ] = Field("clusters", description="what is looked for beyond the slices")
    embedding: Literal["dstm", "imagenet", "dstm+imagenet"] = Field(
        "dstm", description="what clusters are found in"
    )


class Price(Record):
    """What a model costs, in US dollars per million tokens."""

    prompt: float = Field(ge=0)
    answer: float = Field(ge=0)


class LLMSettings(Record):
    """How a language model is asked, how often it may err, and what it may cost."""

    mode: Literal["auto", "native", "json"] = Field(
        "auto", description="native tool calls, one JSON action, or what a probe finds"
    )
    temperature: float | None = Field(None, ge=0, le=2, description="None: the server's default")
    timeout_s: float = Field(120, gt=0, description="of one request")
    stream: bool = Field(False, description="print answers as they are written")
    tries: int = Field(4, ge=1, description="of one request, with growing pauses")
    pause_s: float = Field(1, ge=0, description="before the second try; doubled each time")
    cool_down_s: float = Field(60, ge=0, description="after a failure, until it is asked again")
    context_tokens: int = Field(12_000, ge=1000, description="most tokens of one prompt")
    answer_tokens: int = Field(2_000, ge=50, description="most tokens of one answer")
    max_tokens: int | None = Field(None, ge=1, description="of a session, prompts and answers")
    max_usd: float | None = Field(None, ge=0, description="of a session; needs a price")
    prices: dict[str, Price] = Field(default_factory=dict, description="by the model's name")
    max_illegal: int = Field(3, ge=1, description="calls in a row, then the policy takes the step")
    max_lookups: int = Field(6, ge=1, description="calls of a phase that do not end it")
    fallback: str = Field("audited_failure", description="planner that takes over")
    images: bool = Field(False, description="send photographs to the server of a model that sees")


class MemorySettings(Record):
    """Where all sessions remember."""

    url: PlainUrl | None = Field(
        None, description="http://HOST:PORT of a Chroma server; None: HOME/memory"
    )


class LimitSettings(Record):
    """When a session ends by itself, pauses, or counts as stuck; for all of its runs together."""

    max_hours: float | None = Field(None, gt=0, description="of work, pauses apart")
    max_gpu_hours: float | None = Field(None, gt=0)
    max_images: int | None = Field(None, ge=1)
    target_score: float | None = Field(None, description="of the main figure on feedback")
    patience: int | None = Field(None, ge=1, description="rounds without a better score")
    no_gain: int | None = Field(
        None,
        ge=1,
        description="rounds of which none is better than the best before, beyond the noise of the "
        "feedback photographs",
    )
    finish: bool = Field(True, description="whether a language model may end the session")
    disk_reserve_gb: float = Field(0.5, ge=0, description="pause when less is free")
    silent_s: float = Field(900, gt=0, description="without a sign of life it counts as stuck")


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
        description="folder of the model to begin with and to beat: best/ of a session, or a "
        "trained model of transformers; None: it is trained on the photographs",
    )
    deliver: Literal["main", "worst5", "balanced"] = Field(
        "main",
        description="which round is the best: by the main figure on feedback, by the mean of the "
        "five worst slices there, or by the mean of both; of rounds within one standard error of "
        "the best that of the fewest images",
    )
    on_finish: str | None = Field(None, description="shell command that is run at the end")
    checkpoints: PlainUrl = Field(
        "sqlite",
        pattern="^(sqlite|postgres(ql)?://.*)$",
        description="sqlite, a file of the session, or postgresql://USER@HOST/DATABASE; "
        "its password is that of PGPASSWORD or ~/.pgpass",
    )
