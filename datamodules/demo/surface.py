"""A machined part lying on something: its coordinates, its surface, and the light on it."""

from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from datamodules.demo import optics
from datamodules.demo.optics import Light, Plane

Window = tuple[slice, slice]


@dataclass(frozen=True)
class Frame:
    """The part's own coordinates at the pixels of a window, the part lying turned and shifted."""

    u: Plane
    v: Plane
    r: Plane
    pixels: float  # in one unit of length

    def at(self, window: Window) -> "Frame":
        return replace(self, u=self.u[window], v=self.v[window], r=self.r[window])

    def square(self, centre: tuple[float, float], reach: float) -> Window:
        """Rows and columns that hold what lies within `reach` of a point (the turn is small)."""
        middle = self.r.shape[0] // 2
        columns = np.flatnonzero(np.abs(self.u[middle] - centre[0]) < reach)
        rows = np.flatnonzero(np.abs(self.v[:, middle] - centre[1]) < reach)
        return slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)

    def cover(self, distance: Plane) -> Plane:
        """Coverage 0..1 of a shape from its signed distance, one pixel soft."""
        return np.clip(np.float32(0.5) - distance * np.float32(self.pixels), 0, 1)


class Surface(NamedTuple):
    """What the light falls on; its planes are changed in place. Heights count from the lugs."""

    relief: Plane  # finite slopes: gives the normals
    drop: Plane  # how much deeper it lies in truth, beyond an edge: only casts shadows
    colour: Plane  # (3, S, S)
    turned: Plane  # 0..1, how far the highlight is that of concentric grooves
    gloss: Plane  # strength of the highlight elsewhere

    def at(self, window: Window) -> "Surface":
        return Surface(*(plane[..., window[0], window[1]] for plane in self))


def paint(colour: Plane, alpha: Plane, over: Plane) -> None:
    """Blend `over`, one colour (3,) or an image (3, S, S), into `colour` (3, S, S) in place."""
    for channel in range(3):
        colour[channel] += alpha * (over[channel] - colour[channel])


def shade(scene: Surface, frame: Frame, window: Window, face: Window, light: Light) -> Plane:
    """Light on the whole scene, and highlights on the part: the image (3, S, S).

    The part lies in `window` of the scene, where `frame` is; what is turned lies in the window
    `face` of that.
    """
    part = scene.at(window)
    size = scene.relief.shape[0]
    right, down = optics.slopes(scene.relief)
    height = scene.relief - scene.drop
    sun = optics.cast_shadow(height, light, 0.09, 0.012)
    sky = optics.occlusion(height, 0.02, 0.55)
    image = np.empty_like(scene.colour)
    for rows in optics.strips(size):
        direct = optics.lambert(right[rows], down[rows], light) * sun[rows]
        image[:, rows] = scene.colour[:, rows] * (0.30 * sky[rows] + 0.95 * direct)

    shine = np.float32(0.25) * sky[window] + np.float32(0.75) * sun[window]
    shine *= _mirror(part, frame, right[window], down[window], face, light)
    metal = image[:, window[0], window[1]]
    for rows in optics.strips(len(shine)):
        turned, colour = part.turned[rows], part.colour[:, rows]
        # A metal's reflection has its colour, a coated surface's is partly white.
        tint = np.minimum(colour * np.float32(1.25), 1)
        tint += np.float32(0.35) * (1 - turned) * (1 - tint)
        metal[:, rows] *= 1 - np.float32(0.62) * turned
        metal[:, rows] += shine[rows] * tint
    return image


def _mirror(
    part: Surface, frame: Frame, right: Plane, down: Plane, face: Window, light: Light
) -> Plane:
    """The lamp's reflection: a round lobe, and on turned faces the bow tie of their grooves."""
    # The lamp is near: the half vector to it, as a slope, drifts over the field.
    drift = 0.44
    hx = np.float32(light.x / (1 + light.z)) - drift * frame.u + right
    hy = np.float32(light.y / (1 + light.z)) - drift * frame.v + down
    mirror = np.exp(-(hx * hx + hy * hy) / (2 * 0.30**2)) * 2 * part.gloss * (1 - part.turned)
    u, v, r = frame.u[face], frame.v[face], np.maximum(frame.r[face], 1e-3)
    hx, hy = hx[face] / r, hy[face] / r
    across, along = u * hy - v * hx, u * hx + v * hy
    tie = np.exp(-across * across / (2 * 0.11**2))
    tie += np.float32(0.35) * np.exp(-along * along / (2 * 0.07**2))
    mirror[face] += part.turned[face] * (np.float32(0.10) + np.float32(0.95) * tie)
    return mirror
