"""A text-to-image model of diffusers, loaded, placed on its device, and drawing.

Stable Diffusion, SDXL, SD3, FLUX, PixArt and what else `AutoPipelineForText2Image` knows. Pictures
are drawn at the model's size, then cropped to the aspect ratio that is wanted and made as small.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForText2Image,
    DiffusionPipeline,
    ModelMixin,
)
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from transformers.utils import logging as transformers_logging

from memory.errors import SettingsError, WeightsError, unknown
from tools.data.drawn import ImageRequest
from tools.data.fitted import fitted
from tools.diffusion.noise import seeded_generator
from tools.generators.text2image.lora import Adapters
from tools.generators.text2image.model_options import ModelOptions
from tools.generators.text2image.quantize import quantization
from tools.models.diffusers_folder import checked_index, folder_sha256, model_folder

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

More = Callable[[Sequence[int]], Mapping[str, Any]]
"""Gets rows of the requests; returns what the pipeline's call takes beside the prompts of them."""


Prepare = Callable[[DiffusionPipeline, str], None]
"""Gets a pipeline, not yet on its device, and the digest of the model's files."""


class DiffusionModel:
    """A pipeline and how it samples.

    pipeline: of diffusers, on its device; sha256: of the model's files; size: height and width of
    what is drawn, None for the model's own.
    """

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        adapters: Adapters,
        sha256: str,
        options: ModelOptions,
        size: tuple[int, int] | None,
    ) -> None:
        self.pipeline, self.adapters, self.size = pipeline, adapters, size
        self._sha256, self._options = sha256, options
        self._call = inspect.signature(pipeline.__call__).parameters
        self._tokenizer, self.max_tokens = _longest_reader(pipeline)
        self._encoded_once: _EncodedOnce | None = None
        if hasattr(pipeline, "encode_prompt"):
            self._encoded_once = _EncodedOnce(pipeline.encode_prompt)
            pipeline.encode_prompt = self._encoded_once

    @property
    def said(self) -> list[Any]:
        """All that decides the pixels beside the request, as plain JSON."""
        content = hashlib.sha256(self._sha256.encode())
        for name, weight in self.adapters.weights.items():
            content.update(f"{self.adapters.sha256[name]} {weight}".encode())
        # Identities from before there was such a setting stay as they were.
        quantized = [] if self._options.quantize == "none" else [self._options.quantize]
        return [
            content.hexdigest(),
            type(self.pipeline.scheduler).__name__,
            str(self.pipeline.dtype),
            self._options.steps,
            self.size,
            self._options.guidance,
            self._options.negative_prompt,
            "safety_checker" in parts_of(self.pipeline),
            *quantized,
        ]

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of the encoder that reads most of a prompt."""
        # A longer text than the encoder reads is what is asked about here, so no warning of it.
        return len(self._tokenizer(text, truncation=False, verbose=False).input_ids)

    def draw(
        self,
        requests: Sequence[ImageRequest],
        image_shape: tuple[int, int, int],
        more: More = lambda rows: {},
    ) -> NDArray[np.uint8]:
        """Return pictures, (n, *image_shape); equal guidance and adapters share a batch.

        Of a prompt that is longer than the encoder reads the rest is cut; plans warn of it. Raises
        SettingsError for a request that weighs an adapter that is not there.
        """
        kinds = [
            (
                self._options.guidance if r.guidance is None else r.guidance,
                tuple(sorted(self.adapters.all_weights(r.adapters).items())),
            )
            for r in requests
        ]
        images = np.empty((len(requests), *image_shape), np.uint8)
        for kind in sorted(set(kinds)):
            rows = [i for i, found in enumerate(kinds) if found == kind]
            guidance, weights = kind
            self.adapters.weigh(dict(weights))
            if self._encoded_once is not None:
                self._encoded_once.adapters = weights
            chosen = [requests[i] for i in rows]
            images[rows] = self._batch(chosen, image_shape, guidance, more(rows))
        return images

    @torch.inference_mode()
    def _batch(
        self,
        requests: Sequence[ImageRequest],
        image_shape: tuple[int, int, int],
        guidance: float,
        more: Mapping[str, Any],
    ) -> NDArray[np.uint8]:
        common: dict[str, Any] = {"num_inference_steps": self._options.steps}
        if self._options.negative_prompt:
            common["negative_prompt"] = [self._options.negative_prompt] * len(requests)
        # Some pipelines that draw over a picture take its size.
        if self.size is not None and "height" in self._call:
            common |= {"height": self.size[0], "width": self.size[1]}
        drawn = self.pipeline(
            prompt=[r.text for r in requests],
            generator=[seeded_generator(r.seed, r.prompt_id, r.index) for r in requests],
            guidance_scale=guidance,
            output_type="pil",
            **common,
            **more,
        ).images
        return fitted(drawn, image_shape)


def load_model(
    options: ModelOptions,
    device: str,
    from_image: bool = False,
    controlnet: ModelMixin | None = None,
    like: tuple[int, int] | None = None,
    prepare: Prepare = lambda pipeline, sha256: None,
) -> DiffusionModel:
    """Load a text-to-image model.

    from_image: it draws over a picture; controlnet: steers it, see `load_controlnet`; like: height
    and width whose aspect ratio the pictures must have, so that nothing of them is cropped.

    Raises WeightsError for a model or adapter that is missing, partial, pickled or foreign, and
    SettingsError for an option that does not suit the model.
    """
    folder = model_folder(options.weights, options.revision, options.variant, options.allow_network)
    index = checked_index(folder)
    steered = {} if controlnet is None else {"controlnet": controlnet}
    checked = {}
    if "safety_checker" in index and not options.safety_checker:
        checked = {"safety_checker": None, "requires_safety_checker": False}
    if options.safety_checker and index.get("safety_checker", [None])[0] is None:
        raise SettingsError(
            f"The model {folder} has no safety checker. Set generator.options.safety_checker=false."
        )
    dtype = dtype_of(options, device)
    fewer_bits = quantization(options, index, dtype, device)
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    kind = AutoPipelineForImage2Image if from_image else AutoPipelineForText2Image
    try:
        pipeline = kind.from_pretrained(
            folder,
            dtype=dtype,
            variant=options.variant,
            local_files_only=True,
            use_safetensors=True,
            **checked,
            **steered,
            **fewer_bits,
        )
    except Exception as error:  # diffusers, transformers and safetensors raise many types
        asked = "an image from text" if not (from_image or steered) else "images in this way"
        raise WeightsError(
            f"The model in {folder} is damaged, of another version, or does not draw {asked}: "
            f"{error} Copy it again, or choose another one."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    sha256 = folder_sha256(folder)
    prepare(pipeline, sha256)
    call = inspect.signature(pipeline.__call__).parameters
    if options.negative_prompt and "negative_prompt" not in call:
        raise SettingsError(
            f"A {type(pipeline).__name__} takes no negative prompt. Leave "
            "generator.options.negative_prompt out."
        )
    if options.scheduler is not None:
        suited = {kind.__name__: kind for kind in pipeline.scheduler.compatibles}
        if options.scheduler not in suited:
            raise SettingsError(unknown("generator.options.scheduler", options.scheduler, suited))
        pipeline.scheduler = suited[options.scheduler].from_config(pipeline.scheduler.config)
    size = _size(pipeline, options.size) if like is None else size_like(pipeline, options, like)
    adapters = Adapters(pipeline, options.adapters)
    _place(pipeline, options, device)
    return DiffusionModel(pipeline, adapters, sha256, options, size)


def parts_of(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """Return the parts of a pipeline that are there, by name."""
    return {name: part for name, part in pipeline.components.items() if part is not None}


def dtype_of(options: ModelOptions, device: str) -> torch.dtype:
    """Return the precision: as set, or float32 on a CPU and the shorter one a GPU is good at."""
    if options.dtype != "auto":
        return DTYPES[options.dtype]
    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _longest_reader(pipeline: DiffusionPipeline) -> tuple[Any, int]:
    """Return the tokenizer that reads most of a prompt, and how many tokens that is.

    Of several encoders the short ones (CLIP beside T5) only see the beginning.
    """
    call = inspect.signature(pipeline.__call__).parameters
    limit = call["max_sequence_length"].default if "max_sequence_length" in call else None
    limits = []
    for name, tokenizer in parts_of(pipeline).items():
        if name.startswith("tokenizer"):
            n = int(tokenizer.model_max_length)
            clip = type(tokenizer).__name__.startswith("CLIP")
            limits.append((n if clip or limit is None else min(n, limit), tokenizer))
    if not limits:
        raise WeightsError(
            f"The model {type(pipeline).__name__} has no tokenizer of its own. Choose another one."
        )
    n_tokens, longest = max(limits, key=lambda pair: pair[0])
    return longest, n_tokens


class _EncodedOnce:
    """A pipeline's `encode_prompt` that encodes each distinct prompt once, and by itself.

    So what a prompt becomes does not depend on the batch either. adapters: their weights, since
    some of them change the encoder.
    """

    def __init__(self, encode: Any) -> None:
        self.adapters: tuple[tuple[str, float], ...] = ()
        self._encode = encode
        self._signature = inspect.signature(encode)
        self._known: dict[str, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = self._signature.bind(*args, **kwargs).arguments
        prompts = given.get("prompt")
        if not isinstance(prompts, list):
            return self._encode(**given)
        per_row = {k for k, v in given.items() if isinstance(v, list) and len(v) == len(prompts)}
        per_row -= {"complex_human_instruction"}
        found = []
        for i in range(len(prompts)):
            row = {k: [v[i]] if k in per_row else v for k, v in given.items()}
            key = repr((row, self.adapters))
            if key not in self._known:
                self._known[key] = self._encode(**row)
            found.append(self._known[key])
        columns = list(zip(*found, strict=True))
        if any(len({part.shape for part in c if part is not None}) > 1 for c in columns):
            # States as long as the prompt: only the pipeline knows how it pads them.
            return self._encode(**given)
        return tuple(
            torch.cat(c) if c[0] is not None and c[0].shape[0] == 1 else c[0] for c in columns
        )


def _unit(pipeline: DiffusionPipeline) -> int:
    """Return of what the height and the width of a model's pictures are multiples."""
    scale = int(getattr(pipeline, "vae_scale_factor", 8))
    # Transformers take the latents in squares of two.
    return scale if "unet" in parts_of(pipeline) else max(16, scale)


def _size(
    pipeline: DiffusionPipeline, size: int | tuple[int, int] | None
) -> tuple[int, int] | None:
    """Return height and width, None for the model's own; raises SettingsError."""
    if size is None:
        return None
    height, width = (size, size) if isinstance(size, int) else size
    unit = _unit(pipeline)
    if min(height, width) < unit or height % unit or width % unit:
        raise SettingsError(
            f"generator.options.size is {height}x{width}, but this model draws images whose height "
            f"and width are multiples of {unit}."
        )
    return height, width


def size_like(
    pipeline: DiffusionPipeline, options: ModelOptions, like: tuple[int, int]
) -> tuple[int, int]:
    """Return height and width of the aspect ratio of `like`: as set, or about the model's own.

    Raises SettingsError for a size of another aspect ratio.
    """
    unit = _unit(pipeline)
    height, width = (side // math.gcd(*like) * unit for side in like)
    chosen = _size(pipeline, options.size)
    if chosen is not None:
        if chosen[0] * width != chosen[1] * height:
            raise SettingsError(
                f"generator.options.size is {chosen[0]}x{chosen[1]}, but the labels are of "
                f"{like[0]}x{like[1]} pixels, so pictures would have to be cropped and no longer "
                f"fit them. Set it to a multiple of [{height}, {width}], or leave it out."
            )
        return chosen
    area = math.prod(_own_size(pipeline))
    times = max(1, round(math.sqrt(area / (height * width))))
    return height * times, width * times


def _own_size(pipeline: DiffusionPipeline) -> tuple[int, int]:
    """Return height and width of what a model was made to draw; raises SettingsError."""
    denoiser = _denoiser(pipeline)
    sample = getattr(pipeline, "default_sample_size", None)
    sample = sample or getattr(getattr(denoiser, "config", None), "sample_size", None)
    if sample is None:
        raise SettingsError(
            f"A {type(pipeline).__name__} does not say how large its pictures are. Set "
            "generator.options.size."
        )
    height, width = (sample, sample) if isinstance(sample, int) else sample
    scale = int(getattr(pipeline, "vae_scale_factor", 8))
    return height * scale, width * scale


def _denoiser(pipeline: DiffusionPipeline) -> Any:
    parts = parts_of(pipeline)
    return parts.get("unet") or parts.get("transformer")


def _place(pipeline: DiffusionPipeline, options: ModelOptions, device: str) -> None:
    """Move a pipeline to its device and prepare its denoiser; raises SettingsError."""
    denoiser = _denoiser(pipeline)
    if options.offload != "none" and device == "cpu":
        raise SettingsError("generator.options.offload needs a GPU; here the device is the CPU.")
    if options.attention is not None and denoiser is not None:
        try:
            denoiser.set_attention_backend(options.attention)
        except (ValueError, RuntimeError, ImportError) as error:
            raise SettingsError(
                f"generator.options.attention={options.attention!r} cannot be used: {error}"
            ) from error
    if options.offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif options.offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)
    if options.compile and denoiser is not None:
        denoiser.compile()
