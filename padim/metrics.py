"""Metrics of image scores and anomaly maps, all of a set from one curve."""

import logging

import numpy as np
import torch
from scipy.ndimage import label as label_regions
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from padim.curve import (
    BINS,
    Curve,
    CurvePoints,
    auroc,
    average_precision,
    best_f1,
    count_scores,
    histogram_curve,
    overlap_points,
    pack,
    per_region_overlap,
    precision_recall_points,
    roc_points,
    score_curve,
)

BINNED_ERROR = 1e-3
"""Error of a binned metric above which a warning says so."""

SMALL_SHARE = 0.25
"""Share of the regions smaller than a cell of the feature maps above which that is logged."""

MOST_EXACT = 30_000_000
"""Samples that are kept unless it is said otherwise: 0.24 GB, and 0.8 while computing."""

log = logging.getLogger(__name__)


class _ScoreMetric(Metric):
    """Scores and weights, all kept or only counted; exact across devices either way.

    Args:
        binned: keep counts of the scores instead of the scores; None: once there are more than
            `MOST_EXACT` in a process.

    Attributes:
        curves: "roc" and "pr" of the last `compute`, and "pro" of pixels; empty where undefined.
    """

    full_state_update = False
    samples: list[Tensor]
    counts: list[Tensor]

    def __init__(self, binned: bool | None = None) -> None:
        super().__init__(compute_on_cpu=True)
        self.binned = binned
        self.curves: dict[str, CurvePoints] = {}
        self.add_state("samples", default=[], dist_reduce_fx="cat")
        self.add_state("counts", default=[], dist_reduce_fx="cat")

    def _add(self, scores: Tensor, weights: Tensor) -> None:
        self.samples.append(pack(scores.detach().float().flatten(), weights.float().flatten()))
        if not self.counts:  # each process has something to be gathered, counts or none
            self.counts = [torch.empty(0, BINS, dtype=torch.float64)]
        many = len(self.counts[0]) or sum(map(len, self.samples)) > MOST_EXACT
        if self.binned or (self.binned is None and many):
            if self.binned is None and not len(self.counts[0]):
                log.info(
                    "more than %d million scores are binned, with an error below %g:"
                    " metrics.binned=false keeps them, 26 bytes each",
                    *(MOST_EXACT // 10**6, BINNED_ERROR),
                )
            if not len(self.counts[0]):
                self.counts = [torch.zeros(3, BINS, dtype=torch.float64)]
            for bins, counts in map(count_scores, self.samples):
                self.counts[0][:, bins] += counts
            self.samples = [self.samples[0][:0]]

    def _curve(self) -> Curve | None:
        """None unless there are both normal and anomalous samples: nothing is defined then."""
        self.curves = {}
        # Each a list of tensors, or across devices one tensor.
        samples, counts = (
            dim_zero_cat(state) if len(state) else torch.empty(0)
            for state in (self.samples, self.counts)
        )
        if len(counts):  # of one process at least; others may have kept their scores
            counts = counts.view(-1, 3, BINS).sum(dim=0)
            bins, others = count_scores(samples)
            counts[:, bins] += others
            curve = histogram_curve(counts) if counts.any() else None
            _warn_of_ties(counts)
        else:
            curve = score_curve(samples) if len(samples) else None
        if curve is None or not (curve.true_positives[-1] and curve.false_positives[-1]):
            return None
        return curve

    def _common(self, curve: Curve) -> dict[str, Tensor]:
        self.curves = {"roc": roc_points(curve), "pr": precision_recall_points(curve)}
        f1, threshold = best_f1(curve)
        return {
            "auroc": auroc(curve),
            "ap": average_precision(curve),
            "f1_max": f1,
            "f1_max_threshold": threshold,
        }


def _warn_of_ties(counts: Tensor) -> None:
    """Say so where many normal and anomalous scores share a bin, which counts as a tie."""
    normal, anomalous, _ = counts
    error = float(normal @ anomalous / (normal.sum() * anomalous.sum()) / 2)
    if error > BINNED_ERROR:
        log.warning(
            "scores lie so close together that binning changes the AUROC by up to %.1g:"
            " measure with metrics.binned=false",
            error,
        )


class ImageMetrics(_ScoreMetric):
    """AUROC, average precision and best F1 of image scores.

    `compute` returns an empty dict where only one kind of image was seen.

    >>> metrics = ImageMetrics()
    >>> metrics.update(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([0, 0, 1, 1]))
    >>> {name: round(float(value), 3) for name, value in metrics.compute().items()}
    {'auroc': 0.75, 'ap': 0.833, 'f1_max': 0.8, 'f1_max_threshold': 0.35}
    """

    def update(self, scores: Tensor, labels: Tensor) -> None:
        """Add (B,) scores and (B,) labels, 1 for anomalous."""
        self._add(scores, labels)

    def compute(self) -> dict[str, Tensor]:
        """`auroc`, `ap`, `f1_max` and the threshold of the latter."""
        curve = self._curve()
        return {} if curve is None else self._common(curve)


class PixelMetrics(_ScoreMetric):
    """AUROC, average precision, best F1 and PRO of anomaly maps.

    Regions are the 8-connected components of each mask.
    `compute` returns an empty dict where only one kind of pixel was seen.

    >>> metrics = PixelMetrics()
    >>> metrics.update(torch.tensor([[[0.1, 0.9, 0.3, 0.2]]]), torch.tensor([[[0, 1, 0, 1]]]))
    >>> {name: round(float(value), 3) for name, value in metrics.compute().items()}
    {'auroc': 0.75, 'ap': 0.833, 'f1_max': 0.8, 'f1_max_threshold': 0.2, 'pro': 0.5}

    Args:
        binned: count the scores in bins (see `count_scores`): 50 MB whatever the number of pixels,
            with an error below 1e-3, or a warning that says how large it may be. False: every score
            is kept: exact, 8 bytes a pixel, 26 while computing. None: up to `MOST_EXACT` are kept.
    """

    regions: Tensor

    def __init__(self, binned: bool | None = None) -> None:
        super().__init__(binned)
        self.add_state("regions", torch.zeros(2), dist_reduce_fx="sum")
        self.cell = 0.0

    def update(
        self, maps: Tensor, masks: Tensor, ignored: Tensor | None = None, cell: float = 0
    ) -> None:
        """Add (B, H, W) maps and (B, H, W) bool masks, true where anomalous.

        Pixels that are true in `ignored`, bool (H, W) or (B, H, W), do not count; regions end at
        them. A cell of the finest feature map is `cell` pixels; how many regions are smaller is
        logged by `compute`, if many are.
        """
        seen = None if ignored is None else ~ignored.expand_as(maps)
        masks = masks if seen is None else masks.bool() & seen
        weights = torch.zeros_like(maps)
        for i, mask in enumerate(masks.cpu().numpy()):
            weights[i] = torch.from_numpy(region_weights(mask)).to(maps.device)
        self.cell = cell or self.cell
        for i, some in enumerate((weights, weights[weights * cell > 1])):
            self.regions[i] += some.sum()  # a region's weights sum to 1
        if seen is not None:
            maps, weights = maps[seen], weights[seen]
        self._add(maps, weights)

    def compute(self) -> dict[str, Tensor]:
        """`auroc`, `ap`, `f1_max`, the threshold of the latter, and `pro`."""
        curve = self._curve()
        if curve is None:
            return {}
        count, small = self.regions.round().int().tolist()
        if small > SMALL_SHARE * count:
            log.info(
                "%d of %d defects are smaller than a cell of the finest feature map, %.0f pixels:"
                " images of a higher resolution, preprocessing.resize and crop, may show them",
                *(small, count, self.cell),
            )
        values = self._common(curve)
        self.curves["pro"] = overlap_points(curve)
        return {**values, "pro": per_region_overlap(curve)}


def region_weights(mask: np.ndarray) -> np.ndarray:
    """(H, W) float32: 1 / |region| in each 8-connected region of the mask, 0 outside.

    >>> region_weights(np.array([[1, 1, 0, 1]]))
    array([[0.5, 0.5, 0. , 1. ]], dtype=float32)
    """
    if not mask.any():  # as of most frames of a video
        return np.zeros(mask.shape, np.float32)
    regions, _ = label_regions(mask, structure=np.ones((3, 3)))
    weights: np.ndarray = 1 / np.bincount(regions.ravel()).astype(np.float32)
    weights[0] = 0
    pixels: np.ndarray = weights[regions]
    return pixels
