"""The pictures of a sweep: metrics against a setting, layers by d, score against cost."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator, MaxNLocator, NullLocator, StrMethodFormatter

from experiments.tables.labels import setting_label, short_key, value_text, variant_labels
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

LINES = 7
"""Most lines that can be told apart in a panel."""

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Of Okabe and Ito, without their yellow: told apart whatever one's colour vision."""

MARKERS = "osD^vPX"

GREY = "0.65"

Style = dict[str, Any]


def write_pictures(results: Sequence[Result], metrics: Sequence[str], folder: Path) -> list[Path]:
    """Draw what a sweep has varied; nothing if all its results are draws of one variant.

    Args:
        results: of the jobs.
        metrics: of the table.
        folder: where the pictures go.

    Returns:
        <key>.png for each setting with numbers, layers.png and cost.png, those that there are.
    """
    if what_varies(results).columns.empty:
        return []
    shown = [metric for metric in SCORES if metric in metrics] or list(metrics)[:3]
    means = variant_means(results, list(dict.fromkeys([*shown, *COSTS])))
    shown = [metric for metric in shown if means[metric, "mean"].notna().any()]
    means = means[means[[(metric, "mean") for metric in shown]].notna().any(axis=1)]
    if len(means) < 2:
        return []
    categories = sorted({result.category for result in results} - {POOLED})
    title = categories[0] if len(categories) == 1 else f"mean of {len(categories)} categories"
    draws = means.xs("count", axis=1, level=1).to_numpy().max()
    title += f", mean over {draws} draws" if draws > 1 else ""
    barred = f"{title}, bars: standard error" if draws > 1 else title
    pictures = {key: draw_setting(means, key, shown, barred) for key in swept_numbers(means)}
    if beside := beside_layers(means):
        pictures["layers"] = draw_layers(means, beside, shown, title)
    scores = [metric for metric in shown if metric not in COSTS]
    costs = {cost: means[cost, "mean"] for cost in COSTS if means[cost, "mean"].nunique() > 1}
    # Times differ a little between any two runs: that alone is worth no picture.
    if scores and any(values.max() > 1.5 * values.min() for values in costs.values()):
        pictures["cost"] = draw_cost(means, list(costs), scores, barred)
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{name}.png" for name in pictures]
    for path, figure in zip(paths, pictures.values(), strict=True):
        figure.savefig(path, dpi=110)
    return paths


def draw_setting(means: pd.DataFrame, key: str, metrics: Sequence[str], title: str) -> Figure:
    """Metrics against a setting; a line for each combination of the others.

    A variant without a number there, such as one without reduction, is a dashed line across.

    Args:
        means: of `variant_means`; so in the other pictures.
        key: of the setting.
        metrics: one panel each.
        title: a line above.
    """
    at = numbers(means, key)
    row_keys, line_keys = split_panels(other_settings(means, key))
    rows, lines = variant_labels(means, row_keys), variant_labels(means, line_keys)
    styles = _styles(means[[(metric, "mean") for metric in metrics]].mean(axis=1), lines)
    figure, axes = _panels(rows.unique(), metrics, title, sharex="col", sharey="col")
    for row, panels in zip(rows.unique(), axes, strict=True):
        for metric, panel in zip(metrics, panels, strict=True):
            figures = (means[metric] * column_of(metric).scale).assign(at=at)
            for line, style in styles.items():
                chosen = figures[(rows == row) & (lines == line)]
                for level in chosen.loc[chosen["at"].isna(), "mean"]:
                    panel.axhline(level, **style | {"marker": "", "linestyle": "--"})
                points = chosen.dropna(subset="at").sort_values("at")
                panel.errorbar(points["at"], points["mean"], points["sem"], capsize=2, **style)
            _mark_numbers(panel, at.dropna().unique())
            _strip(panel)
    for panel in axes[-1]:
        panel.set_xlabel(short_key(key))
    entries = {line: style for line, style in styles.items() if line and style["color"] != GREY}
    if len(entries) < len(styles) > 1:
        entries["others"] = {"color": GREY, "marker": "."}
    for value in dict.fromkeys(means.index.get_level_values(key)[at.isna()]):
        entries[setting_label(key, value)] = {"color": GREY, "linestyle": "--"}
    _legend(figure, {label: Line2D([], [], **style) for label, style in entries.items()})
    return figure


def split_panels(settings: pd.DataFrame) -> tuple[list[str], list[str]]:
    """Which settings make rows of panels and which lines, so that both can be told apart."""
    rows: list[str] = []
    lines = list(map(str, settings))
    while combinations(settings[lines]) > LINES and len(lines) > 1:
        fewest = min(lines, key=lambda key: settings[key].nunique())
        if combinations(settings[[*rows, fewest]]) > ROWS:
            break
        rows.append(fewest)
        lines.remove(fewest)
    return rows, lines


def draw_layers(means: pd.DataFrame, beside: str, metrics: Sequence[str], title: str) -> Figure:
    """Heat maps of metrics, layers by another setting; a row of maps for each of the others.

    Where these are too many, each map is the mean over them.
    """
    settings = settings_of(means, LAYERS, beside)
    others = [key for key in telling(settings) if key not in (LAYERS, beside)]
    if combinations(settings[others]) > ROWS:
        title += f", mean over {', '.join(map(short_key, others))}"
        others = []
    rows = variant_labels(means, others)
    layers, columns = in_order(settings[LAYERS]), in_order(settings[beside])
    size = max(2.6, 0.4 * len(columns)), 1 + 0.3 * len(layers)
    figure, axes = _panels(rows.unique(), metrics, title, size)
    for row, panels in zip(rows.unique(), axes, strict=True):
        for metric, panel in zip(metrics, panels, strict=True):
            figures = means[metric, "mean"] * column_of(metric).scale
            grouped = figures[rows == row].groupby(level=[LAYERS, beside], sort=False)
            complete = grouped.count() == grouped.count().max()
            cells = grouped.mean().where(complete).unstack(beside)
            cells = cells.reindex(index=layers, columns=columns)
            _draw_cells(panel, cells, figures, column_of(metric).digits)
            panel.set_xlabel(short_key(beside))
        for panel in panels[1:]:
            panel.set_yticklabels([])
    return figure


def draw_cost(
    means: pd.DataFrame, costs: Sequence[str], metrics: Sequence[str], title: str
) -> Figure:
    """Metrics against costs with their Pareto fronts, on which variants are numbered by state.

    Where they crowd, the best scores have their numbers.
    """
    figure, axes = _panels([""] * len(costs), metrics, title, sharex="row", sharey="col")
    colour = COLOURS[0]
    numbered: dict[Axes, pd.DataFrame] = {}
    for cost, panels in zip(costs, axes, strict=True):
        for metric, panel in zip(metrics, panels, strict=True):
            score = means[metric, "mean"] * column_of(metric).scale
            points = means[cost].assign(score=score).dropna(subset=["mean", "score"])
            on_front = pareto_front(points["mean"], points["score"])
            front = points[on_front].sort_values("mean", ascending=False)
            places, span = (
                np.stack([np.log(some["mean"]), some["score"]], axis=1) for some in (front, points)
            )
            numbered[panel] = front.iloc[_apart(places, span)]
            grey: Style = {"color": GREY, "elinewidth": 0.8, "zorder": 1.5}
            panel.errorbar(points["mean"], points["score"], xerr=points["sem"], fmt=".", **grey)
            # What can be had for at most this cost.
            reached = (
                [points["mean"].max(), *front["mean"]],
                [front["score"].max(), *front["score"]],
            )
            panel.step(*reached, where="pre", color=colour)
            panel.plot(front["mean"], front["score"], "o", color=colour, markersize=4)
            # The labels of matplotlib's own ticks run into one another.
            panel.set_xscale("log" if cost == STATE else "linear")
            wide = points["mean"].max() >= 50 * points["mean"].min()
            decades = LogLocator(subs=(1,) if wide else (1, 2, 5))
            panel.xaxis.set_major_locator(decades if cost == STATE else MaxNLocator(3))
            panel.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
            panel.xaxis.set_minor_locator(NullLocator())
            panel.set_xlabel(column_of(cost).title)
            _strip(panel)
    on_fronts = {variant for front in numbered.values() for variant in front.index}
    by_state = means.sort_values((STATE, "mean")).index
    number = {v: str(i) for i, v in enumerate((v for v in by_state if v in on_fronts), start=1)}
    circle: Style = {"boxstyle": "circle,pad=0.2", "color": colour}
    text: Style = {"color": "white", "size": 7, "ha": "center", "va": "center", "bbox": circle}
    for panel, front in numbered.items():
        for variant, x, y in zip(front.index, front["mean"], front["score"], strict=True):
            panel.text(x, y, number[variant], **text)
    labels = variant_labels(means, telling(means.index.to_frame()))
    entries = {"Pareto front": Line2D([], [], color=colour, marker="o", markersize=4)}
    for variant, i in number.items():
        style: Style = {"marker": f"${i}$", "markersize": 3 + 3 * len(i)}
        entries[labels[variant]] = Line2D([], [], color=colour, linestyle="", **style)
    _legend(figure, entries)
    return figure


def _apart(places: np.ndarray, span: np.ndarray) -> list[int]:
    """Which places have room for a label, the first ones first, where `span` fills the panel."""
    whole = np.ptp(span, axis=0)
    scaled = places / np.where(whole, whole, 1)
    kept: list[int] = []
    for i, place in enumerate(scaled):
        if all(abs(place - scaled[other]).max() > 0.1 for other in kept):
            kept.append(i)
    return kept


def _panels(
    rows: Iterable[str],
    metrics: Sequence[str],
    title: str,
    size: tuple[float, float] = (3.2, 2.8),
    **share: Any,
) -> tuple[Figure, Any]:
    """A figure with a row of panels for each name and a column for each metric."""
    rows, (wide, tall) = list(rows), size
    whole = max(1.4 + wide * len(metrics), 6.5), 1 + tall * len(rows)
    figure = Figure(figsize=whole, layout="constrained")
    figure.suptitle(title, x=0.01, ha="left")
    axes = figure.subplots(len(rows), len(metrics), squeeze=False, **share)
    for metric, panel in zip(metrics, axes[0], strict=True):
        column = column_of(metric)
        panel.set_title(f"{column.title}, %" if column.scale == 100 else column.title, loc="left")
    for row, panel in zip(rows, axes[:, 0], strict=True):
        panel.set_ylabel(row.replace(", ", "\n"))
    return figure, axes


def _strip(panel: Axes) -> None:
    """A light grid, and no frame at the top and right."""
    panel.grid(alpha=0.3)
    panel.spines[["top", "right"]].set_visible(False)


def _styles(scores: pd.Series, lines: pd.Series) -> dict[str, Style]:
    """A style for each line; where there are too many, colours for the best, grey for the rest."""
    best = scores.groupby(lines).max().nlargest(LINES).index
    looks = iter(zip(COLOURS, MARKERS, strict=True))
    styles: dict[str, Style] = {}
    for line in lines.unique():
        colour, marker = next(looks) if line in best else (GREY, ".")
        styles[line] = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.3}
        styles[line]["zorder"] = 1.5 if colour == GREY else 2
    return styles


def _mark_numbers(panel: Axes, values: np.ndarray) -> None:
    """Ticks at values of a setting, on a logarithmic axis where these span much."""
    wide = values.min() > 0 and values.max() >= 20 * values.min()
    panel.set_xscale("log" if wide else "linear")
    values = np.sort(values)[::-1, None]
    places = np.log(values) if wide else values
    ticks = values[_apart(places, places), 0]
    panel.set_xticks(ticks, [f"{value:g}" for value in ticks])
    panel.xaxis.set_minor_locator(NullLocator())


def _draw_cells(panel: Axes, cells: pd.DataFrame, span: pd.Series, digits: int) -> None:
    """A heat map with its values, the highest in bold; the colours are those of `span`."""
    panel.imshow(cells, cmap="viridis", vmin=span.min(), vmax=span.max(), aspect="auto")
    panel.set_xticks(range(cells.shape[1]), [value_text(cells.columns.name, v) for v in cells])
    panel.set_yticks(range(cells.shape[0]), [value_text(LAYERS, v) for v in cells.index])
    panel.tick_params(length=0)
    panel.spines[:].set_visible(False)
    style: Style = {"size": 9, "ha": "center", "va": "center"}
    for (i, j), value in np.ndenumerate(cells.to_numpy()):
        if not np.isnan(value):
            style["color"] = "white" if value < (span.min() + span.max()) / 2 else "black"
            style["weight"] = "bold" if value == cells.max(axis=None) else "normal"
            panel.text(j, i, f"{value:.{digits}f}", **style)


def _legend(figure: Figure, entries: Mapping[str, Line2D]) -> None:
    """Below the panels, which keep their height."""
    if not entries:
        return
    columns = max(1, int(figure.get_figwidth() / (0.6 + 0.085 * max(map(len, entries)))))
    figure.set_figheight(figure.get_figheight() + 0.22 * math.ceil(len(entries) / columns))
    where: Style = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    figure.legend(list(entries.values()), list(entries), **where)
