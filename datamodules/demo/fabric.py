"""A plain-woven two-tone cloth: the demo's texture, never twice in the same place.

Warp and weft yarns are rounded bars that pass over and under each other, drawn with a random
phase, a slight turn, a smooth distortion, uneven yarns and soft creases. A defect moves, cuts or
colours yarns before the light is computed. Lengths inside the weave count yarns: one unit is the
pitch from one yarn to the next.
"""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from datamodules.demo import optics
from datamodules.demo.optics import Light, Plane, Rng, smoothstep

KINDS = ("hole", "pulled_thread", "weave_fault", "oil", "fleck", "cut")

YARNS = 44  # side by side across the image
SPARE = 20  # more of them in the tables, for what turn, phase and distortion bring in
WARP = np.array([0.085, 0.165, 0.29], np.float32)
WEFT = np.array([0.50, 0.49, 0.455], np.float32)
BELOW = np.array([0.045, 0.04, 0.036], np.float32)
OIL = np.array([0.62, 0.52, 0.36], np.float32)
FLECKS = np.array([[0.42, 0.05, 0.04], [0.03, 0.03, 0.03], [0.45, 0.32, 0.05]], np.float32)
_SIGN = np.tile(np.array([1, -1], np.float32), (YARNS + SPARE) // 2)
WAVE, ROUND = 0.20, 0.42  # how far a yarn rises at a crossing, and its own half height


@dataclass
class Weave:
    """The cloth before it is drawn: where each pixel lies among the yarns, and what was done."""

    u: Plane  # across the warp
    v: Plane  # across the weft
    float_weft: Plane | None  # 0..1, how far the weft stays on top, as if it had skipped the warp
    opening: Plane | None  # signed distance to a hole, in yarns

    def at(self, rows: slice) -> "Weave":
        def band(plane: Plane | None) -> Plane | None:
            return None if plane is None else plane[rows]

        return Weave(self.u[rows], self.v[rows], band(self.float_weft), band(self.opening))


@dataclass(frozen=True)
class Yarns:
    """One direction's yarns: tables by number (rows) and place along it, in half pitches."""

    width: npt.NDArray[np.float32]  # of 1, the pitch
    tone: npt.NDArray[np.float32]  # brightness
    phase: npt.NDArray[np.float32]  # of its twist, in radians, by number only
    twist: float  # how much the twist shows


def render(rng: Rng, size: int, kind: str | None, fault: Rng) -> Plane:
    """The scene in linear light (3, S, S); `kind` of KINDS spoils it with draws from `fault`.

    The draws from `rng` do not depend on `kind`: the same generator state without a defect gives
    the good twin.
    """
    light = optics.lamp(rng, azimuth=-130, elevation=42)
    weave = _lay(rng, size)
    centre = tuple(fault.uniform(0.5 - 0.36, 0.5 + 0.36, 2) * YARNS + SPARE / 2)
    if kind == "hole":
        weave.opening = _hole(weave, centre, fault)
    elif kind == "cut":
        weave.opening = _cut(weave, centre, fault)
    elif kind == "pulled_thread":
        _pull(weave, centre, fault)
    elif kind == "weave_fault":
        _skip(weave, centre, fault)
    colour, height = _yarns(weave, rng, fault)
    if kind == "oil":
        colour *= _oil(weave, centre, fault)
    elif kind == "fleck":
        _fleck(colour, height, size, fault)
    return _shade(colour, height, light, rng)


def _lay(rng: Rng, size: int) -> Weave:
    x, y = optics.grid(size)
    turn, count = rng.normal(0, 0.02), YARNS * (1 + rng.normal(0, 0.012))
    phase = rng.uniform(-1, 1, 2) + (YARNS + SPARE) / 2
    cos, sin = np.float32(count * np.cos(turn)), np.float32(count * np.sin(turn))
    sway = [np.float32(0.27) * optics.smooth_noise(rng, size, 5) for _ in range(2)]
    u = cos * x + sin * y + np.float32(phase[0]) + sway[0]
    v = cos * y - sin * x + np.float32(phase[1]) + sway[1]
    return Weave(u, v, None, None)


def _spin(rng: Rng, width: float, uneven: float, twist: float) -> Yarns:
    return Yarns(
        width=np.float32(width) * _table(rng, 0.05, 0.09),
        tone=_table(rng, uneven, 0.055),
        phase=rng.uniform(0, 2 * np.pi, YARNS + SPARE).astype(np.float32),
        twist=twist,
    )


def _table(rng: Rng, spread: float, along: float) -> npt.NDArray[np.float32]:
    """Factors about 1 for each yarn (rows) in steps of half a pitch along it (columns)."""
    count = YARNS + SPARE
    whole = rng.normal(0, spread, (count, 1))
    part = rng.normal(0, along, (count, 2 * count))
    # A running mean keeps a yarn's thick and thin places a few crossings long.
    part = (part + np.roll(part, 1, 1) + np.roll(part, 2, 1) + np.roll(part, 3, 1)) / 2
    return np.exp(whole + part).astype(np.float32)


def _yarns(weave: Weave, rng: Rng, fault: Rng) -> tuple[Plane, Plane]:
    """Colour (3, S, S) and height (S, S), a fraction of the side, of the cloth's upper surface."""
    warp, weft = _spin(rng, 0.90, 0.07, 0.13), _spin(rng, 0.94, 0.04, 0.09)
    frayed = fault.normal(0, 0.45, (2, YARNS + SPARE)).astype(np.float32)
    height = np.empty_like(weave.u)
    colour = np.empty((3, *height.shape), np.float32)
    for rows in optics.strips(len(height)):
        colour[:, rows], height[rows] = _cross(weave.at(rows), warp, weft, frayed)
    return colour, height


def _cross(
    weave: Weave, warp: Yarns, weft: Yarns, frayed: npt.NDArray[np.float32]
) -> tuple[Plane, Plane]:
    """Which yarn is on top, how high and of what colour, as `_yarns` returns it."""
    i, j = np.floor(weave.u), np.floor(weave.v)
    column, row = i.astype(np.int32), j.astype(np.int32)
    pi = np.float32(np.pi)
    rise_warp = np.cos(pi * (weave.v - np.float32(0.5))) * _of(_SIGN, column)
    rise_weft = -np.cos(pi * (weave.u - np.float32(0.5))) * _of(_SIGN, row)
    if weave.float_weft is not None:
        rise_warp += weave.float_weft * (-1 - rise_warp)
        rise_weft += weave.float_weft * (1 - rise_weft)
    warp_height, warp_tone = _yarn(warp, column, weave.u - i, weave.v, rise_warp)
    weft_height, weft_tone = _yarn(weft, row, weave.v - j, weave.u, rise_weft)
    if weave.opening is not None:
        warp_height[weave.opening < _of(frayed[0], column)] = -3
        weft_height[weave.opening < _of(frayed[1], row)] = -3

    height = np.maximum(warp_height, weft_height)
    cloth = smoothstep(-0.75, -0.35, height)
    warp_tone *= smoothstep(-0.06, 0.06, warp_height - weft_height) * cloth
    weft_tone *= smoothstep(0.06, -0.06, warp_height - weft_height) * cloth
    gap = 1 - cloth
    colour = [
        dark * gap + blue * warp_tone + white * weft_tone
        for dark, blue, white in zip(BELOW, WARP, WEFT, strict=True)
    ]
    return np.stack(colour), np.maximum(height, np.float32(-1.2)) / YARNS


def _yarn(
    yarns: Yarns, number: npt.NDArray[np.int32], position: Plane, along: Plane, rise: Plane
) -> tuple[Plane, Plane]:
    """Height and brightness of the yarns of one direction, each over its whole pitch."""
    place = number * np.int32(2 * (YARNS + SPARE)) + (2 * along).astype(np.int32)
    across = (2 * position - 1) / _of(yarns.width, place)
    inside = 1 - across * across
    # Beside the yarn its height falls on, so that the gap between two is not a jump.
    body = np.float32(ROUND) * np.sqrt(np.maximum(inside, 0)) + np.minimum(inside, 0)
    turns = 15 * along + 4 * across + _of(yarns.phase, number)
    tone = _of(yarns.tone, place) * (1 + np.float32(yarns.twist) * np.sin(turns))
    return np.float32(WAVE) * rise + body, tone


def _of(table: npt.NDArray[np.float32], index: npt.NDArray[np.int32]) -> Plane:
    return table.ravel().take(index, mode="clip")


def _hole(weave: Weave, centre: tuple[float, float], fault: Rng) -> Plane:
    """Some yarns are torn and the neighbours drawn back."""
    du, dv = weave.u - np.float32(centre[0]), weave.v - np.float32(centre[1])
    radius = fault.uniform(0.6, 1.9)
    opening = optics.blob(fault, du, dv, radius, 0.15)
    push = np.float32(0.30) * np.exp(-((opening - np.float32(0.2)) ** 2) / np.float32(0.4))
    weave.u -= push * np.sign(du) * np.minimum(np.abs(du), 1)
    weave.v -= push * np.sign(dv) * np.minimum(np.abs(dv), 1)
    return opening


def _cut(weave: Weave, centre: tuple[float, float], fault: Rng) -> Plane:
    """A slit of a blade, open in its middle."""
    angle = fault.uniform(0, np.pi)
    half, open_by = fault.uniform(1.8, 5.0), fault.uniform(0.30, 0.65)
    du, dv = weave.u - np.float32(centre[0]), weave.v - np.float32(centre[1])
    along = (np.cos(angle) * du + np.sin(angle) * dv).astype(np.float32)
    across = (np.cos(angle) * dv - np.sin(angle) * du).astype(np.float32)
    across = across + np.float32(0.25) * np.sin(along * np.float32(fault.uniform(0.4, 0.9)))
    lens = np.clip(1 - (along / np.float32(half)) ** 2, -1, None)
    # Well outside, far enough that no frayed yarn end reaches: the slit's own ends stay closed.
    outside = np.where(lens < 0, np.float32(3), np.float32(0))
    return np.abs(across) * 2 - 2 * np.float32(open_by) * lens + outside


def _pull(weave: Weave, centre: tuple[float, float], fault: Rng) -> None:
    """A tight thread: it draws its neighbours together, and the cloth puckers beside it."""
    along, across = (weave.u, weave.v) if fault.random() < 0.5 else (weave.v, weave.u)
    middle, beside = centre if along is weave.u else centre[::-1]
    yarn = np.float32(np.floor(beside) + 0.5)
    length = fault.uniform(3.0, 10.0)
    window = smoothstep(length, length * 0.6, np.abs(along - np.float32(middle)))
    off = across - yarn
    amount = np.float32(fault.uniform(0.45, 0.95))
    across += amount * window * off * np.exp(-(off * off) / np.float32(1.6))


def _skip(weave: Weave, centre: tuple[float, float], fault: Rng) -> None:
    """The weft floats over some warp yarns instead of passing under every other one."""
    rows = fault.integers(1, 3)
    half = fault.uniform(1.5, 4.5)
    first = np.floor(centre[1])
    inside_row = smoothstep(-0.05, 0.05, weave.v - np.float32(first)) * smoothstep(
        rows + 0.05, rows - 0.05, weave.v - np.float32(first)
    )
    near = np.abs(weave.u - np.float32(centre[0]))
    weave.float_weft = inside_row * smoothstep(half + 0.4, half - 0.4, near)


def _oil(weave: Weave, centre: tuple[float, float], fault: Rng) -> Plane:
    """Factors (3, S, S): soaked yarns are darker and warmer, with a soft border."""
    du, dv = weave.u - np.float32(centre[0]), weave.v - np.float32(centre[1])
    radius = fault.uniform(1.8, 4.8)
    soaked = smoothstep(0.8, -1.0, optics.blob(fault, du, dv, radius, 0.2))
    return 1 - np.float32(fault.uniform(0.55, 1.1)) * soaked * (1 - OIL)[:, None, None]


def _fleck(colour: Plane, height: Plane, size: int, fault: Rng) -> None:
    """A foreign fibre spun into the cloth."""
    start = fault.uniform(-0.36, 0.36, 2)
    path = optics.curve(
        fault, start, fault.uniform(0, 6.3), fault.uniform(0.02, 0.07), fault.uniform(0.4, 2.5)
    )
    fibre = optics.strokes(size, [(path, fault.uniform(0.004, 0.010), 1.0)])
    fibre *= np.float32(fault.uniform(0.6, 1.0))
    colour += fibre * (fault.choice(FLECKS)[:, None, None] - colour)
    height += np.float32(0.004) * fibre


def _shade(colour: Plane, height: Plane, light: Light, rng: Rng) -> Plane:
    size = len(height)
    right, down = optics.slopes(np.float32(0.7) * height)
    sky = optics.occlusion(height, 0.35 / YARNS, 0.6)
    lint = optics.grain(rng, size, 0.001)
    image = np.empty_like(colour)
    for rows in optics.strips(size):
        lit = 0.55 * sky[rows] + 1.35 * optics.lambert(right[rows], down[rows], light)
        image[:, rows] = colour[:, rows] * (lit * (1 + np.float32(0.045) * lint[rows]))
    return image
