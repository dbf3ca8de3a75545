"""Confidence intervals of metrics by resampling the test images."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import torch
from scipy.stats import bootstrap
from torch import Tensor


def percentile_intervals(
    groups: Sequence[Tensor], statistic: Callable[[Tensor], Mapping[str, Tensor]], resamples: int
) -> dict[str, Tensor]:
    """95 % percentile intervals (Efron and Tibshirani, An Introduction to the Bootstrap, ch. 13).

    Each group is resampled by itself, so that all resamples have as many normal images.

    Args:
        groups: (N,) samples of each kind of image.
        statistic: values by name of all groups' samples, one after the other.
        resamples: their number; 0 for no interval.

    Returns:
        `_ci_low` and `_ci_high` of each value; nothing where a group has fewer than two samples.
    """
    if not resamples or min(map(len, groups)) < 2:
        return {}
    names = list(statistic(torch.cat(list(groups))))

    def values(*parts: np.ndarray, axis: int) -> np.ndarray:
        rows = torch.from_numpy(np.concatenate(parts, axis=-1))
        return np.array([[*map(float, statistic(row).values())] for row in rows]).T

    found = bootstrap(
        [group.numpy() for group in groups],
        values,
        n_resamples=resamples,
        vectorized=True,
        method="percentile",
        random_state=0,
    )
    low, high = map(torch.from_numpy, found.confidence_interval)
    ends = (("_ci_low", low), ("_ci_high", high))
    return {f"{name}{end}": at[i] for i, name in enumerate(names) for end, at in ends}
