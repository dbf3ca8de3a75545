"""From an anomaly map to the regions an inspector looks at."""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import find_objects, label, maximum, maximum_position


class Region(NamedTuple):
    """A connected part of an anomaly map above a threshold, in pixels of the original image.

    Attributes:
        top, left, bottom, right: of the box around it, whole pixels; bottom and right are the first
            ones outside.
        area: number of pixels, fractions included.
        peak: the highest score in it.
        row, column: of the pixel with the highest score.
    """

    top: int
    left: int
    bottom: int
    right: int
    area: float
    peak: float
    row: int
    column: int


def find_regions(
    anomaly_map: np.ndarray,
    threshold: float,
    window: tuple[float, float, float, float],
    size: tuple[int, int],
) -> list[Region]:
    """The 8-connected regions whose scores reach a threshold, that of the highest peak first.

    Found on the map as it is, and told in pixels of the original: boxes are as exact as a pixel of
    the map is small.

    Args:
        anomaly_map: (h, w), higher is more anomalous.
        threshold: the lowest score of a region.
        window: top, left, bottom, right of what the map covers, in pixels of the original; what
            lies outside the original, as padding does, is in no region.
        size: (H, W) of the original.
    """
    top, left, bottom, right = window
    scale = (bottom - top) / anomaly_map.shape[0], (right - left) / anomaly_map.shape[1]
    rows = _inside(anomaly_map.shape[0], top, scale[0], size[0])
    columns = _inside(anomaly_map.shape[1], left, scale[1], size[1])
    above = (anomaly_map >= threshold) & rows[:, None] & columns
    labels, count = label(above, structure=np.ones((3, 3)))
    numbers = np.arange(1, count + 1)
    peaks = maximum(anomaly_map, labels, numbers)
    areas = np.bincount(labels.ravel(), minlength=count + 1)[1:] * scale[0] * scale[1]
    places = maximum_position(anomaly_map, labels, numbers)
    found = []
    for box, area, peak, place in zip(find_objects(labels), areas, peaks, places, strict=True):
        low, high = _pixels(box[0], top, scale[0], size[0])
        first, last = _pixels(box[1], left, scale[1], size[1])
        row = min(int(top + (place[0] + 0.5) * scale[0]), size[0] - 1)
        column = min(int(left + (place[1] + 0.5) * scale[1]), size[1] - 1)
        found.append(Region(low, first, high, last, float(area), float(peak), row, column))
    return sorted(found, key=lambda region: -region.peak)


def _inside(length: int, origin: float, scale: float, size: int) -> np.ndarray:
    """Which rows or columns of a map have their middle in the original."""
    middle = origin + (np.arange(length) + 0.5) * scale
    return (middle >= 0) & (middle < size)


def _pixels(side: slice, origin: float, scale: float, size: int) -> tuple[int, int]:
    """The pixels of the original that rows or columns of a map touch."""
    low, high = origin + side.start * scale, origin + side.stop * scale
    return max(int(np.floor(low)), 0), min(int(np.ceil(high)), size)
