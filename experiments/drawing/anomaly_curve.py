"""The score of a video over its frames, as a picture."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure


def draw_anomaly_curve(
    at: Sequence[float],
    scores: Sequence[float],
    title: str,
    path: Path,
    axis: str = "frame",
    labels: Sequence[int] | None = None,
    top: float | None = None,
) -> None:
    """Draw scores over frame numbers or time, the highest marked and anomalous frames shaded.

    Args:
        at: where the scores stand on the axis, ascending; at least one.
        scores: one each.
        title: a line above.
        path: of the .png file.
        axis: what the axis counts.
        labels: 1 anomalous, 0 normal; None if unknown.
        top: highest score shown, so that pictures can be compared; of these scores by default.
    """
    figure = Figure(figsize=(9, 2.8))
    axes = figure.subplots(gridspec_kw={"left": 0.08, "right": 0.99, "bottom": 0.18, "top": 0.87})
    limits = (0, 1.08 * (top or max(scores)))
    if labels is not None:
        shade: Any = {"step": "mid", "color": "tab:red", "alpha": 0.18, "linewidth": 0}
        axes.fill_between(at, *limits, where=np.array(labels) > 0, label="anomalous", **shade)
    peak = int(np.argmax(scores))
    axes.plot(at, scores, color="tab:blue", linewidth=1.3, label="score")
    axes.plot(at[peak], scores[peak], "o", color="tab:red", label=f"highest: {scores[peak]:.3g}")
    axes.set(xlabel=axis, ylabel="score", ylim=limits, xlim=(at[0], max(at[-1], at[0] + 1e-3)))
    # The name of a file may have what no font has, and a $.
    axes.set_title(title.encode(errors="backslashreplace").decode(), loc="left", parse_math=False)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="lower right", bbox_to_anchor=(1, 1), frameon=False, ncols=3)
    figure.savefig(path, dpi=110)
