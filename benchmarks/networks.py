"""The networks of a generator: recording, replaying and timing of their calls."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import torch

from memory.errors import SettingsError
from tools.generators import Generator

DENOISERS = ("unet", "transformer", "controlnet")


def networks(generator: Generator) -> dict[str, torch.nn.Module]:
    """Return the networks used for drawing, by name; raise SettingsError if there are none.

    generator: A generator with a diffusers pipeline.
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


def now(device: str) -> float:
    """Return the seconds of a clock after the device has finished all pending work."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return time.perf_counter()


class Calls:
    """Hooks on networks that record their inputs or measure their time."""

    def __init__(self, watched: dict[str, torch.nn.Module], device: str) -> None:
        self._watched, self._device = watched, device
        self.recorded: list[tuple[torch.nn.Module, tuple[Any, ...], dict[str, Any]]] = []
        self.elapsed_s = dict.fromkeys(watched, 0.0)

    def record(self, work: Callable[[], object]) -> None:
        """Run `work` and record the inputs of all calls."""

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
        """Run `work` and add up the seconds spent in each network."""
        hooks = []
        for name, module in self._watched.items():

            def begin(*_: object, name: str = name) -> None:
                self.elapsed_s[name] -= now(self._device)

            def end(*_: object, name: str = name) -> None:
                self.elapsed_s[name] += now(self._device)

            hooks += [module.register_forward_pre_hook(begin), module.register_forward_hook(end)]
        work()
        for hook in hooks:
            hook.remove()

    @torch.inference_mode()
    def replay(self) -> None:
        """Call the networks again with the recorded inputs."""
        for module, args, kwargs in self.recorded:
            module(*args, **kwargs)
