"""Ranks of variants over categories (Demšar, JMLR 7, 2006)."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from scipy.stats import friedmanchisquare, studentized_range

from experiments.tables.labels import variant_labels

CATEGORIES, VARIANTS = 5, 3
"""The fewest that are ranked; Friedman's test needs three variants."""

LEVEL = 0.05


def rank_notes(scores: pd.DataFrame, title: str) -> Iterator[str]:
    """The mean ranks in a line; none if there are too few of either, or nothing to rank.

    Args:
        scores: a row for each category, a column for each variant, whose labels are its settings;
            higher is better.
        title: of the scores.
    """
    exact = scores.round(9)  # equal ones share a rank
    n, k = exact.shape
    ranked = exact.notna().all(axis=None) and (exact.nunique(axis=1) > 1).any()
    if n < CATEGORIES or k < VARIANTS or not ranked:
        return
    ranks = exact.rank(axis=1, ascending=False).mean().sort_values()
    names = variant_labels(ranks.index.to_frame(), list(map(str, ranks.index.names)))
    listed = ", ".join(f"{rank:.2f} {name}" for rank, name in zip(ranks, names, strict=True))
    p = friedmanchisquare(*(exact[variant] for variant in exact)).pvalue
    yield (
        f"Mean ranks by {title} over {n} categories: {listed}. Friedman test: p = {p:.2g};"
        f" Nemenyi critical difference: {critical_difference(k, n):.2f} (at {LEVEL})."
    )


def critical_difference(variants: int, categories: int) -> float:
    """Nemenyi's: mean ranks that differ by less are not distinguished at `LEVEL`."""
    quantile = studentized_range.ppf(1 - LEVEL, variants, np.inf) / np.sqrt(2)
    return float(quantile * np.sqrt(variants * (variants + 1) / (6 * categories)))
