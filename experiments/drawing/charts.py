"""Curves and histograms of a run, as pictures."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

CURVES = {
    "roc": ("ROC", "false positive rate", "true positive rate"),
    "pr": ("precision and recall", "recall", "precision"),
    "pro": ("PRO", "false positive rate", "overlap with a region"),
}
"""Title and axes of a curve, by the end of its name."""

COLOURS = {"image": "tab:blue", "pixel": "tab:orange"}

KINDS = ("normal", "anomalous")
"""What the labels 0 and 1 are called."""

BINS = 30


def draw_curves(curves: pd.DataFrame) -> Figure:
    """ROC, precision and recall, and PRO beside each other, images and pixels in one.

    Args:
        curves: as in curves.csv: curve, such as "pixel/roc", threshold, x, y.
    """
    figure = Figure(figsize=(11, 3.6))
    figure.subplots_adjust(0.05, 0.14, 0.99, 0.91, wspace=0.22)  # a layout to compute takes as long
    for panel, (end, (title, x, y)) in zip(figure.subplots(1, 3), CURVES.items(), strict=True):
        for group, colour in COLOURS.items():
            points = curves[curves["curve"] == f"{group}/{end}"]
            if len(points):
                panel.plot(points["x"], points["y"], color=colour, linewidth=1.4, label=group)
        panel.set(xlabel=x, ylabel=y, ylim=(0, 1.02))
        panel.set_title(title, loc="left")
        panel.grid(alpha=0.3)
        panel.spines[["top", "right"]].set_visible(False)
        if panel.lines:
            panel.legend(frameon=False, loc="lower left" if end == "pr" else "lower right")
    return figure


def draw_scores(predictions: pd.DataFrame, threshold: float | None = None) -> Figure:
    """The scores of normal and of anomalous images, as histograms.

    Args:
        predictions: as in predictions.csv; `score` and `label` are read.
        threshold: marked, if there is one.
    """
    figure = Figure(figsize=(6, 3.4))
    figure.subplots_adjust(0.09, 0.14, 0.98, 0.91)
    axes = figure.subplots()
    counts, edges = histograms(predictions)
    for (kind, heights), colour in zip(counts.items(), ("tab:blue", "tab:red"), strict=True):
        axes.stairs(heights, edges, fill=True, alpha=0.5, color=colour, label=kind)
    if threshold is not None:
        axes.axvline(threshold, color="black", linewidth=1, label=f"best F1: {threshold:.3g}")
    axes.set(xlabel="score", ylabel="images")
    axes.spines[["top", "right"]].set_visible(False)
    axes.locator_params(axis="y", integer=True)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, ncols=3)
    return figure


def histograms(predictions: pd.DataFrame) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Images of each kind in each of `BINS` bins of the score, and the edges of the bins."""
    scores = predictions["score"].to_numpy()
    edges = np.histogram_bin_edges(scores, BINS)
    counts = {
        kind: np.histogram(scores[predictions["label"] == label], edges)[0]
        for label, kind in enumerate(KINDS)
    }
    return counts, edges
