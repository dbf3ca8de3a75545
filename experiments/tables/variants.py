"""The variants of a sweep: means, what tells them apart, and which figures of them are drawn."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from experiments.tables.results import POOLED, Result, is_seed

SCORES = ("image/auroc", "pixel/auroc", "pixel/pro")
"""The metrics drawn, where the table has one of them; else its first three."""

STATE = "cost/state_gb"

COSTS = (STATE, "cost/image_s")

LAYERS, D = "backbone.layers", "reduction.d"

ROWS = 6
"""Most rows of panels in a picture."""


def what_varies(results: Sequence[Result], seeds: bool = False) -> pd.DataFrame:
    """A row for each result, a column for each setting that is not the same in all, as text.

    All seeds, if asked for, are the last columns. What a result does not have is empty.
    """
    chosen = [r.settings for r in results]
    if seeds:
        chosen = [r.settings | {k: v for k, v in r.config.items() if is_seed(k)} for r in results]
    settings = pd.DataFrame({k: str(v) for k, v in one.items()} for one in chosen)
    varying = settings.loc[:, settings.nunique(dropna=False) > 1].fillna("")
    names = pd.Series([r.variant for r in results], name="variant")
    return pd.concat([names, varying], axis=1) if names.nunique() > 1 else varying


def variant_means(results: Sequence[Result], metrics: Sequence[str]) -> pd.DataFrame:
    """Mean and standard error of each variant over its draws (see `Result`).

    A draw is the unweighted mean over the categories of all results; one that lacks a category, or
    has a metric that is not defined there, does not count.

    Args:
        results: of at least two variants.
        metrics: names of the metrics; NaN where a result does not have one.

    Returns:
        A row for each variant, in the order met. The levels of its index are the settings that
        vary, as text; its columns are pairs of a metric and "mean", "sem" or "count".
    """
    single = [result for result in results if result.category != POOLED]
    settings = what_varies(single)
    draws = pd.Series([str(result.seeds) for result in single], name="draw")
    categories = pd.Series([result.category for result in single], name="category")
    figures = pd.DataFrame([r.metrics for r in single]).reindex(columns=list(metrics))
    rows = pd.concat([settings, draws, categories, figures.astype(float)], axis=1)
    rows = rows.drop_duplicates([*settings, "draw", "category"])  # a job may be asked for twice
    of_draw = rows.groupby([*settings, "draw"], sort=False)[list(metrics)]
    by_draw = of_draw.mean().where(of_draw.count() == categories.nunique())
    return by_draw.groupby(level=list(settings), sort=False).agg(["mean", "sem", "count"])


def telling(settings: pd.DataFrame) -> list[str]:
    """The fewest columns under which no two rows look alike that differ; the first come first."""
    kept = list(map(str, settings))
    for key in reversed(kept):
        fewer = [other for other in kept if other != key]
        if combinations(settings[fewer]) == combinations(settings):
            kept = fewer
    return kept


def combinations(settings: pd.DataFrame) -> int:
    """The number of rows that differ."""
    return len(set(map(tuple, settings.to_numpy().tolist())))


def numbers(means: pd.DataFrame, key: str) -> pd.Series:
    """The values of a setting as numbers; NaN where it is none, such as "auto" or not there."""
    values = means.index.get_level_values(key).to_series(means.index)
    return pd.to_numeric(values, errors="coerce")


def other_settings(means: pd.DataFrame, key: str) -> pd.DataFrame:
    """What tells the variants apart that have the same number as `key`, or none."""
    settings = means.index.to_frame().drop(columns=key)
    settings.insert(0, key, numbers(means, key).notna())
    return settings[[other for other in telling(settings) if other != key]]


def settings_of(means: pd.DataFrame, *first: str) -> pd.DataFrame:
    """What varies, some of it first."""
    settings = means.index.to_frame()
    return settings[sorted(settings, key=lambda key: key not in first)]


def in_order(values: pd.Series) -> list[str]:
    """Values of a setting: numbers ascending, then the others in the order met."""
    unique = pd.Series(values.unique())
    return list(unique[pd.to_numeric(unique, errors="coerce").argsort(kind="stable")])


def swept_numbers(means: pd.DataFrame) -> list[str]:
    """The settings under which at least two variants differ in a number and in nothing else."""
    return [
        key
        for key in map(str, means.index.names)
        if numbers(means, key).groupby(groups(other_settings(means, key))).nunique().max() > 1
    ]


def beside_layers(means: pd.DataFrame) -> str | None:
    """The setting to put beside the layers in a heat map: d, or the first that varies with them."""
    told = telling(settings_of(means, LAYERS, D))
    return told[1] if len(told) > 1 and told[0] == LAYERS else None


def groups(settings: pd.DataFrame) -> pd.Series:
    """Equal numbers for equal rows, counted in the order met."""
    codes, _ = pd.factorize(pd.Series(list(map(tuple, settings.to_numpy().tolist()))))
    return pd.Series(codes, settings.index)


def pareto_front(costs: pd.Series, scores: pd.Series) -> pd.Series:
    """Whether no other point costs at most as much, scores at least as high, and is not equal."""
    best = scores.groupby(costs).max()
    cheaper = best.cummax().shift(fill_value=-np.inf)
    return (scores == costs.map(best)) & (scores > costs.map(cheaper))
