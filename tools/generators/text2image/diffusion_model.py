"""A text-to-image model of diffusers: loading, placement on a device, sampling.

Supports Stable Diffusion, SDXL, SD3, FLUX, PixArt and all else that `AutoPipelineForText2Image`
does. Images are drawn at the model's size, then cropped to the aspect ratio of the target's images
and scaled to their size.
"""

from __future__ import annotations

import hashlib
import inspect
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from diffusers import (
    AutoPipelineForImage2Image,
    AutoPipelineForText2Image,
    DiffusionPipeline,
    ModelMixin,
)
from numpy.typing import NDArray

from memory.errors import SettingsError, WeightsError, unknown
from tools.data.drawn import ImageRequest
from tools.data.fitted import fitted
from tools.diffusion.sampler import seeded_generator
from tools.generators.text2image.lora import Adapters
from tools.generators.text2image.model_options import ModelOptions
from tools.generators.text2image.quantize import quantization
from tools.models.diffusers_folder import checked_index, model_folder
from tools.models.digests import folder_sha256, identity_of
from tools.models.folders import explained

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}

BatchArguments = Callable[[Sequence[int]], Mapping[str, Any]]
"""Maps rows of the requests to additional arguments of the pipeline's call for them."""

Prepare = Callable[[DiffusionPipeline, str], None]
"""Called with a pipeline, before it is moved to its device, and the digest of the model's files."""


class DiffusionModel:
    """A pipeline with its sampling settings.

    Args:
        pipeline: A diffusers pipeline, on its device.
        adapters: LoRA adapters of the pipeline.
        sha256: Digest of the model's files.
        options: Steps, guidance and other options that affect the pixels.
        size: Height and width of the drawn images; None: the model's default.
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
        self._tokenizer, self.max_tokens = _longest_tokenizer(pipeline)
        self._encoded_once: _EncodedOnce | None = None
        if hasattr(pipeline, "encode_prompt"):
            self._encoded_once = _EncodedOnce(pipeline.encode_prompt)
            pipeline.encode_prompt = self._encoded_once

    @property
    def fingerprint(self) -> list[Any]:
        """Everything that determines the pixels beside the request, as JSON."""
        content = hashlib.sha256(self._sha256.encode())
        for name, weight in self.adapters.weights.items():
            content.update(f"{self.adapters.sha256[name]} {weight}".encode())
        # The default is left out, so that identities from before this setting stay the same.
        quantize = [] if self._options.quantize == "none" else [self._options.quantize]
        return [
            content.hexdigest(),
            type(self.pipeline.scheduler).__name__,
            str(self.pipeline.dtype),
            self._options.steps,
            self.size,
            self._options.guidance,
            self._options.negative_prompt,
            "safety_checker" in parts_of(self.pipeline),
            *quantize,
        ]

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of the encoder with the longest context."""
        # Callers check for texts that exceed the context, so there is no warning about them.
        return len(self._tokenizer(text, truncation=False, verbose=False).input_ids)

    def draw(
        self,
        requests: Sequence[ImageRequest],
        image_shape: tuple[int, int, int],
        batch_arguments: BatchArguments = lambda rows: {},
    ) -> NDArray[np.uint8]:
        """Return images, (n, *image_shape), drawn in batches of equal guidance and adapters.

        Prompts that exceed the encoder's context are truncated; plans warn about them.

        Args:
            requests: n requests.
            image_shape: (channels, height, width) of the target.
            batch_arguments: See `BatchArguments`.

        Raises:
            SettingsError: A request sets the weight of an unknown adapter.
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
            rows = [i for i, other in enumerate(kinds) if other == kind]
            guidance, weights = kind
            self.adapters.weigh(dict(weights))
            if self._encoded_once is not None:
                self._encoded_once.adapters = weights
            batch = [requests[i] for i in rows]
            images[rows] = self._batch(batch, image_shape, guidance, batch_arguments(rows))
        return images

    @torch.inference_mode()
    def _batch(
        self,
        requests: Sequence[ImageRequest],
        image_shape: tuple[int, int, int],
        guidance: float,
        further: Mapping[str, Any],
    ) -> NDArray[np.uint8]:
        arguments: dict[str, Any] = {"num_inference_steps": self._options.steps, **further}
        if self._options.negative_prompt:
            arguments["negative_prompt"] = [self._options.negative_prompt] * len(requests)
        # Some image-to-image pipelines use the size of their input and have no such arguments.
        if self.size is not None and "height" in self._call:
            arguments |= {"height": self.size[0], "width": self.size[1]}
        drawn = self.pipeline(
            prompt=[r.text for r in requests],
            generator=[seeded_generator(r.seed, r.prompt_id, r.index) for r in requests],
            guidance_scale=guidance,
            output_type="pil",
            **arguments,
        ).images
        return fitted(drawn, image_shape)


class ModelGenerator(ABC):
    """Base of generators that draw with a `DiffusionModel`."""

    name: str
    accepts_guidance = True

    def __init__(self, model: DiffusionModel) -> None:
        self.pipeline, self.max_tokens = model.pipeline, model.max_tokens
        self._model = model

    @property
    @abstractmethod
    def fingerprint(self) -> list[Any]:
        """Everything that determines the pixels beside the request, as JSON."""

    @cached_property
    def identity(self) -> str:
        """Return a digest of `fingerprint`."""
        return identity_of(self.name, self.fingerprint)

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of the encoder with the longest context."""
        return self._model.count_tokens(text)


def load_model(
    options: ModelOptions,
    device: str,
    from_image: bool = False,
    controlnet: ModelMixin | None = None,
    like: tuple[int, int] | None = None,
    prepare: Prepare = lambda pipeline, sha256: None,
) -> DiffusionModel:
    """Load a text-to-image model.

    Args:
        options: Options of the model.
        device: A torch device.
        from_image: Whether it draws over an image.
        controlnet: ControlNet that conditions it, see `load_controlnet`.
        like: Height and width whose aspect ratio the images must have, so that nothing is cropped;
            None: any.
        prepare: Called before adapters are loaded and the pipeline is moved to its device.

    Raises:
        WeightsError: A model or adapter is missing, partial or pickled, or they do not match.
        SettingsError: The model does not support an option.
    """
    folder = model_folder(options.weights, options.revision, options.variant, options.allow_network)
    index = checked_index(folder)
    parts: dict[str, Any] = {} if controlnet is None else {"controlnet": controlnet}
    if "safety_checker" in index and not options.safety_checker:
        parts |= {"safety_checker": None, "requires_safety_checker": False}
    if options.safety_checker and index.get("safety_checker", [None])[0] is None:
        raise SettingsError(
            f"The model {folder} has no safety checker. Set generator.options.safety_checker=false."
        )
    dtype = dtype_of(options, device)
    parts |= quantization(options, index, dtype, device)
    kind = AutoPipelineForImage2Image if from_image else AutoPipelineForText2Image
    is_plain = not from_image and controlnet is None
    purpose = "an image from text" if is_plain else "images in this way"
    with explained(
        f"The model in {folder} is damaged, of another version, or does not draw {purpose}: "
        "{error} Copy it again, or choose another one."
    ):
        pipeline = kind.from_pretrained(
            folder,
            dtype=dtype,
            variant=options.variant,
            local_files_only=True,
            use_safetensors=True,
            **parts,
        )
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
    """Return the components of a pipeline that are not None, by name."""
    return {name: part for name, part in pipeline.components.items() if part is not None}


def dtype_of(options: ModelOptions, device: str) -> torch.dtype:
    """Return the configured precision; "auto": float32 on a CPU, otherwise bfloat16 or float16."""
    if options.dtype != "auto":
        return DTYPES[options.dtype]
    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _longest_tokenizer(pipeline: DiffusionPipeline) -> tuple[Any, int]:
    """Return the tokenizer of the encoder with the longest context, and its context length.

    With several encoders (CLIP and T5), the shorter ones only see the beginning of a prompt.
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
    """Wrapper of a pipeline's `encode_prompt` that encodes each distinct prompt once and alone.

    The encoding of a prompt therefore does not depend on the batch.

    Attributes:
        adapters: Weights of the adapters, part of the cache key, since some change the encoder.
    """

    def __init__(self, encode: Any) -> None:
        self.adapters: tuple[tuple[str, float], ...] = ()
        self._encode = encode
        self._signature = inspect.signature(encode)
        self._cache: dict[str, Any] = {}

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        given = self._signature.bind(*args, **kwargs).arguments
        prompts = given.get("prompt")
        if not isinstance(prompts, list):
            return self._encode(**given)
        per_row = {k for k, v in given.items() if isinstance(v, list) and len(v) == len(prompts)}
        per_row -= {"complex_human_instruction"}
        encodings = []
        for i in range(len(prompts)):
            row = {k: [v[i]] if k in per_row else v for k, v in given.items()}
            key = repr((row, self.adapters))
            if key not in self._cache:
                self._cache[key] = self._encode(**row)
            encodings.append(self._cache[key])
        columns = list(zip(*encodings, strict=True))
        if any(len({part.shape for part in c if part is not None}) > 1 for c in columns):
            # The encodings differ in length, so the pipeline has to pad them.
            return self._encode(**given)
        return tuple(
            torch.cat(c) if c[0] is not None and c[0].shape[0] == 1 else c[0] for c in columns
        )


def _unit(pipeline: DiffusionPipeline) -> int:
    """Return the number of pixels of which height and width of images must be multiples."""
    scale = int(getattr(pipeline, "vae_scale_factor", 8))
    # Transformers split the latents into patches of 2x2.
    return scale if "unet" in parts_of(pipeline) else max(16, scale)


def _size(
    pipeline: DiffusionPipeline, size: int | tuple[int, int] | None
) -> tuple[int, int] | None:
    """Return height and width; None: the model's default. Raise SettingsError if unsupported."""
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
    """Return height and width in the aspect ratio of `like`, as set or close to the default.

    Raises:
        SettingsError: The size in `options` has another aspect ratio.
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
    """Return a model's default height and width; raise SettingsError if it has none."""
    denoiser = _denoiser(pipeline)
    sample = getattr(pipeline, "default_sample_size", None)
    sample = sample or getattr(getattr(denoiser, "config", None), "sample_size", None)
    if sample is None:
        raise SettingsError(
            f"A {type(pipeline).__name__} has no size of its own. Set generator.options.size."
        )
    height, width = (sample, sample) if isinstance(sample, int) else sample
    scale = int(getattr(pipeline, "vae_scale_factor", 8))
    return height * scale, width * scale


def _denoiser(pipeline: DiffusionPipeline) -> Any:
    parts = parts_of(pipeline)
    return parts.get("unet") or parts.get("transformer")


def _place(pipeline: DiffusionPipeline, options: ModelOptions, device: str) -> None:
    """Move a pipeline to its device and set up its denoiser; raise SettingsError on failure."""
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
