"""Interactive figures of what a sweep has varied, and of runs side by side."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import pandas as pd
import plotly.graph_objects as go

from experiments.report.figures import COLOURS, compared_curves, round_numbers
from experiments.report.runs import Run
from experiments.tables.labels import short_key, value_text, variant_labels
from experiments.tables.result_table import column_of
from experiments.tables.results import POOLED, Result
from experiments.tables.variants import (
    COSTS,
    LAYERS,
    ROWS,
    SCORES,
    STATE,
    beside_layers,
    combinations,
    in_order,
    numbers,
    other_settings,
    pareto_front,
    settings_of,
    swept_numbers,
    telling,
    variant_means,
    what_varies,
)

GREY = "#8a8f98"


@dataclass(frozen=True)
class Comparison:
    """Figures of one kind, a metric each, by title; `note` says what to know."""

    title: str
    figures: dict[str, go.Figure]
    note: str = ""


def comparisons(results: Sequence[Result], runs: Sequence[Run]) -> Iterator[Comparison]:
    """All there is to compare: settings, layers, costs, curves; nothing for a single run.

    Args:
        results: of all runs.
        runs: those whose curves are laid over one another.
    """
    single = [result for result in results if result.category != POOLED]
    if not what_varies(single).columns.empty:
        means = variant_means(single, [*SCORES, *COSTS])
        shown = [metric for metric in SCORES if means[metric, "mean"].notna().any()]
        means = means[means[[(metric, "mean") for metric in shown]].notna().any(axis=1)]
        if shown and len(means) > 1:
            yield from _settings_and_costs(means, shown)
    curves = compared_curves(runs[: len(COLOURS)])
    if len(runs) > 1 and curves:
        few = f"The first {len(COLOURS)} of {len(runs)} runs." if len(runs) > len(COLOURS) else ""
        yield Comparison("Curves", curves, few)


def _settings_and_costs(means: pd.DataFrame, shown: Sequence[str]) -> Iterator[Comparison]:
    draws = int(means.xs("count", axis=1, level=1).to_numpy().max())
    note = f"Mean over {draws} draws; bars: standard error." if draws > 1 else ""
    for key in swept_numbers(means):
        figures = {_title(metric): setting_figure(means, key, metric) for metric in shown}
        yield Comparison(f"Against {key}", figures, note)
    if beside := beside_layers(means):
        yield from _layers(means, beside, shown)
    for cost in COSTS:
        values = means[cost, "mean"]
        # Times alone differ a little between any two runs.
        if values.notna().any() and values.max() > 1.1 * values.min():
            figures = {_title(metric): cost_figure(means, cost, metric) for metric in shown}
            front = "The line is the Pareto front: the best for at most that cost."
            yield Comparison(f"Against cost: {column_of(cost).title}", figures, front)


def setting_figure(means: pd.DataFrame, key: str, metric: str) -> go.Figure:
    """A metric against a setting; a line for each combination of the others.

    Args:
        means: of `variant_means`; so in the other figures.
        key: of the setting; a variant without a number there is a dashed line across.
        metric: its name.
    """
    at = numbers(means, key)
    lines = variant_labels(means, list(map(str, other_settings(means, key))))
    values = means[metric] * column_of(metric).scale
    best = values["mean"].groupby(lines).max().nlargest(len(COLOURS)).index
    colours = dict(zip((line for line in lines.unique() if line in best), COLOURS, strict=False))
    figure = go.Figure()
    for line in lines.unique():
        chosen = values.assign(at=at)[lines == line].sort_values("at")
        points, others = chosen.dropna(subset="at"), chosen[chosen["at"].isna()]
        style = {"color": colours.get(line, GREY), "width": 2 if line in colours else 1}
        figure.add_scatter(
            x=points["at"].tolist(),
            y=points["mean"].tolist(),
            error_y={"array": points["sem"].fillna(0).tolist(), "thickness": 1, "width": 3},
            name=line,
            mode="lines+markers",
            line=style,
            showlegend=bool(line) and line in colours,
            hovertemplate=f"{short_key(key)} %{{x}}: %{{y:.1f}}<extra>{line}</extra>",
        )
        for level in others["mean"]:
            ends = [at.min(), at.max()]
            figure.add_scatter(
                x=ends,
                y=[level, level],
                name=f"{line}, none" if line else "none",
                mode="lines",
                line={**style, "dash": "dash"},
            )
    ticks = sorted(at.dropna().unique())
    wide = ticks[0] > 0 and ticks[-1] >= 20 * ticks[0]
    figure.update_xaxes(title=short_key(key), tickvals=ticks, type="log" if wide else "linear")
    return figure


def _layers(means: pd.DataFrame, beside: str, shown: Sequence[str]) -> Iterator[Comparison]:
    """Heat maps of layers by another setting, for each combination of the others."""
    settings = settings_of(means, LAYERS, beside)
    others = [key for key in telling(settings) if key not in (LAYERS, beside)]
    note = ""
    if combinations(settings[others]) > ROWS:
        note = f"Mean over {', '.join(map(short_key, others))}."
        others = []
    rows = variant_labels(means, others)
    for row in rows.unique():
        figures = {
            _title(metric): layer_figure(means[rows == row], beside, metric) for metric in shown
        }
        title = f"Layers by {short_key(beside)}"
        yield Comparison(f"{title}, {row}" if row else title, figures, note)


def layer_figure(means: pd.DataFrame, beside: str, metric: str) -> go.Figure:
    """A heat map of a metric, layers by another setting; the mean where variants share a cell."""
    settings = means.index.to_frame()
    rows, columns = in_order(settings[LAYERS]), in_order(settings[beside])
    grouped = (means[metric, "mean"] * column_of(metric).scale).groupby(level=[LAYERS, beside])
    complete = grouped.count() == grouped.count().max()
    cells = grouped.mean().where(complete).unstack(beside).reindex(index=rows, columns=columns)
    figure = go.Figure(
        go.Heatmap(
            z=cells.to_numpy().tolist(),
            x=[value_text(beside, value) for value in columns],
            y=[value_text(LAYERS, value) for value in rows],
            colorscale="Viridis",
            texttemplate="%{z:.1f}",
            showscale=False,
            hovertemplate=f"%{{y}}, {short_key(beside)} %{{x}}: %{{z:.1f}}<extra></extra>",
        )
    )
    figure.update_xaxes(title=short_key(beside), type="category", showgrid=False)
    figure.update_yaxes(type="category", showgrid=False)
    return figure


def cost_figure(means: pd.DataFrame, cost: str, metric: str) -> go.Figure:
    """A metric against a cost, with the Pareto front."""
    scores = means[metric, "mean"] * column_of(metric).scale
    costs = means[cost, "mean"] * column_of(cost).scale
    labels = variant_labels(means, telling(means.index.to_frame()))
    on_front = pareto_front(costs, scores)
    figure = go.Figure()
    for chosen, name, colour in ((~on_front, "dominated", GREY), (on_front, "front", COLOURS[0])):
        order = costs[chosen].sort_values().index
        figure.add_scatter(
            x=costs[order].tolist(),
            y=scores[order].tolist(),
            text=labels[order].tolist(),
            name=name,
            mode="lines+markers" if name == "front" else "markers",
            line={"shape": "hv", "color": colour},
            marker={"size": 8, "color": colour},
            showlegend=False,
            hovertemplate="%{text}<br>%{x:.4g}: %{y:.1f}<extra></extra>",
        )
    figure.update_xaxes(title=column_of(cost).title)
    if cost == STATE:
        ticks = {"tickvals": round_numbers(costs.min(), costs.max()), "tickformat": ".2~r"}
        figure.update_xaxes(type="log", **ticks)
    return figure


def _title(metric: str) -> str:
    column = column_of(metric)
    return f"{column.title}, %" if column.scale == 100 else column.title
