"""Detection and localisation metrics as pure functions of one sort, or one histogram, of scores."""

import sys
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

PRO_FPR_LIMIT = 0.3
"""PRO is integrated up to this false positive rate (Bergmann et al., CVPR 2019)."""

BIN_BITS = 11
"""Bits of a float32 score that do not distinguish the bins of a histogram."""

BINS = 2 ** (32 - BIN_BITS)
"""Bins of a histogram."""

MOST_POINTS = 257
"""Points of a curve that are enough to draw it: a step of one is 1/128 of either axis at most."""

_FIELDS = [("weight", "f4"), ("score", "i4")]
HALVES = np.dtype(_FIELDS if sys.byteorder == "little" else _FIELDS[::-1])
"""A packed sample, as its bytes lie in memory."""


class Curve(NamedTuple):
    """Counts at distinct thresholds, from the highest down; each of shape (T,), float64.

    Of a long curve most thresholds are left out at which it is straight.

    A sample counts as predicted anomalous where its score is at least the threshold. `regions` is
    the number of ground-truth regions found, each by its share of pixels; with weight 1 a sample
    it equals `true_positives`.
    """

    thresholds: Tensor
    false_positives: Tensor
    true_positives: Tensor
    regions: Tensor


class CurvePoints(NamedTuple):
    """Some points of a curve, to draw it; each of shape (P,), float64, P at most `MOST_POINTS`.

    From the highest threshold down. The first point is that of the threshold inf, which nothing
    reaches.
    """

    thresholds: Tensor
    x: Tensor
    y: Tensor


def pack(scores: Tensor, weights: Tensor) -> Tensor:
    """(N,) int64 that sort as the scores do: a score and its weight in 8 bytes.

    Args:
        scores: (N,) float32 scores, higher is more anomalous.
        weights: (N,) float32: 0 for a normal sample, 1 / |region| for a pixel of an anomalous
            region, or 1 for an anomalous image.
    """
    return (_ordered(scores).long() << 32) | weights.view(torch.int32)


def score_curve(packed: Tensor) -> Curve:
    """Sort once and count; samples of equal score enter together.

    Args:
        packed: (N,) int64 of `pack`, not empty. Sorted in place: a copy would double the memory.
    """
    # NumPy sorts plain integers with vector instructions: several times faster than an argsort of
    # the scores and two gathers.
    samples = packed.cpu().numpy()
    samples.sort()
    halves = samples[::-1].view(HALVES)
    scores, weights = halves["score"], halves["weight"]
    ends = np.flatnonzero(np.append(scores[1:] != scores[:-1], True))
    anomalous = np.flatnonzero(weights > 0)  # of booleans, which is several times faster
    if len(ends) > MOST_POINTS:
        # From one anomalous score to the next all curves are straight: both ends say it all. A few
        # points between them say at which thresholds.
        found = np.searchsorted(ends, anomalous)
        some = np.searchsorted(ends, np.linspace(0, len(scores) - 1, 4 * MOST_POINTS))
        kept = np.zeros(len(ends), bool)  # np.unique takes longer than the sort above
        kept[np.concatenate([found, (found - 1).clip(0), some])] = True
        ends = ends[kept]
    true_positives = np.searchsorted(anomalous, ends, side="right")
    regions = np.append(0, np.cumsum(weights[anomalous], dtype=np.float64))[true_positives]
    thresholds = unordered(torch.from_numpy(scores[ends]))
    return _curve(thresholds, ends + 1 - true_positives, true_positives, regions)


def count_scores(packed: Tensor) -> tuple[slice, Tensor]:
    """Normal samples, anomalous samples and weights in each bin of scores.

    A bin holds the scores that agree in sign, exponent and the first 12 bits of the mantissa: it
    is as wide as 1/4096 to 1/8192 of its scores, whatever their range. Samples (N,) as of `pack`.

    Returns:
        The bins that the scores span, of `BINS`, and their counts (3, bins), float64.
    """
    halves = packed.cpu().numpy().view(HALVES)
    bins, shares = (halves["score"] >> BIN_BITS) + BINS // 2, halves["weight"]
    anomalous = shares > 0
    first = int(bins.min(initial=BINS))
    bins -= first  # the few bins spanned stay in the processor's cache
    samples = np.bincount(bins)
    positives = np.bincount(bins[anomalous], minlength=len(samples))
    regions = np.bincount(bins[anomalous], shares[anomalous], len(samples))
    counts = np.stack([samples - positives, positives, regions])
    return slice(first, first + len(samples)), torch.from_numpy(counts)


def histogram_curve(counts: Tensor) -> Curve:
    """The curve of scores that were only counted: those of one bin enter together.

    Args:
        counts: (3, BINS) sums of `count_scores`.
    """
    filled = np.flatnonzero(counts[:2].cpu().numpy().any(axis=0))[::-1]
    lowest = torch.from_numpy((filled - BINS // 2) << BIN_BITS).int()
    return _curve(unordered(lowest), *np.cumsum(counts.cpu().numpy()[:, filled], axis=1))


def _ordered(scores: Tensor) -> Tensor:
    """int32 that sort as the float32 scores do."""
    bits = (scores + 0).view(torch.int32)  # + 0 makes -0.0 equal to 0.0
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


def unordered(ordered: Tensor) -> Tensor:
    """The inverse of `_ordered`: float32 scores of int32 `score` of packed samples."""
    return (ordered ^ ((ordered >> 31) & 0x7FFFFFFF)).view(torch.float32)


def _curve(thresholds: Tensor, *counts: np.ndarray) -> Curve:
    return Curve(thresholds, *(torch.from_numpy(c).double() for c in counts))


def auroc(curve: Curve) -> Tensor:
    """Area under true against false positive rate; ties count one half."""
    return _area(curve.false_positives, curve.true_positives)


def average_precision(curve: Curve) -> Tensor:
    """Sum of precision times the step in recall, without interpolation (as scikit-learn)."""
    precision = curve.true_positives / (curve.true_positives + curve.false_positives)
    steps = torch.diff(curve.true_positives, prepend=curve.true_positives.new_zeros(1))
    return (precision * steps).sum() / curve.true_positives[-1]


def best_f1(curve: Curve) -> tuple[Tensor, Tensor]:
    """The largest F1 over all thresholds, and its threshold."""
    predicted = curve.true_positives + curve.false_positives
    f1 = 2 * curve.true_positives / (predicted + curve.true_positives[-1])
    best = f1.argmax()
    return f1[best], curve.thresholds[best]


def recall_at(curve: Curve, rate: float) -> Tensor:
    """The largest true positive rate at which the false positive rate is at most `rate`."""
    allowed = curve.false_positives / curve.false_positives[-1] <= rate
    return (curve.true_positives * allowed).max() / curve.true_positives[-1]


def per_region_overlap(curve: Curve, fpr_limit: float = PRO_FPR_LIMIT) -> Tensor:
    """Mean share of each region found, integrated over the false positive rate up to a limit.

    The area is divided by the limit, so that 1 is perfect (Bergmann et al., CVPR 2019).
    """
    return _area(curve.false_positives, curve.regions, fpr_limit)


def _area(x: Tensor, y: Tensor, limit: float = 1.0) -> Tensor:
    """Trapezoid area of y / max(y) over x / max(x) from 0 to limit, divided by the limit."""
    x = torch.cat([x.new_zeros(1), x / x[-1]])
    y = torch.cat([y.new_zeros(1), y / y[-1]])
    inside = int(torch.searchsorted(x, limit, right=True))
    if inside < len(x):  # the curve crosses the limit between two thresholds
        share = (limit - x[inside - 1]) / (x[inside] - x[inside - 1])
        at_limit = y[inside - 1] + share * (y[inside] - y[inside - 1])
        x = torch.cat([x[:inside], x.new_tensor([limit])])
        y = torch.cat([y[:inside], at_limit.view(1)])
    return torch.trapezoid(y, x) / limit


def roc_points(curve: Curve) -> CurvePoints:
    """True positive rate over false positive rate."""
    x, y = curve.false_positives, curve.true_positives
    some = _evenly(x, y)
    return _points(curve.thresholds[some], x[some] / x[-1], y[some] / y[-1])


def precision_recall_points(curve: Curve) -> CurvePoints:
    """Precision over recall; as with scikit-learn, 1 where nothing is found yet."""
    positives = curve.true_positives
    some = _evenly(positives)
    precision = positives[some] / (positives[some] + curve.false_positives[some])
    return _points(curve.thresholds[some], positives[some] / positives[-1], precision, start=1.0)


def overlap_points(curve: Curve, fpr_limit: float = PRO_FPR_LIMIT) -> CurvePoints:
    """Mean share of each region found over the false positive rate, up to a limit."""
    x, y = curve.false_positives, curve.regions
    beyond = int(torch.searchsorted(x.contiguous(), fpr_limit * x[-1]))
    some = _evenly(x[: beyond + 1], y[: beyond + 1])
    points = _points(curve.thresholds[some], x[some] / x[-1], y[some] / y[-1])
    before, last = points.x[-2:]
    share = (fpr_limit - before) / (last - before)
    points.y[-1] = points.y[-2] + share * (points.y[-1] - points.y[-2])
    points.x[-1] = fpr_limit
    return points


def _evenly(*axes: Tensor) -> Tensor:
    """Indices that lie evenly along each of some ascending (T,) axes, the last two among them."""
    size = len(axes[0])
    if size < MOST_POINTS:
        return torch.arange(size)
    # Counts ascend, so a search finds the points, in no time beside that of the sort.
    steps = torch.linspace(0, 1, (MOST_POINTS - 3) // len(axes), dtype=torch.float64)
    ends = torch.tensor([size - 2, size - 1])
    found = [torch.searchsorted(axis.contiguous(), steps * axis[-1]) for axis in axes]
    chosen: Tensor = torch.cat([*found, ends]).unique()
    return chosen


def _points(thresholds: Tensor, x: Tensor, y: Tensor, start: float = 0.0) -> CurvePoints:
    """With the point of the threshold inf, (0, start), in front."""
    first = {"thresholds": float("inf"), "x": 0.0, "y": start}
    values = {"thresholds": thresholds.double(), "x": x, "y": y}
    return CurvePoints(**{k: torch.cat([v.new_tensor([first[k]]), v]) for k, v in values.items()})
