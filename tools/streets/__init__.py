"""Renderer `streets`: an urban scene seen from a car, with exact labels.

Geometry is rendered first: planes, axis-aligned boxes, vertical cylinders and ellipsoids are
intersected by one ray per pixel centre and merged by a z-buffer (slab test: Kay and Kajiya 1986).
Colour is computed in one deferred pass over the buffers (light, shadows, wet roads, snow, fog after
Koschmieder, glow, lens, sensor), so light and weather cannot affect labels. Geometry, people and
colours have separate random streams: with the same seed, another light or weather leaves the street
unchanged.

World axes: x right, y down, z along the street, in metres, origin at the camera. Camera axes:
x right, y down, z forward; `depth` is the camera's z. Traffic keeps left, as in CamVid.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memory.errors import DataError
from tools.streets.ground import draw_ground
from tools.streets.light import develop, illuminate
from tools.streets.plan import Street, Style
from tools.streets.rays import (
    FAR_M,
    HEIGHT,
    WIDTH,
    Buffers,
    Camera,
    Surface,
    draw_solid,
    focal_px,
    windows,
)

__all__ = [
    "CLASS_NAMES", "FAR_M", "HEIGHT", "NATURAL_PRIOR", "PRIOR", "WIDTH", "Camera", "Scene", "Style",
    "Surface", "focal_px", "render", "scene_attributes", "stack", "visible",
]  # fmt: skip

CLASS_NAMES = tuple(surface.name.lower() for surface in Surface)

PRIOR: dict[str, dict[str, float]] = {
    "light": {"day": 0.4, "dusk": 0.3, "night": 0.3},
    "weather": {"clear": 0.34, "rain": 0.22, "fog": 0.22, "snow": 0.22},
    "traffic": {"empty": 0.25, "light": 0.4, "dense": 0.35},
    "pedestrians": {"none": 0.3, "few": 0.4, "many": 0.3},
    "layout": {"straight": 0.6, "intersection": 0.4},
}
"""Probability of each value that the caller does not set, for style `plain`."""

NATURAL_PRIOR: dict[str, dict[str, float]] = {
    "light": {"day": 0.72, "dusk": 0.17, "night": 0.11},
    "weather": {"clear": 0.68, "rain": 0.18, "fog": 0.07, "snow": 0.07},
    "traffic": {"empty": 0.2, "light": 0.6, "dense": 0.2},
    "pedestrians": {"none": 0.5, "few": 0.38, "many": 0.12},
    "layout": {"straight": 0.75, "intersection": 0.25},
}
"""The same for style `shifted`: long-tailed, as in real traffic."""

CYCLISTS = ("none", "some")
"""Values of `cyclists`; if it is not set, a cyclist is tried with probability 0.3."""

DENSE_SHARE = 0.055
MANY_SHARE = 0.023
"""Smallest share of pixels at which cars count as dense and pedestrians as many."""


@dataclass(frozen=True)
class Scene:
    """One rendered street.

    Attributes:
        image: uint8, (3, h, w).
        segmentation: uint8, (h, w), ids of `Surface`.
        depth: float32, (h, w), metres along the optical axis, sky `FAR_M`.
        normals: float32, (3, h, w), unit vectors in camera axes that face the camera, sky
            (0, 0, -1).
        attributes: Those of `PRIOR`, set or random, and `cyclists` if it was set.
        camera: The camera.
    """

    image: NDArray[np.uint8]
    segmentation: NDArray[np.uint8]
    depth: NDArray[np.float32]
    normals: NDArray[np.float32]
    attributes: Mapping[str, str]
    camera: Camera


def stack(scenes: Sequence[Scene]) -> tuple[NDArray[np.uint8], dict[str, NDArray[Any]]]:
    """Return the images of scenes, (n, 3, h, w), and their labels by kind, as in `Samples`."""
    kinds = ("segmentation", "depth", "normals")
    labels = {kind: np.stack([getattr(scene, kind) for scene in scenes]) for kind in kinds}
    return np.stack([scene.image for scene in scenes]), labels


def scene_attributes(
    attributes: Mapping[str, str], seed: int, style: Style = "plain"
) -> dict[str, str]:
    """Sample missing attributes from the style's prior; raise DataError for unknown ones."""
    possible: dict[str, Iterable[str]] = {**PRIOR, "cyclists": CYCLISTS}
    for key, value in attributes.items():
        if value not in possible.get(key, ()):
            known = ", ".join(f"{name}: {'|'.join(values)}" for name, values in possible.items())
            raise DataError(f"unknown street attribute {key}={value!r} (known: {known})")
    rng = random.Random(f"{seed} attributes")
    drawn = {
        key: rng.choices([*values], [*values.values()])[0]
        for key, values in (NATURAL_PRIOR if style == "shifted" else PRIOR).items()
    }
    return drawn | dict(attributes)


def visible(segmentation: NDArray[np.uint8]) -> dict[str, str]:
    """Return the values of traffic and pedestrians by their share of the labelled pixels."""
    cars = float((segmentation == Surface.CAR).mean())
    people = float((segmentation == Surface.PEDESTRIAN).mean())
    return {
        "traffic": "empty" if cars == 0 else "light" if cars < DENSE_SHARE else "dense",
        "pedestrians": "none" if people == 0 else "few" if people < MANY_SHARE else "many",
    }


def render(
    attributes: Mapping[str, str],
    seed: int,
    width: int = WIDTH,
    height: int = HEIGHT,
    style: Style = "plain",
) -> Scene:
    """Render one street.

    Args:
        attributes: Attributes of the scene; the others are random, see `scene_attributes`.
        seed: Seed of the scene, which is the same at every size.
        width: 96 times a whole number.
        height: 64 times the same number.
        style: `shifted` has other colours and textures, and the artefacts of a cheap camera.

    Raises:
        DataError: The size, an attribute or a value is not supported.
    """
    if width % WIDTH or height % HEIGHT or width // WIDTH != height // HEIGHT or width < WIDTH:
        raise DataError(f"a street is 96x64 times a whole number, not {width}x{height}")
    complete = scene_attributes(attributes, seed, style)
    street = Street(complete, seed, style)
    buffers = Buffers(street.camera, width, height)
    draw_ground(buffers, street)
    # From near to far, so that hidden surfaces are not painted.
    solids = sorted(street.solids, key=lambda solid: solid.low[2])
    for solid, window in zip(solids, windows(solids, buffers), strict=True):
        draw_solid(buffers, solid, window)
    colour = illuminate(buffers, street)
    image = develop(colour, np.random.default_rng([seed, 1]), style)
    normals = np.tensordot(street.camera.rotation().T, buffers.normal, 1).astype("f4")
    normals[:, buffers.label == Surface.SKY] = np.array([[0], [0], [-1]], "f4")
    return Scene(image, buffers.label, buffers.depth, normals, complete, street.camera)
