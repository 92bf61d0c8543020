"""Options of generators that draw with a text-to-image model of diffusers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from memory.records import Record


class ModelOptions(Record):
    """Which model draws, and how; each is a key of generator or of generator.options."""

    weights: str = Field("", description="a folder, or a hub id with its revision")
    steps: int = Field(20, ge=1)
    guidance: float = Field(5.0, ge=0, description="of requests without one")
    guidance_interval: Any = Field(None, description="of the MTDM alone, without effect here")
    revision: str | None = Field(None, description="40 digits of a commit, for a hub id")
    variant: str | None = Field(None, description='of the files, e.g. "fp16"')
    allow_network: bool = False
    scheduler: str | None = Field(
        None, description="a class of diffusers that suits the model; None: its own"
    )
    size: int | tuple[int, int] | None = Field(
        None, description="pixels of a square's side, or height and width; None: the model's own"
    )
    negative_prompt: str = ""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="auto: float32 on a CPU, else bfloat16 or float16"
    )
    compile: bool = Field(False, description="the denoiser")
    attention: str | None = Field(None, description="a backend of diffusers")
    offload: Literal["none", "model", "sequential"] = Field(
        "none", description="parts wait in main memory"
    )
    quantize: Literal["none", "int8"] = Field(
        "none", description="bits in which the denoiser's linear layers hold their weights"
    )
    adapters: dict[str, float] = Field(
        default_factory=dict, description="files or folders of LoRA weights: how much each counts"
    )
    safety_checker: bool = Field(
        False, description="the model's own, which blackens what it objects to"
    )
