"""The charts of a sweep: metrics against a setting, layers by d, score against cost."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from experiments.drawing.panels import Axis, Line, Panel, round_numbers
from experiments.tables.labels import setting_label, short_key, value_text, variant_labels
from experiments.tables.result_table import column_of, main_scores
from experiments.tables.results import POOLED, Result
from experiments.tables.variants import distinguishing, numbered, variant_means, what_varies

STATE = "cost/state_gb"

COSTS = {STATE: 1.1, "cost/image_s": 1.5}
"""Costs, and how far they have to differ: times alone differ a little between any two runs."""

LAYERS, D = "backbone.layers", "reduction.d"

TICKS = 12
"""Most values of a setting that are all marked on its axis."""

LINES = 7
"""Most lines that can be distinguished in a panel."""

ROWS = 6
"""Most rows of panels in a picture."""


@dataclass(frozen=True)
class Chart:
    """A row of panels, one for each metric.

    Args:
        name: of the picture; several charts may be its rows.
        title: of the chart.
        panels: share their x axis.
        row: settings that all variants shown have in common; empty if these are all variants.
        note: what to know about the numbers.
    """

    name: str
    title: str
    panels: Sequence[Panel]
    row: str
    note: str


def sweep_charts(results: Sequence[Result], metrics: Sequence[str]) -> list[Chart]:
    """All charts there are; none if all results are replicates of one variant.

    Args:
        results: of the jobs.
        metrics: of the table.
    """
    single = [result for result in results if result.category != POOLED]
    settings = what_varies(single)
    variants = numbered(settings)
    settings = settings[~variants.duplicated()].reset_index(drop=True)
    wanted = main_scores(metrics)
    means = variant_means(single, variants, list(dict.fromkeys([*wanted, *COSTS])))
    shown = [metric for metric in wanted if means[metric, "mean"].notna().any()]
    kept = means[[(metric, "mean") for metric in shown]].notna().any(axis=1)
    if settings.columns.empty or kept.sum() < 2:
        return []
    categories = sorted({result.category for result in single})
    one = len(categories) == 1
    about = categories[0] if one else f"mean of {len(categories)} categories"
    seeds = int(means.xs("count", axis=1, level=1).to_numpy().max())
    note = f"{about}, mean over {seeds} seeds" if seeds > 1 else about
    bars = ", bars: standard error" if seeds > 1 else ""
    return [*_charts(settings[kept], means[kept], shown, note, bars)]


def _charts(
    settings: pd.DataFrame, means: pd.DataFrame, metrics: list[str], note: str, bars: str
) -> Iterator[Chart]:
    for key in swept_numbers(settings):
        yield from setting_charts(settings, means, key, metrics, note + bars)
    first, *keys = distinguishing(settings[sorted(settings, key=lambda k: k not in (LAYERS, D))])
    if keys and first == LAYERS:
        yield from _layer_charts(settings, means, keys, metrics, note)
    scores = [metric for metric in metrics if metric not in COSTS]
    for cost, ratio in COSTS.items():
        values = means[cost, "mean"]
        if scores and values.max() > ratio * values.min():
            yield _cost_chart(settings, means, cost, scores, f"{note}{bars}, line: Pareto front")


def setting_charts(
    settings: pd.DataFrame, means: pd.DataFrame, key: str, metrics: Sequence[str], note: str
) -> Iterator[Chart]:
    """Metrics against a setting; a line for each combination of the others.

    A variant without a number there, such as one without reduction, is a level across.

    Args:
        settings: those that vary, as text; a row for each variant.
        means: of `variant_means`, with the same index.
        key: of the setting.
        metrics: a panel each.
        note: of the charts.
    """
    at = _numbers(settings[key])
    row_keys, line_keys = split_panels(_other_settings(settings, key))
    rows, lines = variant_labels(settings, row_keys), variant_labels(settings, line_keys)
    colours = _colours(means[[(metric, "mean") for metric in metrics]].mean(axis=1), lines)
    ticks = sorted(at.dropna().unique().tolist())
    shown = ticks if len(ticks) <= TICKS else []  # a search draws any number of values
    axis = Axis(short_key(key), 0 < 20 * ticks[0] <= ticks[-1], shown)
    for row in rows.unique():
        panels = []
        for metric in metrics:
            column = column_of(metric, means[metric, "mean"])
            points = (means[metric] * column.scale).assign(x=at, value=settings[key])
            drawn = []
            for line, colour in colours.items():
                chosen = points[(rows == row) & (lines == line)].sort_values("x")
                measured = chosen.dropna(subset="x")
                x, y, error = (measured[c].fillna(0).tolist() for c in ("x", "mean", "sem"))
                drawn.append(Line(line, x, y, error, colour))
                for level, value in chosen.loc[chosen["x"].isna(), ["mean", "value"]].to_numpy():
                    label = ", ".join(filter(None, [line, setting_label(key, value)]))
                    ends = [ticks[0], ticks[-1]]
                    drawn.append(Line(label, ends, [level, level], None, colour, dashed=True))
            panels.append(Panel(column.heading, axis, lines=drawn))
        yield Chart(key, f"Against {key}", panels, row, note)


def split_panels(settings: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Settings that make rows of panels and those that make lines, so that neither are too many."""
    rows: list[str] = []
    lines = list(map(str, settings))
    while numbered(settings[lines]).nunique() > LINES and len(lines) > 1:
        fewest = min(lines, key=lambda key: settings[key].nunique())
        if numbered(settings[[*rows, fewest]]).nunique() > ROWS:
            break
        rows.append(fewest)
        lines.remove(fewest)
    return rows, lines


def _layer_charts(
    settings: pd.DataFrame,
    means: pd.DataFrame,
    keys: Sequence[str],
    metrics: Sequence[str],
    note: str,
) -> Iterator[Chart]:
    """Heat maps, layers by another setting, for each combination of the others or their mean."""
    beside, *others = keys
    if numbered(settings[others]).nunique() > ROWS:
        note += f", mean over {', '.join(map(short_key, others))}"
        others = []
    rows = variant_labels(settings, others)
    for row in rows.unique():
        panels = []
        for metric in metrics:
            column = column_of(metric, means[metric, "mean"])
            values = means[metric, "mean"] * column.scale
            axes = [settings.loc[rows == row, key] for key in (LAYERS, beside)]
            grouped = values[rows == row].groupby(axes)
            complete = grouped.count() == grouped.count().max()
            cells = grouped.mean().where(complete).unstack(beside)
            cells = cells.reindex(_in_order(settings[LAYERS]), columns=_in_order(settings[beside]))
            cells.index = cells.index.map(lambda value: value_text(LAYERS, value))
            cells.columns = cells.columns.map(lambda value: value_text(beside, value))
            span = (values.min(), values.max())
            panel = Panel(column.heading, Axis(short_key(beside)), cells=cells, span=span)
            panels.append(replace(panel, digits=column.digits))
        yield Chart("layers", f"Layers by {short_key(beside)}", panels, row, note)


def _cost_chart(
    settings: pd.DataFrame, means: pd.DataFrame, cost: str, metrics: Sequence[str], note: str
) -> Chart:
    """Metrics against a cost, variants of little state first."""
    means = means.sort_values((STATE, "mean"))
    column, labels = (
        column_of(cost, means[cost, "mean"]),
        variant_labels(settings, distinguishing(settings)),
    )
    costs = means[cost] * column.scale
    log = cost == STATE
    ends = costs["mean"].min(), costs["mean"].max()
    axis = Axis(column.title, log, round_numbers(*ends) if log else ())
    panels = []
    for metric in metrics:
        shown = column_of(metric, means[metric, "mean"])
        y = means[metric, "mean"] * shown.scale
        points = pd.DataFrame({"x": costs["mean"], "y": y, "error": costs["sem"], "label": labels})
        points = points.loc[means.index].dropna(subset=["x", "y"])
        points = points.assign(front=pareto_front(points["x"], points["y"]))
        panels.append(Panel(shown.heading, axis, points=points))
    return Chart("cost", f"Against cost: {column.title}", panels, "", note)


def pareto_front(costs: pd.Series, scores: pd.Series) -> pd.Series:
    """Whether no other point costs at most as much, scores at least as high, and is not equal."""
    best = scores.groupby(costs).max()
    cheaper = best.cummax().shift(fill_value=-np.inf)
    return (scores == costs.map(best)) & (scores > costs.map(cheaper))


def swept_numbers(settings: pd.DataFrame) -> list[str]:
    """The settings under which at least two variants differ in a number and in nothing else."""
    return [
        key
        for key in map(str, settings)
        if _numbers(settings[key]).groupby(numbered(_other_settings(settings, key))).nunique().max()
        > 1
    ]


def _other_settings(settings: pd.DataFrame, key: str) -> pd.DataFrame:
    """Settings that distinguish the variants with the same number as `key`, or without one."""
    others = settings.drop(columns=key)
    others.insert(0, key, _numbers(settings[key]).notna())
    return others[[other for other in distinguishing(others) if other != key]]


def _numbers(values: pd.Series) -> pd.Series:
    """Values of a setting as numbers; NaN where it is none, such as "auto" or not there."""
    return pd.to_numeric(values, errors="coerce")


def _in_order(values: pd.Series) -> list[str]:
    """Values of a setting: numbers ascending, then the others in the order met."""
    unique = pd.Series(values.unique())
    return list(unique[_numbers(unique).argsort(kind="stable")])


def _colours(scores: pd.Series, lines: pd.Series) -> dict[str, int | None]:
    """A colour for each line; where there are too many, for the best of them."""
    best = scores.groupby(lines).max().nlargest(LINES).index
    coloured = [line for line in lines.unique() if line in best]
    return {line: coloured.index(line) if line in best else None for line in lines.unique()}
