"""EXIF's orientations in the words of its standard, as an oracle."""

import numpy as np


def as_seen(stored: np.ndarray, orientation: int | None) -> np.ndarray:
    """Stored pixels, (H, W, ...), as they are to be shown; other numbers turn nothing."""
    seen = stored.swapaxes(0, 1) if orientation in (5, 6, 7, 8) else stored
    seen = seen[:, ::-1] if orientation in (2, 3, 6, 7) else seen  # something begins on the right
    return seen[::-1] if orientation in (3, 4, 7, 8) else seen  # or at the bottom
