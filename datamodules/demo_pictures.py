"""Pictures of the demo: a flange on a bench mat and a woven cloth, lit from a height map.

Lengths and heights are fractions of the image's side S. A plane is a float32 array (S, S), a cover
one of values 0..1.
"""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter
from scipy import ndimage

Plane = npt.NDArray[np.floating]
Rng = np.random.Generator

KINDS = {
    "fabric": ("hole", "pulled_thread", "stain", "weave_fault"),
    "flange": ("dent", "scratch", "screw", "stain"),
}
# In linear light, 1 being white paper; (3, 1, 1).
MAT, CASTING, ALUMINIUM, SILICONE, STEEL, ZINC, DARK, OIL, WARP, WEFT = np.array([
    (0.135, 0.165, 0.18), (0.47, 0.48, 0.50), (0.80, 0.81, 0.83), (0.50, 0.115, 0.05),
    (0.10, 0.105, 0.12), (0.46, 0.41, 0.29), (0.012, 0.012, 0.014), (0.45, 0.33, 0.20),
    (0.085, 0.165, 0.29), (0.50, 0.49, 0.455),
], np.float32)[..., None, None]  # fmt: skip
# Radii of the flange, and where its lugs are.
BORE, SEAL, FACE, BODY, LUG, LUG_AT, HEAD = 0.094, 0.232, 0.300, 0.335, 0.095, 0.2546, 0.0525
YARNS = 64  # of one direction, of which about 44 lie across the image


def draw(
    category: str, name: str, kind: str, size: int, seed: int
) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Draw an image (S, S, 3) and its mask (S, S) of 0 and 255, of a kind of defect or good.

    `name` and `seed` decide all else: scene and light are the same whatever the `kind`.
    """
    root = np.random.SeedSequence([seed, *category.encode(), *name.encode()])
    rng, fault, camera = (np.random.default_rng(child) for child in root.spawn(3))
    scene = Scene(size, rng)
    cover = {"fabric": _fabric, "flange": _flange}[category](scene, rng, kind, fault)
    if kind == "stain":
        faintest = {"fabric": 0.55, "flange": 0.12}[category]
        low, high = (-0.24, -0.24, 0.02, faintest), (0.24, 0.24, 0.06, 1)
        x, y, radius, strength = fault.uniform(low, high).tolist()
        cover = _ramp(0.5 - _blob(fault, scene.u - x, scene.v - y, radius) / (0.2 * radius))
        scene.colour *= 1 - strength * cover * (1 - OIL)
    # As one outlines it by hand: a bare scratch would not survive the resizing.
    mask = ndimage.binary_dilation(cover > 0.5 * cover.max(), iterations=max(1, size // 256))
    return scene.photograph(camera), np.uint8(255) * mask


class Scene:
    """What the camera sees: height, colour (3, S, S), turned metal (a cover), and its own axes."""

    def __init__(self, size: int, rng: Rng) -> None:
        self.size = size
        self.height, self.turned = np.zeros((2, size, size), np.float32)
        self.colour = np.zeros((3, size, size), np.float32)
        axis = ((np.arange(size) + 0.5) / size - 0.5).astype(np.float32) * rng.normal(1, 0.004)
        x, y = axis + rng.normal(0, 0.004), axis[:, None] + rng.normal(0, 0.004)
        self.u, self.v = _rotate(x, y, rng.normal(0, 0.02))
        self.r = np.hypot(self.u, self.v)

    def lay(self, cover: Plane, colour: Plane, height: Plane | float, turned: float = 0) -> None:
        """Blend a body in, of a colour (3, 1, 1) or (3, S, S)."""
        layers = (*self.colour, self.height, self.turned)
        for plane, value in zip(layers, (*colour, height, turned), strict=True):
            plane += cover * (value - plane)

    def inside(self, distance: Plane) -> Plane:
        """Cover of a shape from the signed distance to its outline."""
        return np.clip(0.5 - distance * self.size, 0, 1)

    def noise(self, rng: Rng, cells: int) -> Plane:
        """Noise about 0, of nearly unit variance, on a length of 1 / `cells`."""
        knots = Image.fromarray(rng.standard_normal((cells, cells), np.float32))
        return np.asarray(knots.resize((self.size, self.size), Image.Resampling.BICUBIC))

    def photograph(self, rng: Rng) -> npt.NDArray[np.uint8]:
        """Image (S, S, 3) under a lamp and the sky, which differ a little each time."""
        azimuth, rise = math.radians(rng.normal(-127, 7)), math.radians(rng.normal(46, 2.5))
        lx, ly = math.cos(azimuth) * math.cos(rise), math.sin(azimuth) * math.cos(rise)
        lz = math.sin(rise)
        down, right = (np.clip(s, -1.5, 1.5) for s in np.gradient(self.height, 1 / self.size))
        direct = np.maximum(lz - lx * right - ly * down, 0) / np.sqrt(1 + right**2 + down**2)
        blocked = np.zeros_like(self.height)
        for step in (0.006, 0.014, 0.025, 0.04, 0.055, 0.075):
            shift = (-round(ly * step * self.size), -round(lx * step * self.size))
            ahead = np.roll(self.height, shift, (0, 1)) - step * lz
            np.maximum(blocked, ahead - self.height, out=blocked)
        sun = 1 - ndimage.uniform_filter(_ramp(blocked / 0.012), max(2, self.size // 80))
        hollow = ndimage.uniform_filter(self.height, max(3, self.size // 40)) - self.height
        sky = 1 / (1 + 40 * np.maximum(hollow, 0))
        # Concentric grooves reflect wherever the half vector to the near lamp, as a slope, lies
        # along the radius: the bow tie of turned metal.
        hx, hy = lx / (1 + lz) - 0.4 * self.u + right, ly / (1 + lz) - 0.4 * self.v + down
        across = (self.u * hy - self.v * hx) / np.maximum(self.r, 1e-3)
        shine = self.turned * (0.1 + np.exp(-across * across / 0.024))
        light = (0.3 * sky + 0.95 * sun * direct) * (1 - 0.62 * self.turned)
        light += shine * (0.25 * sky + 0.75 * sun)
        light *= 1 + rng.normal(0, 0.05) * self.u + rng.normal(0, 0.05) * self.v - 0.45 * self.r**2
        gains = np.exp(rng.normal(0, 0.035) + rng.normal(0, 0.012, 3))
        # A shoulder, as of film, keeps highlights from clipping hard.
        light = light * gains.astype(np.float32)[:, None, None] * self.colour
        light *= (1 + light / 6) / (1 + 0.42 * light)
        grey = (255 * np.sqrt(light.clip(0, 1))).astype(np.uint8)
        sharp = Image.fromarray(grey.transpose(1, 2, 0))
        defocus = ImageFilter.GaussianBlur(rng.uniform(0.0010, 0.0016) * self.size)
        noise = rng.uniform(1.2, 2.2) * rng.standard_normal((self.size, self.size, 3), np.float32)
        return np.rint((noise + np.asarray(sharp.filter(defocus))).clip(0, 255)).astype(np.uint8)


def _rotate(x: Plane, y: Plane, angle: float) -> tuple[Plane, Plane]:
    cos, sin = math.cos(angle), math.sin(angle)
    return cos * x + sin * y, cos * y - sin * x


def _ramp(x: Plane) -> Plane:
    """0 below 0, 1 above 1, smooth between."""
    x = np.clip(x, 0, 1)
    return x * x * (3 - 2 * x)


def _blob(rng: Rng, x: Plane, y: Plane, radius: float) -> Plane:
    """Signed distance to an irregular spot about (0, 0)."""
    angle, outline = np.arctan2(y, x), np.ones_like(x)
    for order in range(2, 8):
        weight = rng.normal(0, 0.15 / math.sqrt(order))
        outline += weight * np.sin(order * angle + rng.uniform(0, 2 * math.pi))
    return np.hypot(x, y) - radius * outline


def _flange(part: Scene, rng: Rng, kind: str, fault: Rng) -> Plane:
    """Lay a machined part on a bench mat; returns the cover of its defect."""
    u, v, p, q = part.u, part.v, np.abs(part.u) - LUG_AT, np.abs(part.v) - LUG_AT
    r, off = part.r, np.hypot(p, q)
    fibres, defect = part.noise(rng, 256), 0 * r
    part.height += 0.0006 * fibres - 0.06
    part.colour += (1 + 0.12 * fibres + 0.06 * part.noise(rng, 6)) * MAT

    # A disc and four lugs, joined by fillets.
    blend = np.clip(0.5 + (off - LUG - r + BODY) * 8, 0, 1)
    outline = off - LUG + blend * (r - BODY - off + LUG) - 0.0625 * blend * (1 - blend)
    metal = part.inside(np.maximum(outline, BORE - r))
    groove = part.inside(np.abs(r - SEAL) - 0.021)
    section = _ramp((FACE - r) / 0.01) + _ramp((0.159 - r) / 0.012) - groove
    rim = 0.012 * (section - 1 + _ramp(-outline / 0.017)) + 0.0006 * fibres
    part.lay(metal, (rng.normal(1, 0.03) + 0.05 * fibres) * CASTING, rim)
    lines = np.convolve(rng.normal(0, 0.04, 640), (0.3, 0.6, 0.8, 0.3), "same").astype(np.float32)
    marks = 1 + lines[(r * 800).astype(np.intp)]
    part.lay(part.inside(np.maximum(r - FACE, BORE - r)), marks * ALUMINIUM, 0.012 * section, 1)
    ring = 0.0156 * np.sqrt(np.clip(1 - ((r - SEAL) / 0.017) ** 2, 0.02, None))
    part.lay(part.inside(np.abs(r - SEAL) - 0.017), rng.normal(1, 0.04) * SILICONE, ring)

    # Four screws at once, by tables over quadrants. A bad one is missing or of another metal.
    quadrant = 2 * (v > 0).astype(np.intp) + (u > 0)
    metals, there = STEEL[:, 0] * (0.9 + 0.2 * rng.random(4, np.float32)), np.ones(4, np.float32)
    if kind == "screw":
        bad = fault.integers(4)
        there[bad] = fault.random() < 0.6
        metals[:, bad] += fault.uniform(0.05, 0.6) * (ZINC[:, 0, 0] - metals[:, bad])
        defect = part.inside(off - HEAD) * (quadrant == bad)
    sides = [_rotate(p, q, angle)[0] for angle in (0.3, 1.347, 2.394)]
    socket = _ramp((0.025 - np.abs(sides).max(0)) / 0.004)
    part.height -= 0.012 * _ramp((0.068 - off) / 0.006)
    part.lay(part.inside(off - 0.032), DARK * (2 + np.sin(off * 1000)), -0.04)
    top = 0.0125 - 0.011 * _ramp((off - HEAD + 0.011) / 0.012) - 0.017 * socket
    head = part.inside(off - HEAD) * there[quadrant]
    part.lay(head, metals[:, quadrant] * (1 - 0.8 * socket), top)

    at, far, turn, bend = fault.uniform((-math.pi, 0.12, 0, -2), (math.pi, 0.28, 6.3, 2)).tolist()
    along, across = _rotate(u - far * math.cos(at), v - far * math.sin(at), turn)
    if kind == "scratch":
        beside = np.abs(across + bend * along * along) - fault.uniform(0.0008, 0.0022)
        defect = part.inside(np.maximum(beside, np.abs(along) - fault.uniform(0.02, 0.08))) * metal
        part.height -= fault.uniform(0.0003, 0.002) * defect
        part.turned *= 1 - fault.uniform(0.08, 0.6) * defect
    elif kind == "dent":
        radius = fault.uniform(0.01, 0.023)
        defect = np.exp(-((1 + _blob(fault, along, across, radius) / radius) ** 2))
        part.height -= fault.uniform(0.05, 0.2) * radius * defect
    return defect


def _fabric(cloth: Scene, rng: Rng, kind: str, fault: Rng) -> Plane:
    """Weave a two-tone cloth; returns the cover of its defect. Lengths inside count yarns."""
    u, v = (44 * plane + YARNS / 2 + 0.35 * cloth.noise(rng, 5) for plane in (cloth.u, cloth.v))
    at, beside = fault.uniform(16, 48, 2).tolist()
    du, dv, defect, opening = u - at, v - beside, 0 * u, 0 * u + 9
    if kind == "hole":
        opening = _blob(fault, du, dv, fault.uniform(0.6, 1.9))
        # The neighbours are drawn back.
        push = 0.3 * np.exp(-((opening - 0.2) ** 2) / 0.4)
        u, v = u - push * np.clip(du, -1, 1), v - push * np.clip(dv, -1, 1)
        defect = _ramp(1 - opening)
    elif kind == "pulled_thread":
        # A tight thread draws its neighbours together.
        beyond, length = v - math.floor(beside) - 0.5, fault.uniform(4, 12)
        near = _ramp((length - np.abs(du)) / (0.4 * length)) * np.exp(-beyond * beyond / 1.6)
        v, defect = v + fault.uniform(0.7, 1.2) * near * beyond, np.sqrt(near)
    elif kind == "weave_fault":
        # The weft floats over warp yarns instead of passing under every other one.
        rows = np.abs(v - math.floor(beside) - 0.5 * fault.integers(1, 3))
        defect += (rows < 0.5) & (np.abs(du) < fault.uniform(1.5, 4.5))

    warp = ((np.floor(u) + np.floor(v)).astype(np.int32) & 1) > defect
    across, along = np.where(warp, u, v), np.where(warp, v, u)
    number = np.floor(across)
    yarn = warp.astype(np.intp), number.astype(np.intp)
    slubs = rng.normal(0, 0.06, (2, YARNS, 1)) + rng.normal(0, 0.1, (2, YARNS, 2 * YARNS))
    slubs = np.exp(ndimage.uniform_filter1d(slubs, 4)).astype(np.float32)
    slub = slubs[*yarn, (2 * along).astype(np.intp)]
    off, bow = (2 * (across - number) - 1) / (0.95 * slub), np.cos(math.pi * (along - 0.5)) ** 2
    height = 0.42 * np.sqrt(np.clip(1 - off * off, 0, 1)) + 0.3 * np.maximum(bow, defect)
    tone = slub * (1 + 0.11 * np.sin(15 * along + 4 * off + 40 * slub))
    height *= opening > fault.normal(0, 0.45, (2, YARNS)).astype(np.float32)[yarn]
    cloth.lay(_ramp(height / 0.25), tone * np.where(warp, WARP, WEFT), 0)
    cloth.height += 0.7 / 44 * height
    return defect
