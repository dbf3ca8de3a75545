"""Descriptions of plots: what matplotlib draws as pictures and Plotly on the report's page."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

CURVES = {
    "roc": ("ROC", "false positive rate", "true positive rate"),
    "pr": ("Precision and recall", "recall", "precision"),
    "pro": ("PRO", "false positive rate", "mean per-region overlap"),
}
"""Title and axes of a curve, by the end of its name."""

GROUPS = {"image": 3, "pixel": 2}
"""Beginnings of the names of curves, and their colours."""

KINDS = ("normal", "anomalous")
"""Names of the labels 0 and 1, of colours 0 and 1."""

BINS = 40
"""Of a histogram."""


@dataclass(frozen=True)
class Axis:
    """An axis: title, scale, places of ticks if they matter, and the upper end of a share."""

    title: str = ""
    log: bool = False
    ticks: Sequence[float] = ()
    share: float = 0


@dataclass(frozen=True)
class Line:
    """A line.

    Args:
        label: in the legend; none if empty.
        x, y: of its points.
        error: standard error of each y; points with an error are marked.
        colour: its number in a palette; None for grey, one of many.
        steps: as Plotly has it: "hv" or "vh".
        dashed: a level across the panel rather than measurements.
        filled: down to zero.
        thresholds: the score that each point stands for.
        name: of the curve.
    """

    label: str
    x: Sequence[float]
    y: Sequence[float]
    error: Sequence[float] | None = None
    colour: int | None = 0
    steps: str = "linear"
    dashed: bool = False
    filled: bool = False
    thresholds: Sequence[float] | None = None
    name: str = ""


@dataclass(frozen=True)
class Panel:
    """Axes with lines, a heat map or points.

    Args:
        title: a line above.
        x, y: its axes.
        lines: drawn over one another.
        cells: a heat map; index and columns are the labels of its rows and columns.
        span: least and highest value, the ends of the heat map's colours.
        digits: of the numbers in the cells.
        points: columns label, x, y, error (of x) and front: whether on the Pareto front.
    """

    title: str
    x: Axis
    y: Axis = Axis()
    lines: Sequence[Line] = ()
    cells: pd.DataFrame | None = None
    span: tuple[float, float] = (0, 1)
    digits: int = 1
    points: pd.DataFrame | None = None


def curve_line(name: str, points: pd.DataFrame, label: str, colour: int) -> Line:
    """A curve such as "pixel/roc", from its columns threshold, x and y."""
    # A lower threshold that adds recall adds it at its own precision.
    steps = "vh" if name.endswith("/pr") else "linear"
    x, y, thresholds = (points[column].tolist() for column in ("x", "y", "threshold"))
    return Line(label, x, y, None, colour, steps, thresholds=thresholds, name=name)


def curve_panel(end: str, lines: Iterable[Line]) -> Panel:
    """Curves of one kind, "roc", "pr" or "pro", over one another."""
    title, x, y = CURVES[end]
    return Panel(title, Axis(x, share=0.3 if end == "pro" else 1), Axis(y, share=1), [*lines])


def curve_panels(curves: Mapping[str, pd.DataFrame], labels: Mapping[str, str]) -> list[Panel]:
    """Curves of a run, those of images and pixels in one panel; by name, as are their labels."""
    return [
        curve_panel(end, [curve_line(n, curves[n], labels[n], GROUPS[n[:5]]) for n in names])
        for end in CURVES
        if (names := [f"{group}/{end}" for group in GROUPS if f"{group}/{end}" in curves])
    ]


def histograms(predictions: pd.DataFrame) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Images of each kind in bins of the score, and the edges of the bins.

    The edges are spaced logarithmically where the scores span a decade.
    """
    scores = predictions["score"].to_numpy()
    low, high = scores.min(), max(scores.max(), scores.min() + 1e-6)
    edges = (np.geomspace if 0 < 10 * low < high else np.linspace)(low, high, BINS + 1)
    of_kind = {kind: scores[predictions["label"] == i] for i, kind in enumerate(KINDS)}
    return {kind: np.histogram(some, edges)[0] for kind, some in of_kind.items()}, edges


def histogram_panel(predictions: pd.DataFrame) -> Panel:
    """Scores of normal and of anomalous images (`score` and `label` of predictions.csv)."""
    counts, edges = histograms(predictions)
    log = bool(0 < 10 * edges[0] < edges[-1])
    axis = Axis("image score", log, round_numbers(edges[0], edges[-1]) if log else ())
    lines = [
        Line(f"{kind} ({sum(n)})", edges.tolist(), [*n.tolist(), 0], None, i, "hv", filled=True)
        for i, (kind, n) in enumerate(counts.items())
    ]
    return Panel("Image scores", axis, Axis("images"), lines)


def round_numbers(low: float, high: float) -> list[float]:
    """Numbers 1, 2 and 5 (of a wide span 1) times powers of ten between two, or else these two."""
    powers = range(int(np.floor(np.log10(low))), int(np.ceil(np.log10(high))) + 1)
    digits = (1,) if high >= 50 * low else (1, 2, 5)
    inside = [n for power in powers for d in digits if low <= (n := d * 10.0**power) <= high]
    return inside if len(inside) > 1 else [low, high]
