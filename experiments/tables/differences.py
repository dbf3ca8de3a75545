"""Differences between two variants, paired, and whether they are more than chance."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap, rankdata, wilcoxon

FEWEST = 6
"""Pairs of which a two-sided signed-rank test can find anything at 5 %: of five, p is 1/16."""

RESAMPLES = 2000


def pairs(own: pd.DataFrame, baseline: pd.DataFrame) -> pd.DataFrame:
    """The values of two variants on the same category with the same seed, side by side.

    Args:
        own, baseline: rows of `seed_values`, its index as columns.

    Returns:
        The same columns, and with "_base" those of the baseline. A variant that lacks a seed, such
        as that of a reduction, is the same with each.
    """
    both = own.merge(baseline, on="category", suffixes=("", "_base"))
    seeds = both[["seeds", "seeds_base"]].map(lambda text: {*text.split()}).to_numpy()
    return both[np.array([one <= other or other <= one for one, other in seeds], bool)]


def signed_rank_p(differences: pd.Series) -> float:
    """Two-sided p of Wilcoxon's signed-rank test; NaN for fewer than `FEWEST` pairs."""
    exact = differences.round(9)  # or the rounding of a subtraction would break ties
    if len(exact) < FEWEST:
        return np.nan
    return float(wilcoxon(exact).pvalue) if exact.any() else 1.0


def auroc_interval(own: Path | None, baseline: Path | None) -> tuple[float, float] | None:
    """95 % percentile interval of the difference in image AUROC between two runs.

    Both are measured on the same resamples of the test images, normal and anomalous ones apart
    (Robin et al., pROC, BMC Bioinformatics 12:77, 2011).

    Args:
        own, baseline: predictions.csv of each run, if it has one; images are matched by path.

    Returns:
        None where a file is missing or the two do not share images of both kinds.
    """
    if not (own and own.is_file() and baseline and baseline.is_file()):
        return None
    options: Any = {"usecols": ["path", "label", "score"], "encoding_errors": "surrogateescape"}
    one, other = (pd.read_csv(path, **options) for path in (own, baseline))
    both = one.merge(other, on=["path", "label"], suffixes=("", "_base"))
    scores = both[["score", "score_base"]].to_numpy()
    images = [np.flatnonzero(both["label"] == label) for label in (0, 1)]
    if not all(map(len, images)):
        return None

    def difference(normal: np.ndarray, anomalous: np.ndarray) -> float:
        ranks = rankdata(scores[np.concatenate([normal, anomalous])], axis=0)
        # AUROC is linear in the sum of the anomalous ranks; what else it has cancels out.
        of_anomalous = ranks[len(normal) :, 0] - ranks[len(normal) :, 1]
        return float(of_anomalous.mean() / len(normal))

    found = bootstrap(
        images,
        difference,
        n_resamples=RESAMPLES,
        batch=100,
        vectorized=False,
        method="percentile",
        random_state=0,
    )
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def difference_notes(shown: pd.DataFrame, baseline: str) -> Iterator[str]:
    """What the differences are, and by which tests they were judged.

    Args:
        shown: rows of a table's `numbers`.
        baseline: its settings.
    """
    counts = shown.filter(like="_pairs")
    few, most = (int(counts.agg(end).agg(end)) for end in ("min", "max"))
    n = f"{few} to {most}" if few < most else str(most)
    yield f"to baseline: mean difference to {baseline}, paired by category and seed; pairs: {n}."
    if most >= FEWEST:
        yield (
            f"p: two-sided Wilcoxon signed-rank test, where there are {FEWEST} pairs or more, taken"
            " as independent; not corrected for the number of comparisons."
        )
    elif most > 1:
        yield f"Fewer than {FEWEST} pairs: no test."
    if shown.filter(like="_low").notna().any(axis=None):
        yield (
            "[ ]: 95 % percentile interval of a paired bootstrap over the test images,"
            f" {RESAMPLES} resamples."
        )
