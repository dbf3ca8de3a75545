"""Pictures of anomaly maps: image, ground truth, heat map and contour side by side."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
from matplotlib import colormaps
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import binary_dilation, binary_erosion

from padim import anomalous_pixels

COLORMAP = colormaps["inferno"]
"""Perceptually uniform, so that equal steps of the score look equal."""

DENSITY = np.linspace(0.4, 0.8, 256, dtype=np.float32)[:, None]
TINT = DENSITY * COLORMAP(np.arange(256))[:, :3].astype(np.float32) * 255
"""How much of a pixel its colour is, and that colour, in 256 steps: a table is 4 times faster."""

CONTOUR = (64, 224, 255)
GROUND_TRUTH = (120, 255, 90)
MARGIN = 8
"""Pixels between and around the parts of a picture."""

HATCH = 10
"""Pixels from one stripe to the next."""

CALIBRATION = 64
"""Maps that set the colours of all. What is drawn as it comes cannot wait for its highest score, so
the start stands for normal: its median is dark, and a later score beyond what is bright by it is as
bright as colours get."""


@dataclass(frozen=True)
class Scale:
    """Scores at the dark and at the bright end of the colours; one for all pictures of a run."""

    low: float
    high: float

    @classmethod
    def of(cls, maps: Iterable[np.ndarray]) -> "Scale":
        """From maps (H, W): dark at the median pixel, bright where strong anomalies peak.

        At least three times the median is bright, so that a run of good images looks calm.
        """
        pixels, peaks = zip(*((m[::4, ::4].ravel(), m.max()) for m in maps), strict=True)
        return cls.of_sample(np.concatenate(pixels), np.array(peaks))

    @classmethod
    def of_sample(cls, pixels: np.ndarray, peaks: np.ndarray) -> "Scale":
        """The same from a sample of all pixels and the highest of each map."""
        low = float(np.median(pixels))
        return cls(low, max(float(np.quantile(peaks, 0.95)), 3 * low, low + 1e-6))

    def colours(self, values: np.ndarray) -> np.ndarray:
        """(..., 3) uint8 colours of scores (...)."""
        return (COLORMAP(self._share(values))[..., :3] * 255).round().astype(np.uint8)

    def overlay(self, image: np.ndarray, values: np.ndarray) -> np.ndarray:
        """(H, W, 3) uint8 grey image under the colours of its map (H, W), denser where higher."""
        step = (255 * self._share(values)).astype(np.uint8)
        grey = image.sum(axis=2, dtype=np.float32) / 3
        return ((1 - DENSITY[step]) * grey[..., None] + TINT[step]).astype(np.uint8)

    def _share(self, values: np.ndarray) -> np.ndarray:
        return np.clip((values - self.low) / (self.high - self.low), 0, 1)


class ColouredByStart(ABC):
    """Draws maps as they come, once the first `CALIBRATION` have set the colours of all.

    Args:
        scale: the colours; None for what the first maps give.
    """

    def __init__(self, scale: Scale | None = None) -> None:
        self.scale = scale
        self._waiting: list[tuple[Any, np.ndarray]] = []

    def add(self, items: Iterable[Any], maps: Iterable[np.ndarray]) -> None:
        """Take the next maps (H, W), each with what is drawn with it."""
        self._waiting += zip(items, maps, strict=True)
        if self.scale or len(self._waiting) >= CALIBRATION:
            self.flush()

    def flush(self) -> None:
        """Draw what still waits."""
        waiting, self._waiting = self._waiting, []
        if waiting and not self.scale:
            self.scale = Scale.of(anomaly_map for _, anomaly_map in waiting[:CALIBRATION])
        for item, anomaly_map in waiting:
            self._draw(item, anomaly_map)

    @abstractmethod
    def _draw(self, item: Any, anomaly_map: np.ndarray) -> None:
        """Draw one map (H, W) in the colours of `scale`."""


def draw(
    image: np.ndarray,
    anomaly_map: np.ndarray,
    scale: Scale,
    title: str,
    mask: np.ndarray | None = None,
    threshold: float | None = None,
    levels: Mapping[str, np.ndarray] = MappingProxyType({}),
    extent: float | None = None,
    ignored: np.ndarray | None = None,
) -> Image.Image:
    """One row: the image, its ground truth, the heat map laid over it, and the contour found.

    Args:
        image: (H, W, 3) uint8 RGB.
        anomaly_map: (H, W) scores.
        scale: colours of the scores.
        title: a line above.
        mask: (H, W) bool ground truth; left out where None.
        threshold: score of the contour; left out where None.
        levels: what each level adds to the map, (H, W) by name; may be empty.
        extent: a lower score, to which the contour is widened (see `anomalous_pixels`).
        ignored: (H, W) bool, pixels that were not looked at, which are hatched in all but the image
            itself.
    """
    parts = {"image": image}
    if mask is not None:
        parts["ground truth"] = outline(image, mask, GROUND_TRUTH)
    parts["anomaly map"] = scale.overlay(image, anomaly_map)
    if threshold is not None:
        found = anomalous_pixels(anomaly_map, threshold, extent)
        name = f"score >= {threshold:.3g}"
        if extent is not None and extent < threshold:
            name = f"peak >= {threshold:.3g}, edge {extent:.3g}"
        parts[name] = outline(image, found, CONTOUR)
    parts |= {name: scale.overlay(image, part) for name, part in levels.items()}
    if ignored is not None:
        parts |= {n: hatched(part, ignored) for n, part in parts.items() if n != "image"}

    font, small = ImageFont.load_default(15), ImageFont.load_default(12)
    height, width = image.shape[:2]
    head, foot, bar = 30, 22, 58
    size = (len(parts) * (width + MARGIN) + MARGIN + bar, head + height + foot)
    canvas = Image.new("RGB", size, "white")
    pen = ImageDraw.Draw(canvas)
    pen.text((MARGIN, 6), title, "black", font)
    for i, (name, part) in enumerate(parts.items()):
        x = MARGIN + i * (width + MARGIN)
        canvas.paste(Image.fromarray(part), (x, head))
        pen.text((x, head + height + 3), name, "dimgray", small)
    _draw_bar(canvas, pen, (size[0] - bar, head), height, scale, small)
    return canvas


def outline(image: np.ndarray, region: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    """A copy of the image (H, W, 3) with the border of a bool region (H, W), two pixels wide."""
    drawn = image.copy()
    drawn[binary_dilation(region) & ~binary_erosion(region, border_value=1)] = colour
    return drawn


def hatched(image: np.ndarray, region: np.ndarray) -> np.ndarray:
    """A copy of the image (H, W, 3) with dark stripes across a bool region (H, W)."""
    rows, columns = np.indices(region.shape)
    drawn = image.copy()
    drawn[region] //= 3
    drawn[region & ((rows + columns) % HATCH < 2)] = 160
    return drawn


def stack(rows: list[Image.Image]) -> Image.Image:
    """Pictures one below the other."""
    sheet = Image.new("RGB", (max(r.width for r in rows), sum(r.height for r in rows)), "white")
    y = 0
    for row in rows:
        sheet.paste(row, (0, y))
        y += row.height
    return sheet


def _draw_bar(
    canvas: Image.Image,
    pen: ImageDraw.ImageDraw,
    corner: tuple[int, int],
    height: int,
    scale: Scale,
    font: ImageFont.ImageFont | ImageFont.FreeTypeFont,
) -> None:
    x, y = corner
    values = np.linspace(scale.high, scale.low, height)[:, None].repeat(12, axis=1)
    canvas.paste(Image.fromarray(scale.colours(values)), (x, y))
    for value, at in ((scale.high, y - 3), (scale.low, y + height - 13)):
        pen.text((x + 16, at), f"{value:.3g}", "dimgray", font)
