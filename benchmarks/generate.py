"""How much of the hardware's speed a generator keeps.

    python -m benchmarks.generate --preset solar --images 64
    python -m benchmarks.generate --model FOLDER --set generator.options.dtype=float16

Draws a batch as a session does (prompts to a parquet shard, without the audit) in turn with a bare
loop: the same calls of the denoiser, and of the VAE's decoder where there is one, on the inputs
that they had, and nothing else. Prints images per second of both, the share of time in the
denoiser, and the ratio. The best of several turns counts: what disturbs only ever costs time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from benchmarks.harness import Benchmark, Figures, options, uniform_prompts
from memory.errors import SettingsError
from tools.data.shards import write_shard
from tools.generate_batch import draw
from tools.generators import Generator

DENOISERS = ("unet", "transformer", "controlnet")


def networks(generator: Generator) -> dict[str, torch.nn.Module]:
    """Return the networks that do the drawing, by name; raises SettingsError where there are none.

    generator: one that has a diffusers pipeline.
    """
    pipeline = getattr(generator, "pipeline", None)
    if pipeline is None:
        raise SettingsError(
            f"The generator {generator.name!r} has no network. Choose a preset with mtdm or "
            "text2image, or give --model."
        )
    parts = pipeline.components
    modules = {name: parts[name] for name in DENOISERS if parts.get(name) is not None}
    if parts.get("vae") is not None:
        modules["vae"] = parts["vae"].decoder
    return modules


def _now(device: str) -> float:
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


class Calls:
    """Watches networks: records what they are called with, or how long they take."""

    def __init__(self, watched: dict[str, torch.nn.Module], device: str) -> None:
        self._watched, self._device = watched, device
        self.recorded: list[tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]] = []
        self.elapsed_s = dict.fromkeys(watched, 0.0)

    def record(self, work: Callable[[], object]) -> None:
        """Do `work` and keep the inputs of all calls."""

        def keep(module: torch.nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            self.recorded.append((module, args, kwargs))

        hooks = [
            module.register_forward_pre_hook(keep, with_kwargs=True)
            for module in self._watched.values()
        ]
        work()
        for hook in hooks:
            hook.remove()

    def measure(self, work: Callable[[], object]) -> None:
        """Do `work` and add up the seconds in each network."""
        hooks = []
        for name, module in self._watched.items():

            def begin(*_: object, name: str = name) -> None:
                self.elapsed_s[name] -= _now(self._device)

            def end(*_: object, name: str = name) -> None:
                self.elapsed_s[name] += _now(self._device)

            hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
        work()
        for hook in hooks:
            hook.remove()

    @torch.inference_mode()
    def replay(self) -> None:
        """Call the networks again as recorded."""
        for module, args, kwargs in self.recorded:
            module(*args, **kwargs)


def main() -> None:
    """Run the benchmark."""
    parser = options(__doc__, seeds=1)
    parser.add_argument("--model", help="a diffusers text-to-image model, drawn by text2image")
    parser.add_argument("--images", type=int, default=64, help="of one batch")
    parser.add_argument("--turns", type=int, default=5)
    chosen = parser.parse_args()
    named = ["generator.name=text2image", f"generator.weights={chosen.model}"]
    bench = Benchmark(chosen, named if chosen.model else [])
    components, device = bench.components, bench.components.device
    generator, names = components.bare_generator, list(components.target.class_names)

    def figures(seed: int) -> Figures:
        wanted = uniform_prompts(components, chosen.images, seed)

        def whole() -> None:
            samples, _ = draw(wanted, seed, generator, names)
            texts, ids = [p.text for p, _ in wanted], [p.id for p, _ in wanted]
            write_shard(samples, texts, ids, [index for _, index in wanted], names)

        calls = Calls(networks(generator), device)
        calls.record(whole)
        calls.replay()
        times: dict[str, list[float]] = {"whole": [], "bare": []}
        for _ in range(chosen.turns):
            for name, work in (("whole", whole), ("bare", calls.replay)):
                begun = _now(device)
                work()
                times[name].append(_now(device) - begun)
        begun = _now(device)
        calls.measure(whole)
        measured_s = _now(device) - begun
        best_s = {name: min(values) for name, values in times.items()}
        denoiser_s = sum(s for name, s in calls.elapsed_s.items() if name != "vae")
        speeds = {
            "images per second": len(wanted) / best_s["whole"],
            "bare loop, images per second": len(wanted) / best_s["bare"],
            "ratio to the bare loop": best_s["bare"] / best_s["whole"],
            "share of time in the denoiser": denoiser_s / measured_s,
        }
        if device.startswith("cuda"):
            speeds["peak memory, GiB"] = torch.cuda.max_memory_allocated() / 2**30
        return {f"{chosen.model or chosen.preset}, {len(wanted)} images at once": speeds}

    # Not resumed: a speed is measured anew.
    bench.means(["drawn", "figure"], [figures(chosen.first_seed)])


if __name__ == "__main__":
    main()
