"""Panels drawn by matplotlib, and the curves and scores of a run as pictures."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import NullLocator

from experiments.drawing.panels import Axis, Line, Panel, curve_panels, histogram_panel

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Okabe and Ito's palette without yellow: distinguishable whatever one's colour vision."""

MARKERS = "osD^vPX"

GREY = "0.65"

STEPS = {"hv": "steps-post", "vh": "steps-pre", "linear": "default"}


def draw_panel(axes: Axes, panel: Panel) -> None:
    """Draw a panel's axes, lines and points, or its heat map."""
    axes.set_title(panel.title, loc="left")
    axes.spines[["top", "right"]].set_visible(False)
    if panel.cells is not None:
        _draw_cells(axes, panel, panel.cells)
    else:
        axes.grid(alpha=0.3)
        for line in panel.lines:
            _draw_line(axes, line)
        if panel.points is not None:
            _draw_points(axes, panel.points)
        _set_axis(axes, panel.x)
    axes.set_xlabel(panel.x.title)
    if panel.y.title:
        axes.set_ylabel(panel.y.title)
    if panel.y.share:
        axes.set_ylim(0, 1.02 * panel.y.share)


def line_style(line: Line) -> dict[str, Any]:
    """Colour, width and marker of a line."""
    colour = GREY if line.colour is None else COLOURS[line.colour]
    marker = "." if line.colour is None else MARKERS[line.colour]
    style: dict[str, Any] = {"color": colour, "linewidth": 1.3, "markersize": 4}
    style["marker"] = "" if line.error is None else marker
    style["linestyle"] = "--" if line.dashed else "-"
    return style | {"zorder": 1.5 if line.colour is None else 2}


def _draw_line(axes: Axes, line: Line) -> None:
    style = line_style(line) | {"label": line.label or None}
    if line.dashed:
        axes.axhline(line.y[0], **style)
    elif line.error is not None:
        axes.errorbar(line.x, line.y, line.error, capsize=2, **style)
    else:
        axes.plot(line.x, line.y, drawstyle=STEPS[line.steps], **style)
    if line.filled:
        axes.fill_between(line.x, line.y, step="post", color=style["color"], alpha=0.4, lw=0)


def _draw_points(axes: Axes, points: pd.DataFrame) -> None:
    """Grey points with their errors, and the Pareto front: what can be had for at most a cost."""
    grey: dict[str, Any] = {"color": GREY, "elinewidth": 0.8, "zorder": 1.5}
    axes.errorbar(points["x"], points["y"], xerr=points["error"], fmt=".", **grey)
    front = points[points["front"]].sort_values("x")
    reached = [*front["x"], points["x"].max()], [*front["y"], front["y"].max()]
    axes.step(*reached, color=COLOURS[0], where="post")
    axes.plot(front["x"], front["y"], "o", color=COLOURS[0], markersize=4)


def _set_axis(axes: Axes, axis: Axis) -> None:
    axes.set_xscale("log" if axis.log else "linear")
    if axis.ticks:
        ticks = np.sort(axis.ticks)[::-1]
        places = (np.log(ticks) if axis.log else ticks)[:, None]
        ticks = ticks[apart(places, np.ptp(places, axis=0))]
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.xaxis.set_minor_locator(NullLocator())


def apart(places: np.ndarray, extent: np.ndarray) -> list[int]:
    """Indices of the places (n, coordinates) with room for a label; the first ones come first."""
    scaled = places / np.where(extent, extent, 1)
    kept: list[int] = []
    for i, place in enumerate(scaled):
        if all(abs(place - scaled[other]).max() > 0.1 for other in kept):
            kept.append(i)
    return kept


def _draw_cells(axes: Axes, panel: Panel, cells: pd.DataFrame) -> None:
    """A heat map with its values, the highest in bold."""
    low, high = panel.span
    axes.imshow(cells, cmap="viridis", vmin=low, vmax=high, aspect="auto")
    axes.set_xticks(range(cells.shape[1]), list(cells.columns))
    axes.set_yticks(range(cells.shape[0]), list(cells.index))
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    for (i, j), value in np.ndenumerate(cells.to_numpy()):
        if not np.isnan(value):
            colour = "white" if value < (low + high) / 2 else "black"
            weight = "bold" if value == cells.max(axis=None) else "normal"
            text = f"{value:.{panel.digits}f}"
            axes.text(j, i, text, color=colour, weight=weight, size=9, ha="center", va="center")


def draw_curves(curves: pd.DataFrame) -> Figure:
    """ROC, precision and recall, and PRO beside each other, images and pixels in one.

    Args:
        curves: as in curves.csv: curve, such as "pixel/roc", threshold, x, y.
    """
    by_name = {str(name): points for name, points in curves.groupby("curve")}
    panels = curve_panels(by_name, {name: name.partition("/")[0] for name in by_name})
    figure = Figure(figsize=(11, 3.6))
    figure.subplots_adjust(0.05, 0.14, 0.99, 0.91, wspace=0.22)  # a layout to compute takes as long
    for panel, axes in zip(panels, figure.subplots(1, 3), strict=False):
        draw_panel(axes, panel)
        axes.legend(frameon=False, loc="lower left" if panel.x.title == "recall" else "lower right")
    for axes in figure.axes[len(panels) :]:
        axes.remove()
    return figure


def draw_scores(predictions: pd.DataFrame, threshold: float | None = None) -> Figure:
    """Histograms of the scores of normal and of anomalous images.

    Args:
        predictions: as in predictions.csv; `score` and `label` are read.
        threshold: marked, if there is one.
    """
    figure = Figure(figsize=(6, 3.4))
    figure.subplots_adjust(0.09, 0.14, 0.98, 0.91)
    axes = figure.subplots()
    draw_panel(axes, histogram_panel(predictions))
    axes.set_title("", loc="left")
    if threshold is not None:
        axes.axvline(threshold, color="black", linewidth=1, label=f"best F1: {threshold:.3g}")
    axes.locator_params(axis="y", integer=True)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, ncols=3)
    return figure
