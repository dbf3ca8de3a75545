"""The report's interactive figures; colours of text, grid and background are the page's."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import plotly.graph_objects as go

from experiments.report.runs import Run

COLOURS = (
    *("#3b82c4", "#e0662f", "#2a9d78", "#b565a7", "#c99a1b", "#5fb3e6", "#8c6d52", "#8a8f98"),
    *("#d64570", "#6a6fd1"),
)
"""Told apart on white and on black."""

NORMAL, ANOMALOUS = COLOURS[0], COLOURS[1]

BINS = 40
"""Of a histogram."""

IMAGES, PIXELS = COLOURS[3], COLOURS[2]

PERCENT = {"tickformat": ".0%", "range": [-0.01, 1.01], "dtick": 0.25}

CURVES = {
    "ROC": ("image/roc", "pixel/roc"),
    "Precision and recall": ("image/pr", "pixel/pr"),
    "PRO": ("pixel/pro",),
}
"""Curves drawn together."""

AXES = {
    "roc": ("false positive rate", "recall"),
    "pr": ("recall", "precision"),
    "pro": ("false positive rate", "mean overlap of regions"),
}

AREAS = {
    "image/roc": "image/auroc",
    "image/pr": "image/ap",
    "pixel/roc": "pixel/auroc",
    "pixel/pr": "pixel/ap",
    "pixel/pro": "pixel/pro",
}
"""The metric that is the area under a curve."""


def curve_figures(run: Run) -> dict[str, go.Figure]:
    """The curves of a run by title, each figure with a last trace for dots at the threshold."""
    figures = {}
    for title, names in CURVES.items():
        present = [name for name in names if name in run.curves]
        if present:
            figures[title] = _curve_axes(present[0])
            for name in present:
                about = "pixels" if name.startswith("pixel") else "images"
                _add_curve(figures[title], run, name, about, _colour(name))
            dots = {"size": 9, "color": [_colour(name) for name in present]}
            figures[title].add_scatter(
                mode="markers", showlegend=False, hoverinfo="skip", marker=dots
            )
    return figures


def compared_curves(runs: Sequence[Run]) -> dict[str, go.Figure]:
    """Each curve of several runs laid over one another, by title."""
    figures = {}
    for title, names in CURVES.items():
        for name in names:
            figure = _curve_axes(name)
            for run, colour in zip(runs, COLOURS, strict=False):
                if name in run.curves:
                    _add_curve(figure, run, name, run.name, colour)
            if figure.data:
                about = "pixels" if name.startswith("pixel") else "images"
                figures[f"{title}, {about}" if len(names) > 1 else title] = figure
    return figures


def _curve_axes(name: str) -> go.Figure:
    x, y = AXES[name.rpartition("/")[2]]
    figure = go.Figure().update_layout(xaxis={**PERCENT, "title": x}, yaxis={**PERCENT, "title": y})
    if name == "pixel/pro":
        figure.update_xaxes(range=[-0.003, 0.303], dtick=0.1)
    return figure


def _add_curve(figure: go.Figure, run: Run, name: str, label: str, colour: str) -> None:
    """A line, with its thresholds as `customdata` and the name of the curve as `meta`."""
    points = run.curves[name]
    x, y = AXES[name.rpartition("/")[2]]
    figure.add_scatter(
        x=points["x"].tolist(),
        y=points["y"].tolist(),
        customdata=points["threshold"].tolist(),
        meta=name,
        name=f"{label} {100 * run.result.metrics[AREAS[name]]:.1f}",
        mode="lines",
        # What recall a threshold adds, it adds at that threshold's precision.
        line={"shape": "vh" if name.endswith("/pr") else "linear", "color": colour},
        hovertemplate=f"{x} %{{x:.1%}}<br>{y} %{{y:.1%}}<br>score ≥ %{{customdata:.4g}}"
        f"<extra>{label}</extra>",
    )


def _colour(curve: str) -> str:
    return PIXELS if curve.startswith("pixel") else IMAGES


def histogram(predictions: pd.DataFrame) -> go.Figure:
    """Scores of normal and anomalous images; the axis is logarithmic if they span a decade."""
    scores = predictions["score"].to_numpy()
    low, high = scores.min(), max(scores.max(), scores.min() + 1e-6)
    logarithmic = 0 < 10 * low < high
    edges = (np.geomspace if logarithmic else np.linspace)(low, high, BINS + 1)
    figure = go.Figure()
    for label, name, colour in ((0, "normal", NORMAL), (1, "anomalous", ANOMALOUS)):
        part = scores[predictions["label"] == label]
        counts, _ = np.histogram(part, edges)
        figure.add_scatter(
            x=edges.tolist(),
            y=[*counts.tolist(), 0],
            name=f"{name} ({len(part)})",
            mode="lines",
            line={"shape": "hv", "color": colour, "width": 1.5},
            fill="tozeroy",
            hovertemplate="from %{x:.4g}: %{y} images<extra>" + name + "</extra>",
        )
    figure.update_layout(
        xaxis={"title": "image score"}, yaxis={"title": "images", "rangemode": "tozero"}
    )
    if logarithmic:
        figure.update_xaxes(type="log", tickvals=round_numbers(low, high), tickformat=".2~r")
    return figure


def round_numbers(low: float, high: float) -> list[float]:
    """1, 2 and 5 times the powers of ten from `low` to `high`; these two where there is but one."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    numbers = [digit * 10.0**power for power in powers for digit in (1, 2, 5)]
    inside = [number for number in numbers if low <= number <= high]
    return inside if len(inside) > 1 else [low, high]
