"""The score of a video over its frames, as a picture."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure


def draw_course(course: pd.DataFrame, title: str, limits: tuple[float, float], path: Path) -> None:
    """Draw score against frame number, with what is anomalous shaded.

    Args:
        course: columns frame, ascending, score, and label (1 anomalous).
        title: a line above.
        limits: of the axis of scores, so that the videos of a run can be compared.
        path: of the .png file.
    """
    figure = Figure(figsize=(9, 2.6), layout="constrained")
    axes = figure.subplots()
    frames = course["frame"].to_numpy()
    axes.fill_between(
        frames,
        *limits,
        where=course["label"].to_numpy() > 0,
        step="mid",
        color="tab:red",
        alpha=0.18,
        linewidth=0,
        label="anomalous",
    )
    axes.plot(frames, course["score"], color="tab:blue", linewidth=1.4, label="score")
    axes.set(title=title, xlabel="frame", ylabel="score", ylim=limits)
    axes.set_xlim(frames[0], max(frames[-1], frames[0] + 1))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(loc="upper left", frameon=False, ncols=2)
    figure.savefig(path, dpi=110)
