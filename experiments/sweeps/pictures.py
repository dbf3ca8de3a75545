"""The charts of a sweep as pictures."""

import math
from collections.abc import Mapping, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from experiments.drawing.charts import COLOURS, apart, draw_panel, line_style
from experiments.tables.charts import Chart, sweep_charts
from experiments.tables.results import Result


def write_pictures(
    results: Sequence[Result], metrics: Sequence[str], folder: Path, kinds: Sequence[str] = ("png",)
) -> list[Path]:
    """Draw the settings that a sweep has varied; nothing for replicates of one variant.

    Args:
        results: of the jobs.
        metrics: of the table.
        folder: where the pictures go.
        kinds: of files, such as png, pdf or svg.

    Returns:
        <key>.png for each setting with numbers, layers.png and cost.png, those that there are; the
        same of each kind.
    """
    paths = []
    for name, charts in groupby(sweep_charts(results, metrics), lambda chart: chart.name):
        folder.mkdir(parents=True, exist_ok=True)
        figure = draw_charts([*charts])
        for kind in kinds:
            paths.append(folder / f"{name}.{kind}")
            figure.savefig(paths[-1], dpi=110)
    return paths


def draw_charts(charts: Sequence[Chart]) -> Figure:
    """Rows of panels under one note, and a legend below."""
    cells = charts[0].panels[0].cells
    wide, tall = 3.2, 2.8
    share: Any = {"sharex": "row", "sharey": "col"}
    if cells is not None:
        wide, tall, share = max(2.6, 0.4 * cells.shape[1]), 1 + 0.3 * cells.shape[0], {}
    across = len(charts[0].panels)
    size = max(1.4 + wide * across, 6.5), 1 + tall * len(charts)
    figure = Figure(figsize=size, layout="constrained")
    figure.suptitle(charts[0].note, x=0.01, ha="left")
    axes = figure.subplots(len(charts), across, squeeze=False, **share)
    for i, (chart, row) in enumerate(zip(charts, axes, strict=True)):
        for panel, place in zip(chart.panels, row, strict=True):
            draw_panel(place, panel)
            if i:
                place.set_title("", loc="left")
            if not panel.x.ticks and cells is None:
                place.locator_params(axis="x", nbins=3)  # labels run into one another
            if cells is not None and place is not row[0]:
                place.set_yticklabels([])
        row[0].set_ylabel(chart.row.replace(", ", "\n"))
    _add_legend(figure, _line_entries(charts) | _number_fronts(charts, axes))
    return figure


def _line_entries(charts: Sequence[Chart]) -> dict[str, Line2D]:
    """Lines with a label, those in grey as one."""
    lines = [line for chart in charts for panel in chart.panels for line in panel.lines]
    entries = {
        line.label if line.colour is not None else "others": line_style(line)
        for line in lines
        if line.label
    }
    return {label: Line2D([], [], **style) for label, style in entries.items()}


def _number_fronts(charts: Sequence[Chart], axes: np.ndarray) -> dict[str, Line2D]:
    """Number the points on Pareto fronts; where they crowd, those of the best scores."""
    numbered: list[tuple[Axes, pd.DataFrame]] = []
    labels: dict[str, None] = {}
    for panel, place in zip((p for c in charts for p in c.panels), axes.flat, strict=True):
        if panel.points is not None:
            front = panel.points[panel.points["front"]].sort_values("x", ascending=False)
            places, all_places = (
                np.stack([np.log(some["x"]) if panel.x.log else some["x"], some["y"]], axis=1)
                for some in (front, panel.points)
            )
            numbered.append((place, front.iloc[apart(places, np.ptp(all_places, axis=0))]))
            labels |= dict.fromkeys(panel.points["label"])
    if not numbered:
        return {}
    shown = {label for _, front in numbered for label in front["label"]}
    numbers = {v: str(i) for i, v in enumerate((v for v in labels if v in shown), start=1)}
    circle: Any = {"boxstyle": "circle,pad=0.2", "color": COLOURS[0]}
    text: Any = {"color": "white", "size": 7, "ha": "center", "va": "center", "bbox": circle}
    for place, front in numbered:
        for label, x, y in zip(front["label"], front["x"], front["y"], strict=True):
            place.text(x, y, numbers[label], **text)
    entries = {"Pareto front": Line2D([], [], color=COLOURS[0], marker="o", markersize=4)}
    for label, i in numbers.items():
        style: Any = {"marker": f"${i}$", "markersize": 3 + 3 * len(i), "linestyle": ""}
        entries[label] = Line2D([], [], color=COLOURS[0], **style)
    return entries


def _add_legend(figure: Figure, entries: Mapping[str, Line2D]) -> None:
    """A legend below the panels, which keep their height."""
    if not entries:
        return
    columns = max(1, int(figure.get_figwidth() / (0.6 + 0.085 * max(map(len, entries)))))
    figure.set_figheight(figure.get_figheight() + 0.22 * math.ceil(len(entries) / columns))
    where: Any = {"loc": "outside lower center", "ncols": columns, "frameon": False}
    figure.legend(list(entries.values()), list(entries), **where)
