"""Metrics of image scores and anomaly maps, all of a set from one curve."""

import logging

import numpy as np
import torch
from scipy.ndimage import label as label_regions
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from padim.bootstrap import percentile_intervals
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
    recall_at,
    roc_points,
    score_curve,
)
from padim.per_image_overlap import aupimo, highest, order_statistics

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
        false_alarm_rate: of normal samples; then there is `recall_at_far`, the share of anomalous
            samples found by the lowest threshold that calls no more normal ones anomalous.
        resamples: of the test images, by which `_ci_low` and `_ci_high` of a metric are found, its
            95 % interval of a bootstrap (see `percentile_intervals`); 0 for none.

    Attributes:
        curves: "roc" and "pr" of the last `compute`, and "pro" of pixels; empty where undefined.
    """

    full_state_update = False
    samples: list[Tensor]
    counts: list[Tensor]

    def __init__(
        self,
        binned: bool | None = None,
        false_alarm_rate: float | None = None,
        resamples: int = 0,
    ) -> None:
        super().__init__(compute_on_cpu=True)
        self.binned = binned
        self.false_alarm_rate = false_alarm_rate
        self.resamples = resamples
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
        self.curves = {"roc": roc_points(curve), "pr": precision_recall_points(curve)}
        return curve

    def _common(self, curve: Curve) -> dict[str, Tensor]:
        f1, threshold = best_f1(curve)
        values = {
            "auroc": auroc(curve),
            "ap": average_precision(curve),
            "f1_max": f1,
            "f1_max_threshold": threshold,
        }
        if self.false_alarm_rate is not None:
            values["recall_at_far"] = recall_at(curve, self.false_alarm_rate)
        return values


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
        """`auroc`, `ap`, `f1_max`, the threshold of the latter, and what was asked for beside."""
        curve = self._curve()
        if curve is None:
            return {}
        samples = dim_zero_cat(self.samples).cpu()
        anomalous = (samples & 0xFFFFFFFF) > 0  # the weight is the lower half
        groups = [samples[~anomalous], samples[anomalous]]
        return self._common(curve) | percentile_intervals(
            groups, lambda drawn: self._common(score_curve(drawn)), self.resamples
        )


class PixelMetrics(_ScoreMetric):
    """AUROC, average precision, best F1, PRO and AUPIMO of anomaly maps.

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
        false_alarm_rate, resamples: see `ImageMetrics`. AUPIMO alone has an interval, that of the
            anomalous images' values under the thresholds of all normal images.

    Attributes:
        aupimo: of the last `compute`: (M,) of all images in their order, NaN of normal ones; None
            where undefined. Its memory is 16 kB an anomalous image, and 8 bytes a pixel of one
            image.
    """

    regions: Tensor
    normal_images: Tensor
    normal_pixels: list[Tensor]
    anomalous_pixels: list[Tensor]
    sizes: list[Tensor]

    def __init__(
        self,
        binned: bool | None = None,
        false_alarm_rate: float | None = None,
        resamples: int = 0,
    ) -> None:
        super().__init__(binned, false_alarm_rate, resamples)
        self.add_state("regions", torch.zeros(2), dist_reduce_fx="sum")
        self.add_state("normal_images", torch.tensor(0), dist_reduce_fx="sum")
        for name in ("normal_pixels", "anomalous_pixels", "sizes"):
            self.add_state(name, [], dist_reduce_fx="cat")
        self.cell = 0.0
        self.aupimo: Tensor | None = None

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
        self._add_overlaps(maps.detach().float(), masks.bool().to(maps.device), seen)
        if seen is not None:
            maps, weights = maps[seen], weights[seen]
        self._add(maps, weights)

    def compute(self) -> dict[str, Tensor]:
        """`auroc`, `ap`, `f1_max`, the threshold of the latter, `pro`, and `aupimo` if defined."""
        self.aupimo = None
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
        values["pro"] = per_region_overlap(curve)
        states = self.normal_pixels, self.anomalous_pixels, self.sizes
        normal, anomalous, sizes = map(dim_zero_cat, states)
        self.aupimo = aupimo(normal, int(self.normal_images), anomalous, sizes)
        if self.aupimo is not None:
            found = self.aupimo[~self.aupimo.isnan()]
            values["aupimo"] = found.mean()
            values |= percentile_intervals([found], lambda x: {"aupimo": x.mean()}, self.resamples)
        return values

    def _add_overlaps(self, maps: Tensor, masks: Tensor, seen: Tensor | None) -> None:
        """Keep what AUPIMO needs of each image: anomalous pixels, or the highest normal ones."""
        found = [order_statistics(scores[mask]) for scores, mask in zip(maps, masks, strict=True)]
        normal = dim_zero_cat(self.normal_pixels) if self.normal_pixels else torch.empty(0).long()
        for i in (i for i, scores in enumerate(found) if not len(scores)):
            pixels = maps[i].flatten() if seen is None else maps[i][seen[i]]
            normal = highest(pixels, normal)
            self.normal_images += 1
        self.normal_pixels = [normal]
        self.anomalous_pixels.append(torch.cat([torch.empty(0), *found]))
        self.sizes.append(torch.tensor([len(scores) for scores in found], dtype=torch.int64))


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
