"""What both demo scenes share: coordinates, smooth noise, shading of a height map, and the camera.

Lengths are fractions of the image's side, so a scene looks the same at every size. S is the side in
pixels, a plane a float32 array (S, S) or a window of it, an image a float32 array (3, S, S) of
linear light, 1 being white paper under the nominal lamp.
"""

import itertools
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy import ndimage, special

Plane = npt.NDArray[np.floating]
Rng = np.random.Generator


class Light(NamedTuple):
    """A distant lamp: unit vector towards it (x right, y down, z to the camera)."""

    x: float
    y: float
    z: float


Stroke = tuple[npt.NDArray[np.float64], float, float]
"""A polyline's points (P, 2) as x, y; its width; its opacity."""


def lamp(rng: Rng, azimuth: float, elevation: float) -> Light:
    """The station's lamp, in degrees, as it hangs on that day."""
    turn, rise = np.radians(azimuth + rng.normal(0, 5)), np.radians(elevation + rng.normal(0, 2.5))
    return Light(
        float(np.cos(turn) * np.cos(rise)), float(np.sin(turn) * np.cos(rise)), float(np.sin(rise))
    )


def grid(size: int) -> tuple[Plane, Plane]:
    """Pixel centres: x as a row (1, S), y as a column (S, 1), the image's centre being 0."""
    axis = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32)
    return axis[None, :], axis[:, None]


def strips(size: int) -> list[slice]:
    """Rows in bands small enough that the planes of a long formula stay in the cache."""
    return [slice(start, min(start + 64, size)) for start in range(0, size, 64)]


def smoothstep(low: float, high: float, x: Plane) -> Plane:
    """0 below `low`, 1 above `high`, cubic between; `low > high` falls instead of rising."""
    t = np.clip((x - np.float32(low)) / np.float32(high - low), 0, 1)
    return t * t * (3 - 2 * t)


@lru_cache(maxsize=32)
def _spline(size: int, cells: int) -> npt.NDArray[np.float64]:
    """Weights (S, cells + 3) of the cubic B-splines over `cells` intervals at the pixel centres."""
    t = (np.arange(size) + 0.5) / size * cells
    distance = np.abs(t[:, None] - (np.arange(cells + 3) - 1))
    inner = 2 / 3 - distance**2 + distance**3 / 2
    outer = np.clip(2 - distance, 0, None) ** 3 / 6
    return np.where(distance < 1, inner, outer)


def smooth_noise(rng: Rng, size: int, cells: int) -> Plane:
    """A plane that wanders about 0 with variance about 1, on a length of 1 / `cells`."""
    knots = rng.standard_normal((cells + 3, cells + 3))
    weights = _spline(size, cells)
    rows = (2 * (weights @ knots)).astype(np.float32)
    columns = weights.T.astype(np.float32)
    plane = np.empty((size, size), np.float32)
    # Not one matrix product: a BLAS may sum in another order on another number of threads, and
    # within an interval only four splines are not 0.
    edges = [round(cell * size / cells) for cell in range(cells + 1)]
    for cell, (start, stop) in enumerate(itertools.pairwise(edges)):
        block = plane[:, start:stop]
        np.multiply(rows[:, cell, None], columns[cell, start:stop], out=block)
        for knot in range(cell + 1, cell + 4):
            block += rows[:, knot, None] * columns[knot, start:stop]
    return plane


def blur(plane: Plane, sigma: float) -> Plane:
    """Gaussian filter for a `sigma` of about one pixel; beyond the edge its pixels repeat."""
    reach = max(1, round(2.5 * sigma))
    weights = np.exp(-0.5 * (np.arange(reach + 1) / sigma) ** 2)
    weights = (weights / (2 * weights.sum() - 1)).astype(np.float32)
    padded = np.pad(plane, reach, "edge")
    filtered = np.empty_like(plane)
    for rows in strips(len(plane)):
        down = _filter_rows(padded[rows.start : rows.stop + 2 * reach], weights)
        filtered[rows] = _filter_rows(down.T, weights).T
    return filtered


def _filter_rows(plane: Plane, weights: Plane) -> Plane:
    """Symmetric filter of the first axis, `weights` from its middle outwards; no padding."""
    reach, count = len(weights) - 1, len(plane) - 2 * (len(weights) - 1)
    total = weights[0] * plane[reach : reach + count]
    for step in range(1, reach + 1):
        before, after = reach - step, reach + step
        total += weights[step] * (plane[before : before + count] + plane[after : after + count])
    return total


def grain(rng: Rng, size: int, sigma: float) -> Plane:
    """Fine noise of unit variance, smooth over `sigma` (a fraction of the side)."""
    noise = rng.random((size, size), dtype=np.float32) - np.float32(0.5)
    noise = blur(noise, max(sigma * size, 0.3))
    noise /= noise.std()
    return noise


def wobble(rng: Rng, angle: Plane, orders: range, amount: float) -> Plane:
    """A closed, irregular outline: a sum of sines of the angle, about `amount` in height."""
    total = np.zeros_like(angle)
    for order in orders:
        phase = rng.uniform(0, 2 * np.pi)
        weight = rng.normal() * amount / np.sqrt(len(orders))
        total += np.float32(weight) * np.sin(order * angle + np.float32(phase))
    return total


def blob(rng: Rng, x: Plane, y: Plane, radius: float, roughness: float) -> Plane:
    """Signed distance (negative inside) to an irregular, slightly oblong spot about (0, 0)."""
    turn = rng.uniform(0, np.pi)
    stretch = rng.uniform(1.0, 1.5)
    cos, sin, root = np.array([np.cos(turn), np.sin(turn), np.sqrt(stretch)], np.float32)
    along = (cos * x + sin * y) / root
    across = (cos * y - sin * x) * root
    outline = wobble(rng, np.arctan2(across, along), range(2, 9), roughness)
    return np.hypot(along, across) - np.float32(radius) * (1 + outline)


def strokes(size: int, lines: list[Stroke]) -> Plane:
    """Coverage 0..1 of the strokes, anti-aliased."""
    fine = 2
    sheet = Image.new("L", (size * fine, size * fine))
    pen = ImageDraw.Draw(sheet)
    for points, width, opacity in lines:
        path = [(float(px), float(py)) for px, py in (points + 0.5) * size * fine]
        pen.line(path, round(255 * opacity), max(1, round(width * size * fine)), joint="curve")
    return np.asarray(sheet.reduce(fine), dtype=np.float32) / 255


def curve(
    rng: Rng,
    start: npt.NDArray[np.float64],
    angle: float,
    length: float,
    bend: float,
    points: int = 24,
) -> npt.NDArray[np.float64]:
    """A path (points, 2) from `start` whose direction drifts by about `bend` radians in all."""
    turns = (
        angle
        + np.cumsum(rng.normal(0, bend / np.sqrt(points), points))
        + np.linspace(0, rng.normal(0, bend), points)
    )
    steps = np.stack([np.cos(turns), np.sin(turns)], axis=1) * length / points
    return start + np.cumsum(steps, axis=0) - steps[:1]


def slopes(height: Plane) -> tuple[Plane, Plane]:
    """dh/dx and dh/dy of a height map whose unit is the image's side."""
    size = height.shape[0]
    down, right = (np.asarray(slope) for slope in np.gradient(height, np.float32(1 / size)))
    return right, down


def lambert(right: Plane, down: Plane, light: Light) -> Plane:
    """Cosine between the lamp and the normal of a surface with these slopes, at least 0."""
    cosine = light.z - light.x * right - light.y * down
    return np.clip(cosine, 0, None) / np.sqrt(1 + right * right + down * down)


def cast_shadow(height: Plane, light: Light, reach: float, softness: float) -> Plane:
    """Fraction of the light that arrives (0..1), by looking towards the lamp in a few steps."""
    full = height.shape[0]
    height = height[::2, ::2]  # half the resolution will do for what is soft
    size = height.shape[0]
    flat = float(np.hypot(light.x, light.y))
    blocked = np.zeros_like(height)
    for step in np.linspace(0, 1, 7)[1:] ** 1.5 * reach:
        dx, dy = round(light.x / flat * step * size), round(light.y / flat * step * size)
        if dx == 0 and dy == 0:
            continue
        run = float(np.hypot(dx, dy)) / size
        ahead = np.roll(height, (-dy, -dx), axis=(0, 1))
        np.maximum(blocked, ahead - height - np.float32(run * light.z / flat), out=blocked)
    shadow = ndimage.uniform_filter(1 - smoothstep(0, softness, blocked), max(2, size // 100))
    return _doubled(shadow, full)


def occlusion(height: Plane, radius: float, strength: float) -> Plane:
    """Ambient light (0..1): hollows narrower than about `radius` get less of it."""
    coarse = height[::2, ::2]
    around = ndimage.gaussian_filter(coarse, radius * coarse.shape[0], truncate=2.5)
    light = 1 / (1 + np.float32(strength / radius) * np.clip(around - coarse, 0, None))
    return _doubled(light, height.shape[0])


def _doubled(plane: Plane, size: int) -> Plane:
    return plane.repeat(2, axis=0)[:size].repeat(2, axis=1)[:, :size]


def develop(image: Plane, rng: Rng) -> Plane:
    """The camera without its noise: defocus, fall-off, exposure, white balance, tone curve.

    Takes linear light (3, S, S), returns grey values 0..255 (S, S, 3) as float32, not rounded.
    """
    size = image.shape[-1]
    defocus = rng.uniform(0.0010, 0.0016) * size
    x, y = grid(size)
    tilt = rng.normal(0, 0.05, 2).astype(np.float32)
    falloff = 1 - np.float32(0.45) * (x * x + y * y) + tilt[0] * x + tilt[1] * y
    gain = np.exp(rng.normal(0, 0.035) + rng.normal(0, 0.012, 3)).astype(np.float32)
    values = np.empty((size, size, 3), np.float32)
    for channel in range(3):
        light = blur(image[channel], defocus)
        for rows in strips(size):
            band = light[rows] * (falloff[rows] * gain[channel])
            # A film-like shoulder keeps highlights from clipping hard, as a camera does.
            band *= (1 + band / 6) / (1 + band * np.float32(0.42))
            values[rows, :, channel] = 255 * np.sqrt(np.clip(band, 0, 1))
    return values


def digitise(values: Plane, rng: Rng) -> npt.NDArray[np.uint8]:
    """Grey values with the sensor's noise, rounded to uint8 (S, S, 3)."""
    # One of 256 quantiles of the normal distribution: as good after rounding, and much faster.
    levels = (rng.uniform(1.2, 2.2) * _quantiles()).astype(np.float32)
    picks = rng.integers(256, size=values.shape, dtype=np.uint8)
    image = np.empty(values.shape, np.uint8)
    for rows in strips(len(values)):
        image[rows] = np.clip(np.rint(values[rows] + levels[picks[rows]]), 0, 255)
    return image


@lru_cache(maxsize=1)
def _quantiles() -> npt.NDArray[np.float64]:
    return np.asarray(special.ndtri((np.arange(256) + 0.5) / 256))
