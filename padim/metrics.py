"""Detection and localisation metrics, each set from one sort of the scores."""

from typing import NamedTuple

import numpy as np
import torch
from scipy.ndimage import label as label_regions
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

PRO_FPR_LIMIT = 0.3
"""PRO is integrated up to this false positive rate (Bergmann et al., CVPR 2019)."""


class Curve(NamedTuple):
    """Counts at every distinct threshold, from the highest down; each of shape (T,), float64.

    A sample counts as predicted anomalous where its score is at least the threshold. `regions` is
    the number of ground-truth regions found, each by its share of pixels; with weight 1 a sample
    it equals `true_positives`.
    """

    thresholds: Tensor
    false_positives: Tensor
    true_positives: Tensor
    regions: Tensor


def score_curve(scores: Tensor, weights: Tensor) -> Curve:
    """Sort once and count; samples of equal score enter together.

    Args:
        scores: (N,) scores, higher is more anomalous.
        weights: (N,) 0 for a normal sample, 1 / |region| for a pixel of an anomalous region, or 1
            for an anomalous image.
    """
    thresholds, shares = _sort_descending(scores.cpu().numpy(), weights.cpu().numpy())
    anomalous = shares > 0
    last = np.append(thresholds[1:] != thresholds[:-1], True)
    true_positives = np.cumsum(anomalous)[last]
    false_positives = np.flatnonzero(last) + 1 - true_positives
    regions = np.cumsum(shares, dtype=np.float64)[last]
    counts = (torch.from_numpy(c).double() for c in (false_positives, true_positives, regions))
    return Curve(torch.from_numpy(thresholds[last]), *counts)


def _sort_descending(scores: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sort float32 scores, each with its float32 weight.

    Both are packed into one integer, because NumPy sorts plain integers with vector instructions:
    several times faster than an argsort and two gathers.
    """
    bits = (scores + np.float32(0)).view(np.int32)  # + 0 makes -0.0 equal to 0.0
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)  # as integers they sort as the floats do
    packed = (ordered.astype(np.int64) << 32) | weights.view(np.uint32)
    packed.sort()
    packed = packed[::-1]
    ordered = (packed >> 32).astype(np.int32)
    bits = ordered ^ ((ordered >> 31) & 0x7FFFFFFF)
    return bits.view(np.float32), packed.astype(np.uint32).view(np.float32)


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


class _ScoreMetric(Metric):
    """Keeps all scores and weights; reduces across devices by concatenation."""

    full_state_update = False
    scores: list[Tensor]
    weights: list[Tensor]

    def __init__(self) -> None:
        super().__init__(compute_on_cpu=True)
        self.add_state("scores", default=[], dist_reduce_fx="cat")
        self.add_state("weights", default=[], dist_reduce_fx="cat")

    def _curve(self) -> Curve | None:
        """None unless there are both normal and anomalous samples: nothing is defined then."""
        if not self.scores:
            return None
        curve = score_curve(dim_zero_cat(self.scores), dim_zero_cat(self.weights))
        defined = curve.true_positives[-1] > 0 and curve.false_positives[-1] > 0
        return curve if defined else None

    def _common(self, curve: Curve) -> dict[str, Tensor]:
        f1, threshold = best_f1(curve)
        return {
            "auroc": auroc(curve),
            "ap": average_precision(curve),
            "f1_max": f1,
            "f1_max_threshold": threshold,
        }


class ImageMetrics(_ScoreMetric):
    """AUROC, average precision and best F1 of image scores.

    `compute` returns an empty dict where only one kind of image was seen.
    """

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add (B,) scores and (B,) labels, 1 for anomalous."""
        self.scores.append(scores.detach().float())
        self.weights.append(labels.float())

    def compute(self) -> dict[str, Tensor]:
        """`auroc`, `ap`, `f1_max` and the threshold of the latter."""
        curve = self._curve()
        return {} if curve is None else self._common(curve)


class PixelMetrics(_ScoreMetric):
    """AUROC, average precision, best F1 and PRO of anomaly maps.

    Regions are the 8-connected components of each mask. Memory: 8 bytes a pixel.
    `compute` returns an empty dict where only one kind of pixel was seen.
    """

    def update(self, maps: Tensor, masks: Tensor) -> None:
        """Add (B, H, W) maps and (B, H, W) bool masks, true where anomalous."""
        self.scores.append(maps.detach().float().flatten())
        weights = [region_weights(mask) for mask in masks.cpu().numpy()]
        self.weights.append(torch.from_numpy(np.stack(weights)).flatten().to(maps.device))

    def compute(self) -> dict[str, Tensor]:
        """`auroc`, `ap`, `f1_max`, the threshold of the latter, and `pro`."""
        curve = self._curve()
        if curve is None:
            return {}
        return {**self._common(curve), "pro": per_region_overlap(curve)}


def region_weights(mask: np.ndarray) -> np.ndarray:
    """(H, W) float32: 1 / |region| in each 8-connected region of the mask, 0 outside."""
    regions, _ = label_regions(mask, structure=np.ones((3, 3)))
    weights = 1 / np.bincount(regions.ravel()).astype(np.float32)
    weights[0] = 0
    return weights[regions]
