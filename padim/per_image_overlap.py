"""Per-image overlap at very low false positive rates, and the area under its curve, AUPIMO."""

import logging

import numpy as np
import torch
from torch import Tensor

from padim.curve import HALVES, pack, unordered

FPR_BOUNDS = (1e-5, 1e-4)
"""False positive rates between which AUPIMO is integrated (Bertoldo et al., arXiv 2401.01984)."""

MOST_NORMAL = 10_000
"""Normal images up to which the pixels that `highest` keeps are enough."""

MOST_PIXELS = 4096
"""Anomalous pixels of an image that are kept; beyond, a recall is off by at most 1.3e-4."""

log = logging.getLogger(__name__)


def highest(pixels: Tensor, others: Tensor) -> Tensor:
    """The highest pixels of normal images, as many as one image has.

    All that lie above a mean false positive rate of 1 / `MOST_NORMAL` are among them.

    Args:
        pixels: (N,) scores of an image.
        others: what is kept of those before, as returned; empty for none.

    Returns:
        (K,) int64 as of `pack`, in falling order, where a pixel's weight is 1 / pixels of its image
        and the weights sum to 1.
    """
    size = len(pixels)
    if len(others):
        pixels = pixels[pixels > unordered((others[-1] >> 32).int()).to(pixels.device)]
    packed = torch.cat([others, pack(pixels, torch.ones_like(pixels) / size).cpu()])
    samples = np.sort(packed.numpy())[::-1]
    weights = samples.view(HALVES)["weight"]
    count = int(np.searchsorted(np.cumsum(weights, dtype=np.float64), 1)) + 1
    return torch.from_numpy(samples[:count].copy())


def order_statistics(scores: Tensor) -> Tensor:
    """Scores (N,), or where there are more `MOST_PIXELS` of them, evenly spaced in their order."""
    size = len(scores)
    if size <= MOST_PIXELS:
        return scores.cpu()
    places = ((np.arange(MOST_PIXELS) + 0.5) * size / MOST_PIXELS).astype(int)
    return torch.from_numpy(np.sort(scores.cpu().numpy())[places])


def aupimo(
    normal: Tensor,
    images: int,
    scores: Tensor,
    sizes: Tensor,
    bounds: tuple[float, float] = FPR_BOUNDS,
) -> Tensor | None:
    """Area under each image's recall of anomalous pixels over the logarithm of the shared FPR.

    The shared FPR of a threshold is the mean over normal images of their share of pixels at or
    above it. A pixel whose score is reached at the shared FPR f adds log(upper / f), so the area is
    the mean of that, clipped to the range of f, over the image's anomalous pixels. It is divided by
    log(upper / lower). As with the authors' implementation, each bound stands for the nearest FPR
    that occurs: with few normal pixels a perfect map may have less than 1, which is logged.

    Args:
        normal: what `highest` keeps of the normal images.
        images: number of the normal images.
        scores: of anomalous pixels, image after image.
        sizes: (M,) number of `scores` of each image.

    Returns:
        (M,) float64, NaN where the size is 0. None where no FPR lies near the lower bound, because
        the normal images have too few pixels or equal scores, or beyond `MOST_NORMAL`.
    """
    if not 0 < images <= MOST_NORMAL:
        return None
    halves = np.sort(normal.numpy())[::-1].view(HALVES)
    ends = np.flatnonzero(np.append(halves["score"][1:] != halves["score"][:-1], True))
    rates = np.cumsum(halves["weight"], dtype=np.float64)[ends] / images
    first, last = (int(np.abs(rates - bound).argmin()) for bound in bounds)
    if first == last or rates[first] > 2 * bounds[0]:
        return None
    width = np.log(bounds[1] / bounds[0])
    steps = np.diff(np.log(rates[first : last + 1]))[::-1] / width
    if abs(steps.sum() - 1) > 0.01:
        log.info(
            "AUPIMO of a perfect map would be %.2f here: the %d normal images have few pixels for"
            " a false positive rate of %g",
            *(min(steps.sum(), 1), images, bounds[0]),
        )
    thresholds = unordered(torch.from_numpy(halves["score"][ends[last:first:-1]]))
    below = torch.from_numpy(np.append(0, np.cumsum(steps)))
    # The mean over both sides of a threshold: ties count one half, as with the trapezoid rule.
    low, high = (torch.searchsorted(thresholds, scores, right=side) for side in (False, True))
    areas = (below[low] + below[high]) / 2
    return torch.segment_reduce(areas, "mean", lengths=sizes).clamp(max=1)
