"""The generator `text2image`: any text-to-image model of diffusers, by folder or hub id.

Stable Diffusion, SDXL, SD3, FLUX, PixArt and what else `AutoPipelineForText2Image` knows, with LoRA
adapters. Weights are safetensors only, no code of a model folder is run, and nothing is downloaded
unless `allow_network` says so. Images are drawn at the model's size, then cropped to the target's
aspect ratio and made as small as its images. The model draws no labels of pixels.
"""

from __future__ import annotations

import hashlib
import importlib.util
import inspect
import json
import re
import warnings
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers import AutoPipelineForText2Image, DiffusionPipeline
from diffusers.utils import logging as diffusers_logging
from numpy.typing import NDArray
from PIL import Image, ImageOps
from safetensors import SafetensorError, safe_open
from transformers.utils import logging as transformers_logging

from memory.errors import SettingsError, WeightsError, unknown
from tools.generators import Drawn, ImageRequest, join
from tools.generators.mtdm import seeded_generator

DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
PICKLED = (".bin", ".ckpt", ".pt", ".pth", ".pkl")
LORA_FILE = "pytorch_lora_weights.safetensors"

DType = Literal["auto", "float32", "float16", "bfloat16"]
Offload = Literal["none", "model", "sequential"]


class Text2ImageGenerator:
    """A diffusers pipeline behind the generator protocol.

    weights_sha256: of all files of the model and its adapters; sampling: all else that decides the
    pixels, as arguments of the pipeline's call; guidance: of requests that say none.
    """

    name = "text2image"

    def __init__(
        self,
        pipeline: DiffusionPipeline,
        image_shape: tuple[int, int, int],
        weights_sha256: str,
        sampling: Mapping[str, Any],
        guidance: float,
        negative_prompt: str = "",
    ) -> None:
        self.pipeline = pipeline
        self._shape = image_shape
        self._weights_sha256 = weights_sha256
        self._sampling = dict(sampling)
        self._guidance = guidance
        self._negative = negative_prompt
        self._tokenizer, self.max_tokens = _longest_reader(pipeline)

    @cached_property
    def identity(self) -> str:
        """Return a digest of weights, adapters, scheduler, precision and sampling."""
        scheduler = self.pipeline.scheduler
        said = [
            self._weights_sha256,
            type(scheduler).__name__,
            str(self.pipeline.dtype),
            self._sampling,
            self._guidance,
            self._negative,
            "safety_checker" in _parts(self.pipeline),
        ]
        return f"text2image {hashlib.sha256(json.dumps(said).encode()).hexdigest()[:16]}"

    def count_tokens(self, text: str) -> int:
        """Return the number of tokens of the encoder that reads most of a prompt."""
        # A longer text than the encoder reads is what is asked about here, so no warning of it.
        return len(self._tokenizer(text, truncation=False, verbose=False).input_ids)

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        """Draw all requests; those of equal guidance share a batch.

        Of a prompt that is longer than the encoder reads the rest is cut; plans warn of it.
        """
        guidances = [self._guidance if r.guidance is None else r.guidance for r in requests]
        order: list[int] = []
        parts: list[Drawn] = []
        for guidance in sorted(set(guidances)):
            rows = [i for i, found in enumerate(guidances) if found == guidance]
            order += rows
            parts.append(Drawn(self._pictures([requests[i] for i in rows], guidance)))
        return join(parts).take(np.argsort(order))

    @torch.inference_mode()
    def _pictures(self, requests: Sequence[ImageRequest], guidance: float) -> NDArray[np.uint8]:
        negative = {"negative_prompt": [self._negative] * len(requests)} if self._negative else {}
        drawn = self.pipeline(
            prompt=[r.text for r in requests],
            generator=[seeded_generator(r.seed, r.prompt_id, r.index) for r in requests],
            guidance_scale=guidance,
            output_type="pil",
            **self._sampling,
            **negative,
        ).images
        channels, height, width = self._shape
        mode = "L" if channels == 1 else "RGB"
        fitted = [
            ImageOps.fit(image.convert(mode), (width, height), Image.Resampling.LANCZOS)
            for image in drawn
        ]
        pixels = np.stack([np.asarray(image) for image in fitted])
        return pixels[:, None] if channels == 1 else pixels.transpose(0, 3, 1, 2).copy()


def _parts(pipeline: DiffusionPipeline) -> dict[str, Any]:
    """Return the parts of a pipeline that are there, by name."""
    return {name: part for name, part in pipeline.components.items() if part is not None}


def _longest_reader(pipeline: DiffusionPipeline) -> tuple[Any, int]:
    """Return the tokenizer that reads most of a prompt, and how many tokens that is.

    Of several encoders the short ones (CLIP beside T5) only see the beginning.
    """
    call = inspect.signature(pipeline.__call__).parameters
    limit = call["max_sequence_length"].default if "max_sequence_length" in call else None
    limits = []
    for name, tokenizer in _parts(pipeline).items():
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

    So what a prompt becomes does not depend on the batch either.
    """

    def __init__(self, encode: Any) -> None:
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
            key = repr(row)
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


def _sha256(paths: Sequence[Path]) -> str:
    content = hashlib.sha256()
    for path in paths:
        with path.open("rb") as file:
            content.update(path.name.encode() + hashlib.file_digest(file, "sha256").digest())
    return content.hexdigest()


def _model_folder(weights: str, revision: str | None, variant: str | None, online: bool) -> Path:
    """Return the folder of a model, from the cache of the hub for an id.

    Raises SettingsError for an id without a pinned revision, WeightsError for what is not there.
    """
    folder = Path(weights).expanduser()
    if folder.exists():
        return folder
    if not re.fullmatch(r"[\w.-]+/[\w.-]+", weights):
        raise WeightsError(
            f"There is no model {weights!r}. Set generator.weights to the folder of a diffusers "
            "text-to-image model, or to its hub id, ORGANISATION/NAME."
        )
    if not re.fullmatch(r"[0-9a-f]{40}", revision or ""):
        raise SettingsError(
            f"The folder {weights} is not there, and as a hub id it needs "
            "generator.options.revision: the 40 digits of a commit, so that the weights stay the "
            f"same. Given: {revision!r}."
        )
    try:
        found = DiffusionPipeline.download(
            weights,
            revision=revision,
            variant=variant,
            local_files_only=not online,
            use_safetensors=True,
        )
    except Exception as error:  # the hub's client raises many types
        raise WeightsError(
            f"The model {weights} at {revision} cannot be had: {error} Set "
            "generator.options.allow_network=true to download it, or generator.weights to a folder."
        ) from error
    return Path(found)


def _checked_index(folder: Path) -> dict[str, Any]:
    """Return a folder's `model_index.json`; raises WeightsError for a wrong or partial folder."""
    path = folder / "model_index.json"
    if not path.is_file():
        raise WeightsError(
            f"{folder} is no diffusers model: it has no model_index.json. Give the folder that "
            "`save_pretrained` wrote, not a single checkpoint file."
        )
    try:
        index: dict[str, Any] = json.loads(path.read_text())
    except json.JSONDecodeError as error:
        raise WeightsError(f"{path} is damaged: {error} Restore the folder.") from error
    for name, part in index.items():
        if not isinstance(part, list) or len(part) != 2 or part[0] is None:
            continue
        # Names of pipelines' own modules are fine, code that lies in the folder is not.
        if (folder / name / f"{part[0]}.py").exists() or (folder / f"{part[0]}.py").exists():
            raise WeightsError(
                f"The model {folder} wants to run its own code for its {name}, which is never "
                "done. Choose a model made of diffusers' own classes."
            )
        files = list((folder / name).glob("*"))
        if not files:
            raise WeightsError(
                f"The model {folder} is partial: its {name}/ is missing or empty. Copy it again."
            )
        weights = [file for file in files if file.suffix == ".safetensors"]
        pickled = [file for file in files if file.suffix in PICKLED]
        if pickled and not weights:
            raise WeightsError(
                f"{pickled[0]} is a pickle, which can run code, so it is not loaded. Use a model "
                "with safetensors files, or convert it where you trust it."
            )
        is_network = re.match(r"unet|transformer|vae$|text_encoder|prior", name)
        if is_network and not weights:
            raise WeightsError(
                f"The model {folder} is partial: its {name}/ has no safetensors file. "
                "Copy it again."
            )
    return index


def _adapter_file(given: str) -> Path:
    path = Path(given).expanduser()
    file = path / LORA_FILE if path.is_dir() else path
    if file.suffix in PICKLED or (path.is_dir() and not file.exists() and any(path.glob("*.bin"))):
        raise WeightsError(f"The adapter {given} is a pickle, which can run code. Use safetensors.")
    if not file.is_file():
        raise WeightsError(
            f"There is no adapter {given}. Give a .safetensors file, or a folder with {LORA_FILE}."
        )
    return file


def _add_adapters(pipeline: DiffusionPipeline, adapters: Mapping[Path, float]) -> None:
    """Load LoRA adapters; raises WeightsError for one that is damaged or for another model."""
    if not adapters:
        return
    if importlib.util.find_spec("peft") is None:
        raise SettingsError(
            "LoRA adapters need the package peft: pip install 'feedback-shaping[lora]', or leave "
            "generator.options.adapters out."
        )
    names = [f"adapter_{i}" for i in range(len(adapters))]
    for name, file in zip(names, adapters, strict=True):
        try:
            with safe_open(file, "pt") as tensors:
                keys = list(tensors.keys())
            with warnings.catch_warnings():
                # Several adapters are meant here.
                warnings.filterwarnings("ignore", "Already found a `peft_config`", UserWarning)
                pipeline.load_lora_weights(file.parent, weight_name=file.name, adapter_name=name)
        except (SafetensorError, OSError) as error:
            raise WeightsError(f"The adapter {file} is damaged: {error} Copy it again.") from error
        except Exception as error:  # peft and diffusers raise many types for foreign shapes
            raise WeightsError(_foreign(file, pipeline, str(error))) from error
        wanted = [key for key in keys if re.search(r"lora.*(_A|_B|down|up)\b", key)]
        loaded = [
            key
            for part in _parts(pipeline).values()
            if isinstance(part, torch.nn.Module)
            for key, _ in part.named_parameters()
            if f".{name}." in key
        ]
        # diffusers leaves out, with a warning at most, what it has no place for.
        if not loaded or len(loaded) < len(wanted):
            told = f"{len(loaded)} of its {len(wanted)} tensors have a place there."
            raise WeightsError(_foreign(file, pipeline, told))
    pipeline.set_adapters(names, list(adapters.values()))


def _foreign(file: Path, pipeline: DiffusionPipeline, why: str) -> str:
    return (
        f"The adapter {file} is not for this model, a {type(pipeline).__name__}: {why[:300]} "
        "Choose an adapter that was trained on it."
    )


def _size(pipeline: DiffusionPipeline, size: int | Sequence[int] | None) -> dict[str, int]:
    """Return height and width as arguments of the call; raises SettingsError."""
    if size is None:
        return {}
    height, width = (size, size) if isinstance(size, int) else size
    scale = int(getattr(pipeline, "vae_scale_factor", 8))
    # Transformers take the latents in squares of two.
    unit = scale if "unet" in _parts(pipeline) else max(16, scale)
    if min(height, width) < unit or height % unit or width % unit:
        raise SettingsError(
            f"generator.options.size is {height}x{width}, but this model draws images whose height "
            f"and width are multiples of {unit}."
        )
    return {"height": height, "width": width}


def _dtype(name: DType, device: str) -> torch.dtype:
    """Return the precision: as set, or float32 on a CPU and the shorter one a GPU is good at."""
    if name != "auto":
        if name not in DTYPES:
            raise SettingsError(unknown("generator.options.dtype", name, ["auto", *DTYPES]))
        return DTYPES[name]
    if device == "cpu":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16


def _place(
    pipeline: DiffusionPipeline,
    device: str,
    offload: Offload,
    attention: str | None,
    compiled: bool,
) -> None:
    """Move a pipeline to its device and prepare its denoiser; raises SettingsError."""
    denoiser = _parts(pipeline).get("unet") or _parts(pipeline).get("transformer")
    if offload not in ("none", "model", "sequential"):
        known = ["none", "model", "sequential"]
        raise SettingsError(unknown("generator.options.offload", offload, known))
    if offload != "none" and device == "cpu":
        raise SettingsError("generator.options.offload needs a GPU; here the device is the CPU.")
    if attention is not None and denoiser is not None:
        try:
            denoiser.set_attention_backend(attention)
        except (ValueError, RuntimeError, ImportError) as error:
            raise SettingsError(
                f"generator.options.attention={attention!r} cannot be used: {error}"
            ) from error
    if offload == "model":
        pipeline.enable_model_cpu_offload(device=device)
    elif offload == "sequential":
        pipeline.enable_sequential_cpu_offload(device=device)
    else:
        pipeline.to(device)
    if compiled and denoiser is not None:
        denoiser.compile()


def build(
    image_shape: tuple[int, int, int],
    device: str = "cpu",
    weights: str = "",
    steps: int = 20,
    guidance: float = 5.0,
    guidance_interval: object = None,
    revision: str | None = None,
    variant: str | None = None,
    allow_network: bool = False,
    scheduler: str | None = None,
    size: int | Sequence[int] | None = None,
    negative_prompt: str = "",
    dtype: DType = "auto",
    compile: bool = False,  # noqa: A002 - the name of the setting
    attention: str | None = None,
    offload: Offload = "none",
    adapters: Mapping[str, float] | None = None,
    safety_checker: bool = False,
) -> Text2ImageGenerator:
    """Load the text-to-image model `weights`, a folder or a hub id with its `revision`.

    guidance_interval: of the MTDM alone, without effect here; variant: of the files, e.g. "fp16";
    scheduler: a class of diffusers that suits the model, None: its own; size: pixels of a square's
    side or (height, width), None: its own; dtype: auto is float32 on a CPU, else bfloat16 or
    float16; attention: a backend of diffusers; offload: parts wait in main memory; adapters: files
    or folders of LoRA weights, with how much each counts; safety_checker: the model's own, which
    blackens what it objects to.

    Raises WeightsError for a model or adapter that is missing, partial, pickled or foreign, and
    SettingsError for a setting that does not suit the model.
    """
    folder = _model_folder(weights, revision, variant, allow_network)
    index = _checked_index(folder)
    precision = _dtype(dtype, device)
    files = {_adapter_file(given): float(weight) for given, weight in (adapters or {}).items()}
    checked = {}
    if "safety_checker" in index and not safety_checker:
        checked = {"safety_checker": None, "requires_safety_checker": False}
    if safety_checker and index.get("safety_checker", [None])[0] is None:
        raise SettingsError(
            f"The model {folder} has no safety checker. Set generator.options.safety_checker=false."
        )
    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    try:
        pipeline = AutoPipelineForText2Image.from_pretrained(
            folder,
            dtype=precision,
            variant=variant,
            local_files_only=True,
            use_safetensors=True,
            **checked,
        )
    except Exception as error:  # diffusers, transformers and safetensors raise many types
        raise WeightsError(
            f"The model in {folder} is damaged, of another version, or draws no image from text: "
            f"{error} Copy it again, or choose another one."
        ) from error
    pipeline.set_progress_bar_config(disable=True)
    call = inspect.signature(pipeline.__call__).parameters
    if negative_prompt and "negative_prompt" not in call:
        raise SettingsError(
            f"A {type(pipeline).__name__} takes no negative prompt. Leave "
            "generator.options.negative_prompt out."
        )
    if scheduler is not None:
        suited = {kind.__name__: kind for kind in pipeline.scheduler.compatibles}
        if scheduler not in suited:
            raise SettingsError(unknown("generator.options.scheduler", scheduler, suited))
        pipeline.scheduler = suited[scheduler].from_config(pipeline.scheduler.config)
    sampling = {"num_inference_steps": steps, **_size(pipeline, size)}
    _add_adapters(pipeline, files)
    _place(pipeline, device, offload, attention, compile)
    if hasattr(pipeline, "encode_prompt"):
        pipeline.encode_prompt = _EncodedOnce(pipeline.encode_prompt)
    model_files = sorted(
        path for path in folder.rglob("*") if path.suffix in (".safetensors", ".json", ".txt")
    )
    digest = hashlib.sha256(_sha256(model_files).encode())
    for file, weight in files.items():
        digest.update(f"{_sha256([file])} {weight}".encode())
    return Text2ImageGenerator(
        pipeline, image_shape, digest.hexdigest(), sampling, guidance, negative_prompt
    )
