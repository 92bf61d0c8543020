"""Options of generators that draw with a text-to-image model of diffusers."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from memory.records import Record


class ModelOptions(Record):
    """Model and sampling options; each is a key of generator or of generator.options."""

    weights: str = Field("", description="a folder, or a hub id with its revision")
    steps: int = Field(20, ge=1)
    guidance: float = Field(5.0, ge=0, description="for requests without one")
    guidance_interval: Any = Field(None, description="for the MTDM only; no effect here")
    revision: str | None = Field(None, description="40 digits of a commit, for a hub id")
    variant: str | None = Field(None, description='variant of the weight files, e.g. "fp16"')
    allow_network: bool = False
    scheduler: str | None = Field(
        None, description="a class of diffusers compatible with the model; None: the model's own"
    )
    size: int | tuple[int, int] | None = Field(
        None, description="side of squares, or height and width, pixels; None: the model's own"
    )
    negative_prompt: str = ""
    dtype: Literal["auto", "float32", "float16", "bfloat16"] = Field(
        "auto", description="auto: float32 on a CPU, else bfloat16 or float16"
    )
    compile: bool = Field(False, description="compile the denoiser")
    attention: str | None = Field(None, description="an attention backend of diffusers")
    offload: Literal["none", "model", "sequential"] = Field(
        "none", description="keep parts in main memory until they are needed"
    )
    quantize: Literal["none", "int8"] = Field(
        "none", description="format of the weights of the denoiser's linear layers"
    )
    adapters: dict[str, float] = Field(
        default_factory=dict, description="files or folders of LoRA adapters: default weight"
    )
    safety_checker: bool = Field(
        False, description="use the model's own, which blackens the images that it rejects"
    )
