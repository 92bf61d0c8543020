"""The ground: road with markings, kerbs and pavements."""

from __future__ import annotations

import numpy as np

from tools.streets.plan import Street
from tools.streets.rays import FAR_M, Array, Buffers, Mask, Surface, rgb
from tools.streets.textures import fraction, mix, noise


def draw_ground(buffers: Buffers, street: Street) -> None:
    """Draw road, kerbs and pavements: two horizontal planes, and the step between them."""
    (left, right), height = street.edges, buffers.camera.height_m

    def on_road(x: Array, z: Array) -> Mask:
        inside: Mask = (x > left) & (x < right)
        if street.has_crossing:
            inside |= (z > street.crossing[0]) & (z < street.crossing[1])
        return inside

    dx, _, dz = buffers.rays
    down = np.where(buffers.rays[1] > 0, buffers.inverse[1], np.float32(1e6))
    low, high = height * down, (height - street.kerb_m) * down
    raised = ~on_road(high * dx, high * dz)
    step = ~raised & ~on_road(low * dx, low * dz)
    on_left = low * dx < left
    side = np.where(on_left, left, right) * buffers.inverse[0]
    across = (side < high) | (side > low)  # no hit at the side, so at the far end of a crossing
    face = np.where(across, street.crossing[1] * buffers.inverse[2], side)
    depth = np.where(raised, high, np.where(step, face, low))
    visible = depth < FAR_M
    np.copyto(buffers.depth, depth, where=visible)
    buffers.label[visible] = np.where(raised | step, Surface.PAVEMENT, Surface.ROAD)[visible]
    buffers.normal[1] = np.where(step, 0, -1)
    buffers.normal[0] = np.where(step & ~across, np.where(on_left, 1, -1), 0)
    buffers.normal[2] = np.where(step & across, -1, 0)
    np.copyto(buffers.albedo, _ground_colour(buffers, street, raised, step), where=visible)


def _ground_colour(buffers: Buffers, street: Street, raised: Mask, step: Mask) -> Array:
    palette = street.palette
    x, z = buffers.depth * buffers.rays[0], buffers.depth * buffers.rays[2]
    grain = 1 + palette.grain * (noise(x * 6, z * 3) - 0.5 + noise(x / 2 + 99, z / 5) - 0.5)
    slabs = 0.9 + 0.1 * noise(x, z)
    colour = np.where(raised, rgb(palette.pavement) * slabs, rgb(palette.road)) * grain
    colour = np.where(step, rgb(palette.pavement) * 1.3, colour)
    pixel_m = np.maximum(buffers.depth / buffers.focal, 0.01)

    def stripe(value: Array, middle: float, width: float) -> Array:
        covered = (width / 2 - np.abs(value - middle)) / pixel_m + 0.5
        drawn: Array = np.clip(covered, 0, 1) * np.minimum(width / pixel_m, 1)
        return drawn

    dashes = fraction(z / 6 + 0.3) < 0.5
    paint = stripe(x, street.middle_x, 0.16) * dashes
    for edge, inward in zip(street.edges, (1, -1), strict=True):
        paint = np.maximum(paint, 0.6 * stripe(x, edge + 0.35 * inward, 0.12))
    if street.has_crossing:
        near = street.crossing[0]
        paint *= (z < near - 4) | (z > street.crossing[1])
        zebra = (np.abs(z - near + 1.8) < 1.3) & (fraction(x / 1.1) < 0.5)
        stop = (np.abs(z - near + 3.9) < 0.25) & (x < street.middle_x)
        paint = np.maximum(paint, zebra | stop)
    return mix(colour, 0.62, paint * ~(raised | step))
