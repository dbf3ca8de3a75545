"""Drift: whether new normal images are still from the distribution of the fit."""

import math
from collections.abc import Sequence

import torch
from scipy.stats import ks_2samp
from torch import Tensor

from padim.calibration import p_value
from padim.model import PaDiM, Prediction
from padim.statistics import PatchStatistics


@torch.no_grad()
def mean_as_image(statistics: PatchStatistics, mean: Sequence[Tensor], images: int) -> list[Tensor]:
    """The mean embedding of k new images, as far off the mean of the fit as one image would be.

    With n images of the fit, the mean of k others is off theirs by N(0, (1/k + 1/n) Sigma), and one
    other by N(0, (1 + 1/n) Sigma). So stretched by the root of the quotient, a mean without drift
    scores as a normal image does and has its p-value from the calibration, however well Sigma is
    known; with drift it scores up to sqrt(k) times as high.

    Args:
        statistics: of the n images.
        mean: of the embedding of the others, one (G_l, d_l, 1) tensor a level.
        images: k.

    Returns:
        One (G_l, d_l, 1) tensor a level.
    """
    n = int(statistics.count)
    stretch = math.sqrt((1 + 1 / n) / (1 / images + 1 / n))
    centres = [statistics.mean(level).unsqueeze(-1) for level in range(len(mean))]
    return [torch.lerp(c, x, stretch) for c, x in zip(centres, mean, strict=True)]


def drift_p_values(model: PaDiM, scores: Tensor, mean: Prediction) -> dict[str, float]:
    """p-values of three tests; that of all of them is three times the least (Bonferroni).

    Args:
        model: calibrated, by m images.
        scores: of the new images, (k,).
        mean: of `mean_as_image`.

    Returns:
        "scores", "highest of the mean" (its score) and "whole of the mean" (the mean of its map);
        the last two are 1 / (m + 1) at least.
    """
    known = model.calibration
    assert known is not None
    return {
        "scores": scores_differ(known.scores, scores),
        "highest of the mean": float(known.p_value(mean.scores)[0]),
        "whole of the mean": float(p_value(known.means, mean.maps.mean(dim=(1, 2)))[0]),
    }


def scores_differ(known: Tensor, new: Tensor) -> float:
    """p-value of new image scores (k,) beside those of a calibration (m,).

    That of the two-sample Kolmogorov-Smirnov test, exact where m k is at most 10,000. It asks
    whether the p-values of the new images are uniform, and knows that all are by the same m scores.
    """
    return float(ks_2samp(known.cpu().numpy(), new.cpu().numpy()).pvalue)
