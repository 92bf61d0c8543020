"""The generator `toy`, which never comes to an end on one node of a Ray cluster."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from tools.data.drawn import Drawn, ImageRequest
from tools.generators.toy import ToyGenerator


class StallingGenerator(ToyGenerator):
    """Leaves the file `stalls` in `folder` and hangs on the node that the file `node` names."""

    def __init__(self, image_shape: tuple[int, int, int], folder: str) -> None:
        super().__init__(image_shape, 1.0)
        self._folder = Path(folder)

    def draw(self, requests: Sequence[ImageRequest]) -> Drawn:
        import ray

        if ray.get_runtime_context().get_node_id() == (self._folder / "node").read_text("ascii"):
            (self._folder / "stalls").touch()
            time.sleep(10_000)
        return super().draw(requests)


def build(
    image_shape: tuple[int, int, int], device: str = "cpu", folder: str = "", **options: object
) -> StallingGenerator:
    return StallingGenerator(image_shape, folder)
