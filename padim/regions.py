"""From an anomaly map to the regions an inspector looks at."""

from typing import NamedTuple

import numpy as np
from scipy.ndimage import binary_propagation, find_objects, label, maximum, maximum_position

EIGHT_CONNECTED = np.ones((3, 3))


class Region(NamedTuple):
    """A connected part of an anomaly map that is anomalous, in pixels of the original image.

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
    extent: float | None = None,
) -> list[Region]:
    """The 8-connected regions that reach a threshold somewhere, that of the highest peak first.

    Found on the map as it is, and given in pixels of the original: boxes are as exact as a pixel of
    the map is small.

    >>> scores = np.zeros((4, 4))
    >>> scores[1, 2:] = 5, 7
    >>> find_regions(scores, 6, (0, 0, 8, 8), (8, 8), extent=4)
    [Region(top=2, left=4, bottom=4, right=8, area=8.0, peak=7.0, row=3, column=7)]

    Args:
        anomaly_map: (h, w), higher is more anomalous.
        threshold: the lowest peak of a region.
        window: top, left, bottom, right of what the map covers, in pixels of the original; what
            lies outside the original, as padding does, is in no region.
        size: (H, W) of the original.
        extent: the lowest score in a region, see `anomalous_pixels`; None for the threshold.
    """
    top, left, bottom, right = window
    scale = (bottom - top) / anomaly_map.shape[0], (right - left) / anomaly_map.shape[1]
    rows = _inside(anomaly_map.shape[0], top, scale[0], size[0])
    columns = _inside(anomaly_map.shape[1], left, scale[1], size[1])
    inside = np.where(rows[:, None] & columns, anomaly_map, -np.inf)
    labels, count = label(anomalous_pixels(inside, threshold, extent), EIGHT_CONNECTED)
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


def anomalous_pixels(
    anomaly_map: np.ndarray, threshold: float, extent: float | None = None
) -> np.ndarray:
    """Mark where a map (H, W) reaches a threshold, and what is around: bool (H, W).

    >>> anomalous_pixels(np.array([[1, 5, 7, 1, 5]]), 6, extent=4)
    array([[False,  True,  True, False, False]])

    Args:
        anomaly_map: higher is more anomalous.
        threshold: what normal images do not reach; of a defect often its middle alone does.
        extent: a lower score; what reaches it belongs to what reaches the threshold if the two are
            8-connected. None for none.
    """
    anomalous = anomaly_map >= threshold
    if extent is None:
        return anomalous
    grown: np.ndarray = binary_propagation(anomalous, EIGHT_CONNECTED, mask=anomaly_map >= extent)
    return grown


def _inside(length: int, origin: float, scale: float, size: int) -> np.ndarray:
    """Mark the rows or columns of a map that have their middle in the original."""
    middle = origin + (np.arange(length) + 0.5) * scale
    return (middle >= 0) & (middle < size)


def _pixels(side: slice, origin: float, scale: float, size: int) -> tuple[int, int]:
    """The pixels of the original that rows or columns of a map touch."""
    low, high = origin + side.start * scale, origin + side.stop * scale
    return max(int(np.floor(low)), 0), min(int(np.ceil(high)), size)
