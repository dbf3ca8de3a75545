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
    """Mean and standard error of each variant over its seeds: `over_seeds` of `seed_values`."""
    return over_seeds(seed_values(results, variants, metrics))


def seed_values(
    results: Sequence[Result],
    variants: pd.Series,
    metrics: Sequence[str],
    combinations: pd.Series | None = None,
) -> pd.DataFrame:
    """Metrics of each variant with each of its seeds (see `Result.seeds`) on each category.

    Args:
        results: of runs.
        variants: the number of each result's variant (see `numbered`).
        metrics: names of the metrics; NaN where a result does not have one.
        combinations: the number of each result's settings, where a variant has several: their mean
            is taken, NaN where one is missing. One that lacks a seed is the same with each.

    Returns:
        A column for each metric; the index is variant, seeds (see `seeds_text`) and category.
    """
    measured = pd.DataFrame([r.metrics for r in results]).reindex(columns=list(metrics))
    rows = measured.astype(float).assign(
        variant=variants.to_numpy(),
        combination=0 if combinations is None else combinations.to_numpy(),
        seeds=list(map(seeds_text, results)),
        category=[r.category for r in results],
    )
    # A job may be asked for twice.
    rows = rows.drop_duplicates(["variant", "combination", "seeds", "category"])
    known = rows.groupby("variant")["seeds"].unique()
    seeds = [
        [more for more in known[variant] if {*own.split()} < {*more.split()}] or [own]
        for variant, own in zip(rows["variant"], rows["seeds"], strict=True)
    ]
    each = rows.assign(seeds=pd.Series(seeds, rows.index)).explode("seeds")
    values = each.groupby(["variant", "seeds", "category"], sort=False)[list(metrics)]
    asked = rows.groupby("variant")["combination"].nunique()
    return values.mean().where(values.count().eq(asked, axis=0, level="variant"))


def over_seeds(values: pd.DataFrame, spread: str = "sem") -> pd.DataFrame:
    """Mean and spread of each variant over its seeds.

    The value of a seed is the unweighted mean over the categories there are; a seed that lacks one,
    or has a metric that is not defined there, does not count.

    Args:
        values: of `seed_values`, or of some of its categories.
        spread: as pandas calls it, "sem" or "std".

    Returns:
        A row for each variant, in the order met; its columns are pairs of a metric and "mean",
        the spread's name or "count".
    """
    of_seed = values.groupby(level=["variant", "seeds"], sort=False)
    complete = of_seed.count() == values.index.get_level_values("category").nunique()
    by_seed = of_seed.mean().where(complete)
    return by_seed.groupby(level="variant", sort=False).agg(["mean", spread, "count"])


def seeds_text(result: Result) -> str:
    """The seeds that determine a result, such as "seed=0 reduction.seed=0"."""
    return " ".join(f"{key}={seed}" for key, seed in result.seeds.items())


def distinguishing(settings: pd.DataFrame) -> list[str]:
    """The fewest columns in which all rows differ that differ at all; the first are preferred."""
    kept = list(map(str, settings))
    for key in reversed(kept):
        fewer = [other for other in kept if other != key]
        if numbered(settings[fewer]).nunique() == numbered(settings).nunique():
            kept = fewer
    return kept
