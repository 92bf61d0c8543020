"""Ray casting: camera, buffers per pixel, and intersection of rays with solids.

One ray per pixel centre and a z-buffer; boxes by the slab test (Kay and Kajiya 1986).
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, cached_property
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.floating[Any]]
Vector = tuple[float, float, float]
Colour = tuple[float, float, float]
Mask = NDArray[np.bool_]
Shape = Literal["box", "ellipsoid", "cylinder"]


class Surface(IntEnum):
    """Class ids of pixels: the eleven classes of CamVid."""

    SKY = 0
    BUILDING = 1
    POLE = 2
    ROAD = 3
    PAVEMENT = 4
    TREE = 5
    SIGN = 6
    FENCE = 7
    CAR = 8
    PEDESTRIAN = 9
    BICYCLIST = 10


WIDTH, HEIGHT = 96, 64
"""Size of the smallest image; others are whole multiples of it."""
FAR_M = 200.0
"""Depth of the sky and largest depth of the ground."""


@dataclass(frozen=True)
class Camera:
    """A pinhole camera without distortion, with the principal point at the image centre.

    Attributes:
        height_m: Height above the road.
        pitch_rad: Pitch; positive looks down.
        yaw_rad: Yaw; positive looks right.
    """

    height_m: float
    pitch_rad: float
    yaw_rad: float

    def rotation(self) -> Array:
        """Return the rotation, (3, 3), from camera to world directions."""
        cp, sp = math.cos(self.pitch_rad), math.sin(self.pitch_rad)
        cy, sy = math.cos(self.yaw_rad), math.sin(self.yaw_rad)
        return np.array([[cy, -sy * sp, sy * cp], [0, cp, sp], [-sy, -cy * sp, cy * cp]], "f4")


def focal_px(width: int) -> float:
    """Return the focal length in pixels; the horizontal field of view is always 59.5 degrees."""
    return 84.0 * width / WIDTH


@dataclass(frozen=True)
class Spot:
    """A rectangle on the ground."""

    x: float
    z: float
    half_x: float
    half_z: float

    def overlaps(self, other: Spot) -> bool:
        """Return whether two rectangles are closer than 0.2 m."""
        gap_x = abs(self.x - other.x) - self.half_x - other.half_x
        gap_z = abs(self.z - other.z) - self.half_z - other.half_z
        return gap_x < 0.2 and gap_z < 0.2

    def hides(self, other: Spot) -> bool:
        """Return whether this rectangle hides more than a quarter of the other."""
        (a, b), (c, d) = self.span, other.span
        return self.z - self.half_z < other.z and min(b, d) - max(a, c) > 0.25 * (d - c)

    @cached_property
    def span(self) -> tuple[float, float]:
        """Smallest and largest x / z of the corners, the tangents of horizontal angles."""
        ends = [
            (self.x + sx * self.half_x) / max(self.z + sz * self.half_z, 0.5)
            for sx in (-1, 1)
            for sz in (-1, 1)
        ]
        return min(ends), max(ends)


class Texture(NamedTuple):
    """Appearance of a surface where rays hit it.

    Attributes:
        colour: Albedo, (3, h, w).
        glow: Emitted light, (3, h, w); None: none.
        solid: Mask of the surface without its holes, (h, w); None: no holes.
    """

    colour: Array
    glow: Array | None = None
    solid: NDArray[np.bool_] | None = None


class RayHit(NamedTuple):
    """Intersections of rays with a solid.

    Attributes:
        points: World coordinates, (3, h, w), metres.
        normal: Unit vectors, (3, h, w).
        depth: Depth along the optical axis, (h, w), metres.
    """

    points: Array
    normal: Array
    depth: Array


Paint = Callable[[RayHit], Texture]


@dataclass(frozen=True)
class Solid:
    """A box between two corners in world axes, or the ellipsoid or vertical cylinder inside it."""

    low: Vector
    high: Vector
    label: Surface
    colour: Colour
    shape: Shape = "box"
    paint: Paint | None = None


@cache
def camera_rays(width: int, height: int) -> Array:
    """Return directions through all pixel centres with z = 1, (3, h, w), in camera axes."""
    x = (np.arange(width) + 0.5 - width / 2) / focal_px(width)
    y = (np.arange(height) + 0.5 - height / 2) / focal_px(width)
    return np.stack([*np.meshgrid(x, y), np.ones((height, width))]).astype("f4")


def rgb(colour: Colour | Vector) -> Array:
    """Return a colour as an array that broadcasts to (3, h, w)."""
    return np.array(colour, "f4")[:, None, None]


class Buffers:
    """Geometry and colour per pixel; the world position of a pixel is `depth` times its ray."""

    def __init__(self, camera: Camera, width: int, height: int) -> None:
        self.camera, self.focal = camera, focal_px(width)
        rotation = camera.rotation()
        rays = (rotation @ camera_rays(width, height).reshape(3, -1)).reshape(3, height, width)
        self.rays: Array = np.where(np.abs(rays) < 1e-6, np.float32(1e-6), rays)
        self.inverse: Array = 1 / self.rays
        self.depth: Array = np.full((height, width), FAR_M, "f4")
        self.label: NDArray[np.uint8] = np.full((height, width), Surface.SKY, "u1")
        self.normal: Array = np.zeros((3, height, width), "f4")
        self.albedo: Array = np.zeros((3, height, width), "f4")
        self.glow: Array = np.zeros((3, height, width), "f4")


def windows(solids: Sequence[Solid], buffers: Buffers) -> Iterator[tuple[slice, slice]]:
    """Yield the rows and columns of the image that each solid can cover."""
    corners = np.array([(s.low, s.high) for s in solids], "f4").reshape(-1, 2, 3)
    corners[:, :, 2] = np.maximum(corners[:, :, 2], 0.3)
    which = np.array([[i >> k & 1 for k in range(3)] for i in range(8)])
    points = corners[:, which, np.arange(3)] @ buffers.camera.rotation()
    pixels = points[..., :2] / np.maximum(points[..., 2:], 0.2) * buffers.focal
    height, width = buffers.depth.shape
    middle = np.array([width / 2, height / 2])
    first = np.clip(np.floor(pixels.min(1) + middle), 0, (width, height)).astype(int)
    last = np.clip(np.ceil(pixels.max(1) + middle), 0, (width, height)).astype(int)
    for (x0, y0), (x1, y1) in zip(first.tolist(), last.tolist(), strict=True):
        yield slice(y0, y1), slice(x0, x1)


def draw_solid(buffers: Buffers, solid: Solid, window: tuple[slice, slice]) -> None:
    """Draw a solid into all buffers where it is nearer than their content."""
    rows, columns = window
    if rows.start >= rows.stop or columns.start >= columns.stop:
        return
    here = (slice(None), rows, columns)
    rays, before = buffers.rays[here], buffers.depth[window]
    meet = _meet_box if solid.shape == "box" else _meet_round
    depth, normal, visible = meet(solid, rays, buffers.inverse[here])
    visible &= (depth < before) & (depth > 0.2)
    if not visible.any():
        return
    if solid.paint:
        texture = solid.paint(RayHit(depth * rays, normal, depth))
        if texture.solid is not None:
            visible &= texture.solid
    else:
        texture = Texture(rgb(solid.colour))
    np.copyto(before, depth, where=visible)
    np.copyto(buffers.label[window], np.uint8(solid.label), where=visible)
    np.copyto(buffers.normal[here], normal, where=visible)
    np.copyto(buffers.albedo[here], texture.colour, where=visible)
    np.copyto(buffers.glow[here], 0 if texture.glow is None else texture.glow, where=visible)


_Meeting = tuple[Array, Array, NDArray[np.bool_]]


def _meet_box(solid: Solid, rays: Array, inverse: Array) -> _Meeting:
    a, b = rgb(solid.low) * inverse, rgb(solid.high) * inverse
    enter = np.minimum(a, b)
    depth = enter.max(0)
    visible = depth < np.maximum(a, b).min(0)
    normal = np.where(enter == depth, -np.sign(rays), np.float32(0))
    return depth, normal, visible


def _meet_round(solid: Solid, rays: Array, _: Array) -> _Meeting:
    low, high = np.array(solid.low, "f4"), np.array(solid.high, "f4")
    scale = 2 / (high - low)
    if solid.shape == "cylinder":
        scale[1] = 0
    # After scaling the solid is a unit ball, or a cylinder of radius 1, around `middle`.
    scaled = rays * scale[:, None, None]
    middle = (low + high) / 2 * scale
    a = np.einsum("ijk,ijk->jk", scaled, scaled)
    b = np.einsum("ijk,i->jk", scaled, middle)
    root = b * b - a * (middle @ middle - 1)
    depth = (b - np.sqrt(np.maximum(root, 0))) / a
    visible = root > 0
    if solid.shape == "cylinder":
        y = depth * rays[1]
        visible &= (y > low[1]) & (y < high[1])
    normal = (depth * scaled - middle[:, None, None]) * scale[:, None, None]
    normal /= np.sqrt(np.einsum("ijk,ijk->jk", normal, normal))
    return depth, normal, visible
