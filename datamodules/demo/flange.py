"""A machined flange on a bench mat: the demo's aligned object.

A turned aluminium face with a silicone seal in its groove, cast lugs around it and four socket
screws. Each picture differs a little, as in a real station: pose, lamp, screw angles, turning
marks, handling marks, dust. A defect changes heights and colours before the light is computed,
so it gets the highlights and shadows that it would have.
"""

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from datamodules.demo import optics
from datamodules.demo.optics import Plane, Rng, smoothstep
from datamodules.demo.surface import Frame, Surface, paint, shade

KINDS = ("scratch", "dent", "chip", "screw", "stain", "seal")

# Lengths of the part, as fractions of the image's side if NOMINAL were 1.
BORE, BOSS, SEAL, FACE, BODY, LUG = 0.075, 0.126, 0.186, 0.240, 0.268, 0.288  # radii
LUG_RADIUS, FILLET, POCKET, HEAD, SOCKET = 0.076, 0.05, 0.052, 0.042, 0.018
THICKNESS = 0.05
EDGE = 0.010  # by which the body's rim is rounded off
NOMINAL = 1.25
REACH = 0.40  # from the image's centre, a square that the part never leaves

ALUMINIUM = np.array([0.80, 0.81, 0.83], np.float32)
CASTING = np.array([0.47, 0.48, 0.50], np.float32)
MAT = np.array([0.135, 0.165, 0.18], np.float32)
SILICONE = np.array([0.50, 0.115, 0.05], np.float32)
STEEL = np.array([0.10, 0.105, 0.12], np.float32)
ZINC = np.array([0.46, 0.41, 0.29], np.float32)
DUST = np.array([0.50, 0.50, 0.50], np.float32)
OIL = np.array([0.54, 0.38, 0.21], np.float32)
DARK = np.array([0.012, 0.012, 0.014], np.float32)


def render(rng: Rng, size: int, kind: str | None, fault: Rng) -> Plane:
    """The scene in linear light (3, S, S); `kind` of KINDS spoils it with draws from `fault`.

    The draws from `rng` do not depend on `kind`: the same generator state without a defect gives
    the good twin.
    """
    light = optics.lamp(rng, azimuth=-125, elevation=48)
    near = slice(round((0.5 - REACH) * size), round((0.5 + REACH) * size))
    window = (near, near)
    frame = _frame(rng, size, near)
    scene, fibres = _mat(rng, size)
    part = scene.at(window)
    _body(part, frame, fibres[window], rng, fault if kind == "chip" else None)
    _marks(part, frame, rng)
    face = frame.square((0, 0), SEAL + 0.035)
    _seal(part.at(face), frame.at(face), rng, fault if kind == "seal" else None)
    _screws(part, frame, rng, fault if kind == "screw" else None)
    if kind in _SPOIL:
        _SPOIL[kind](part, frame, fault)
    return shade(scene, frame, window, frame.square((0, 0), FACE + 0.01), light)


def _frame(rng: Rng, size: int, near: slice) -> Frame:
    x, y = optics.grid(size)
    shift, turn = rng.normal(0, 0.0025, 2).astype(np.float32), rng.normal(0, 0.014)
    scale = NOMINAL * (1 + rng.normal(0, 0.004))
    x, y = x[:, near] - shift[0], y[near] - shift[1]
    cos, sin = np.float32(np.cos(turn) / scale), np.float32(np.sin(turn) / scale)
    u, v = cos * x + sin * y, cos * y - sin * x
    return Frame(u, v, np.hypot(u, v), scale * size)


def _mat(rng: Rng, size: int) -> tuple[Surface, Plane]:
    """The empty bench, and the grain of its fibres."""
    fibres = optics.grain(rng, size, 0.0015)
    weave = 1 + np.float32(0.10) * fibres + np.float32(0.05) * optics.smooth_noise(rng, size, 6)
    relief = np.float32(0.0005) * fibres - EDGE
    drop = np.full_like(relief, THICKNESS)
    none = np.zeros_like(relief)
    return Surface(relief, drop, MAT[:, None, None] * weave, none, none.copy()), fibres


def _body(part: Surface, frame: Frame, fibres: Plane, rng: Rng, fault: Rng | None) -> None:
    """Cast body and turned face; a bad one has lost a piece of its edge."""
    outside = _outline(frame.u, frame.v, frame.r)
    if fault is not None:
        outside = np.maximum(outside, _bite(frame, fault))
    tone, marks = np.float32(1 + rng.normal(0, 0.03)), _turning_marks(rng)
    for rows in optics.strips(len(outside)):
        window = (rows, slice(None))
        _machine(part.at(window), frame.at(window), outside[rows], fibres[rows], tone, marks)


def _machine(
    part: Surface, frame: Frame, outside: Plane, texture: Plane, tone: np.float32, marks: Plane
) -> None:
    metal = frame.cover(np.maximum(outside, np.float32(BORE) - frame.r))
    turned = frame.cover(np.abs(frame.r - (BORE + FACE) / 2) - (FACE - BORE) / 2) * metal
    height = np.interp(frame.r, *_radial_profile()).astype(np.float32)
    height -= EDGE * (1 - smoothstep(0, 0.014, -outside))
    part.relief[:] = (part.relief + EDGE) * (1 - turned) + height
    part.drop[:] = THICKNESS * (1 - metal)
    part.turned[:] = turned
    part.gloss[:] = 0.30 * metal
    paint(part.colour, metal, CASTING[:, None, None] * (tone + np.float32(0.045) * texture))
    lines = marks.take((frame.r * np.float32(len(marks) / FACE)).astype(np.int32), mode="clip")
    paint(part.colour, turned, ALUMINIUM[:, None, None] * lines)


def _outline(u: Plane, v: Plane, r: Plane) -> Plane:
    """Signed distance to the body: a disc and four lugs on the diagonals, joined by fillets."""
    at = np.float32(LUG / np.sqrt(2))
    lug = np.hypot(np.abs(u) - at, np.abs(v) - at) - np.float32(LUG_RADIUS)
    disc = r - np.float32(BODY)
    blend = np.clip(0.5 + (lug - disc) * (0.5 / FILLET), 0, 1)
    return lug + blend * (disc - lug) - FILLET * blend * (1 - blend)


def _bite(frame: Frame, fault: Rng) -> Plane:
    """Signed distance that takes an irregular piece out of the edge."""
    angle, ray = fault.uniform(-np.pi, np.pi), np.linspace(0.2, 0.4, 400, dtype=np.float32)
    direction = np.array([np.cos(angle), np.sin(angle)], np.float32)
    edge = ray[np.argmin(np.abs(_outline(ray * direction[0], ray * direction[1], ray)))]
    radius = fault.uniform(0.006, 0.02)
    centre = direction * (edge + np.float32(0.2 * radius))
    return -optics.blob(fault, frame.u - centre[0], frame.v - centre[1], radius, 0.16)


@lru_cache(maxsize=1)
def _radial_profile() -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Height over radius: bore's chamfer, boss, seal groove, turned face, lugs' level."""
    points = [
        (0.0, 0.012), (BORE, 0.012), (BORE + 0.007, 0.019), (BOSS - 0.008, 0.019),
        (BOSS, 0.010), (SEAL - 0.019, 0.010), (SEAL - 0.016, 0.000), (SEAL + 0.016, 0.000),
        (SEAL + 0.019, 0.010), (FACE - 0.008, 0.010), (FACE, 0.000), (1.0, 0.000),
    ]  # fmt: skip
    radius = np.linspace(0, 0.6, 1201)
    height = np.interp(radius, *np.array(points).T)
    # Edges are broken with a file in the shop; here it also keeps highlights from aliasing.
    window = np.hanning(11)
    return radius, np.convolve(np.pad(height, 5, "edge"), window / window.sum(), "valid")


def _turning_marks(rng: Rng) -> npt.NDArray[np.float32]:
    """Fine lines about 1 from the centre to the face's rim, broader where the tool chattered."""
    lines = np.convolve(rng.standard_normal(600), [0.25, 0.5, 0.25], "same")
    coarse = np.convolve(rng.standard_normal(600), np.ones(24) / 5, "same")
    return (1 + 0.045 * lines + 0.02 * coarse).astype(np.float32)


def _marks(part: Surface, frame: Frame, rng: Rng) -> None:
    """Hairlines and dust that a good part may have; fainter than a scratch."""
    hairs, specks = [], []
    for _ in range(rng.poisson(3)):
        start = rng.uniform(-0.22, 0.22, 2)
        path = optics.curve(rng, start, rng.uniform(0, 6.3), rng.uniform(0.03, 0.12), 0.3)
        hairs.append((path, 0.0009, rng.uniform(0.1, 0.3)))
    for _ in range(rng.poisson(6)):
        start = rng.uniform(-0.32, 0.32, 2)
        path = optics.curve(rng, start, rng.uniform(0, 6.3), rng.uniform(0.001, 0.005), 2)
        specks.append((path, 0.0014, rng.uniform(0.2, 0.6)))
    part.colour[:] *= 1 - np.float32(0.35) * _strokes(frame, hairs) * part.turned
    paint(part.colour, np.float32(0.6) * _strokes(frame, specks), DUST)


def _strokes(frame: Frame, lines: list[optics.Stroke]) -> Plane:
    """Strokes at lengths of the part, in the window; a turn of a degree does not matter here."""
    side = frame.r.shape[0]
    scale = frame.pixels / side
    return optics.strokes(side, [(path * scale, width * scale, a) for path, width, a in lines])


def _seal(part: Surface, frame: Frame, rng: Rng, fault: Rng | None) -> None:
    """The ring in its groove; a bad one is cut through, out of place or thin for a stretch."""
    angle = np.arctan2(frame.v, frame.u)
    radius = SEAL + optics.wobble(rng, angle, range(1, 4), 0.0006)
    half = np.full_like(angle, 0.0135)
    whole = np.ones_like(angle)
    hue = SILICONE * np.exp(rng.normal(0, 0.04, 3)).astype(np.float32)
    if fault is not None:
        at = np.float32(fault.uniform(-np.pi, np.pi) - np.pi)
        offset = np.mod(angle - at, np.float32(2 * np.pi)) - np.float32(np.pi)
        way = fault.integers(3)
        if way == 0:
            gap, slant = fault.uniform(0.003, 0.012), np.float32(fault.uniform(-0.5, 0.5))
            along = offset * np.float32(SEAL) + slant * (frame.r - np.float32(SEAL))
            whole = 1 - frame.cover(np.abs(along) - np.float32(gap / 2))
        elif way == 1:
            bump = np.exp(-0.5 * (offset / np.float32(fault.uniform(0.05, 0.12))) ** 2)
            radius += np.float32(fault.choice([-1, 1]) * fault.uniform(0.005, 0.012)) * bump
        else:
            worn = np.exp(-0.5 * (offset / np.float32(fault.uniform(0.06, 0.18))) ** 2)
            half *= 1 - np.float32(fault.uniform(0.22, 0.45)) * worn
    across = (frame.r - radius) / half
    cover = frame.cover((np.abs(across) - 1) * half) * whole
    paint(part.colour, 0.55 * frame.cover(np.abs(frame.r - SEAL) - 0.0165), DARK)
    ring = np.sqrt(np.clip(1 - across * across, 0.02, None)) * np.float32(0.0125)
    part.relief[:] += cover * (ring - part.relief)
    paint(part.colour, cover, hue)
    part.turned[:] *= 1 - cover
    part.gloss[:] += cover * (np.float32(0.09) - part.gloss)


def _screws(part: Surface, frame: Frame, rng: Rng, fault: Rng | None) -> None:
    """Socket screws in their pockets; one of them may be bad."""
    at = LUG / np.sqrt(2)
    bad = -1 if fault is None else fault.integers(4)
    for index, (u, v) in enumerate(((-at, -at), (at, -at), (-at, at), (at, at))):
        turn, tone = rng.uniform(0, np.pi / 3), np.float32(1 + rng.normal(0, 0.06))
        play = rng.normal(0, 0.0007, 2)
        window = frame.square((u, v), 0.08)
        lug, near = part.at(window), frame.at(window)
        off = np.hypot(near.u - np.float32(u), near.v - np.float32(v))
        lug.relief[:] -= np.float32(0.010) * (1 - smoothstep(POCKET - 0.003, POCKET + 0.002, off))
        if fault is None or index != bad:
            _head(lug, near, (u + play[0], v + play[1]), turn, STEEL * tone)
        else:
            _bad_screw(lug, near, (u, v), turn, off, fault)


def _bad_screw(
    lug: Surface, near: Frame, at: tuple[float, float], turn: float, off: Plane, fault: Rng
) -> None:
    """Missing, of another kind, or standing askew and proud of its pocket."""
    way = fault.integers(3)
    if way == 0:
        hole = near.cover(off - np.float32(0.026))
        thread = 1 + np.float32(0.8) * np.sin(off * np.float32(2 * np.pi / 0.005))
        paint(lug.colour, hole, (3 * DARK)[:, None, None] * thread)
        lug.relief[:] -= np.float32(0.008) * smoothstep(0.029, 0.024, off)
        lug.drop[:] += np.float32(0.03) * hole
        lug.gloss[:] *= 1 - hole
    elif way == 1:
        tint = STEEL + np.float32(fault.uniform(0.25, 0.9)) * (ZINC - STEEL)
        _head(lug, near, at, turn, tint)
    else:
        lean, by = fault.uniform(0, 2 * np.pi), fault.uniform(0.004, 0.008)
        askew = (at[0] + by * float(np.cos(lean)), at[1] + by * float(np.sin(lean)))
        _head(lug, near, askew, turn, STEEL, proud=0.012)


def _head(
    lug: Surface,
    near: Frame,
    at: tuple[float, float],
    turn: float,
    tint: npt.NDArray[np.float32],
    proud: float = 0.0,
) -> None:
    p, q = near.u - np.float32(at[0]), near.v - np.float32(at[1])
    off = np.hypot(p, q)
    cover = near.cover(off - np.float32(HEAD))
    sides = [
        np.abs(np.float32(np.cos(side)) * p + np.float32(np.sin(side)) * q)
        for side in turn + np.arange(3) * np.pi / 3
    ]
    hexagon = np.maximum(np.maximum(*sides[:2]), sides[2]) - np.float32(SOCKET)
    socket = near.cover(hexagon)
    top = 0.010 + proud - np.float32(0.009) * smoothstep(HEAD - 0.009, HEAD + 0.001, off)
    top -= np.float32(0.014) * smoothstep(0.002, -0.002, hexagon)
    lug.relief[:] += cover * (top - lug.relief)
    paint(lug.colour, cover, tint)
    paint(lug.colour, np.float32(0.8) * cover * socket, DARK)
    lug.gloss[:] += cover * (np.float32(0.34) - np.float32(0.3) * socket - lug.gloss)


def _place(fault: Rng, low: float, high: float) -> npt.NDArray[np.float64]:
    """A point of the part (2,) between two radii."""
    angle, radius = fault.uniform(-np.pi, np.pi), fault.uniform(low, high)
    return radius * np.array([np.cos(angle), np.sin(angle)])


def _scratch(part: Surface, frame: Frame, fault: Rng) -> None:
    """A tool's slip, single or double."""
    start = _place(fault, 0.09, 0.24)
    inwards = np.arctan2(start[1], start[0]) + np.pi + fault.normal(0, 0.9)
    path = optics.curve(fault, start, inwards, fault.uniform(0.05, 0.16), 0.35)
    width, opacity = fault.uniform(0.0014, 0.0036), fault.uniform(0.4, 1.0)
    lines = [(path, width, opacity)]
    if fault.random() < 0.4:
        lines.append((path + fault.normal(0, 0.006, 2), 0.6 * width, 0.7 * opacity))
    groove = _strokes(frame, lines) * (part.drop == 0)
    part.relief[:] -= np.float32(0.0018) * groove
    part.colour[:] *= 1 - np.float32(0.33) * groove
    part.turned[:] *= 1 - np.float32(0.8) * groove


def _dent(part: Surface, frame: Frame, fault: Rng) -> None:
    """A blow's hollow with a raised rim."""
    u, v = _place(fault, 0.09, 0.235).astype(np.float32)
    radius = fault.uniform(0.007, 0.018)
    off = 1 + optics.blob(fault, frame.u - u, frame.v - v, radius, 0.06) / np.float32(radius)
    depth = np.float32(radius * fault.uniform(0.07, 0.2))
    part.relief[:] -= depth * np.exp(np.float32(-1.5) * off * off)
    part.relief[:] += 0.35 * depth * np.exp(-10 * (off - np.float32(1.25)) ** 2)


def _stain(part: Surface, frame: Frame, fault: Rng) -> None:
    """A dried film of oil: a tint, darker along its edge, that dulls the metal."""
    u, v = _place(fault, 0.10, 0.27).astype(np.float32)
    radius = fault.uniform(0.015, 0.045)
    inside = optics.blob(fault, frame.u - u, frame.v - v, radius, 0.22)
    film = smoothstep(0.004, -0.006, inside) * (part.drop == 0)
    rim = np.exp(-0.5 * (inside / np.float32(0.004)) ** 2) * film
    alpha = np.clip(np.float32(0.7 * fault.uniform(0.2, 0.7)) * (film + rim), 0, 1)
    paint(part.colour, alpha, part.colour * OIL[:, None, None])
    part.gloss[:] *= 1 - 0.5 * alpha


_SPOIL = {"scratch": _scratch, "dent": _dent, "stain": _stain}
