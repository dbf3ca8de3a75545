"""The variants of a sweep: settings in which they differ, and their means over seeds."""

from collections.abc import Sequence

import pandas as pd

from experiments.tables.results import Result


def what_varies(results: Sequence[Result], seeds: bool = False) -> pd.DataFrame:
    """A row for each result, a column for each setting that is not the same in all, as text.

    All seeds, if asked for, are the last columns. What a result does not have is empty.
    """
    chosen = [r.settings | (r.all_seeds if seeds else {}) for r in results]
    settings = pd.DataFrame({k: str(v) for k, v in one.items()} for one in chosen)
    varying = settings.loc[:, settings.nunique(dropna=False) > 1].fillna("")
    names = pd.Series([r.variant for r in results], name="variant")
    return pd.concat([names, varying], axis=1) if names.nunique() > 1 else varying


def numbered(settings: pd.DataFrame) -> pd.Series:
    """A number for each row, the same for equal rows, counted in the order met."""
    codes, _ = pd.factorize(pd.Series(list(map(tuple, settings.to_numpy().tolist())), dtype=object))
    return pd.Series(codes, settings.index)


def variant_means(
    results: Sequence[Result], variants: pd.Series, metrics: Sequence[str]
) -> pd.DataFrame:
    """Mean and standard error of each variant over its seeds (see `Result.seeds`).

    The value of a seed is the unweighted mean over the categories of all results; a seed that lacks
    a category, or has a metric that is not defined there, does not count.

    Args:
        results: of runs.
        variants: the number of each result's variant (see `numbered`).
        metrics: names of the metrics; NaN where a result does not have one.

    Returns:
        A row for each variant, in the order met; its columns are pairs of a metric and "mean",
        "sem" or "count".
    """
    measured = pd.DataFrame([r.metrics for r in results]).reindex(columns=list(metrics))
    rows = measured.astype(float).assign(
        variant=variants.to_numpy(),
        seeds=[str(r.seeds) for r in results],
        category=[r.category for r in results],
    )
    rows = rows.drop_duplicates(["variant", "seeds", "category"])  # a job may be asked for twice
    of_seed = rows.groupby(["variant", "seeds"], sort=False)[list(metrics)]
    by_seed = of_seed.mean().where(of_seed.count() == rows["category"].nunique())
    return by_seed.groupby(level="variant", sort=False).agg(["mean", "sem", "count"])


def distinguishing(settings: pd.DataFrame) -> list[str]:
    """The fewest columns in which all rows differ that differ at all; the first are preferred."""
    kept = list(map(str, settings))
    for key in reversed(kept):
        fewer = [other for other in kept if other != key]
        if numbered(settings[fewer]).nunique() == numbered(settings).nunique():
            kept = fewer
    return kept
