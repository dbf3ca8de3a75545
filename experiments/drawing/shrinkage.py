"""The choice of the shrinkage coefficient, as a table and a picture."""

from pathlib import Path

import pandas as pd
from matplotlib.figure import Figure

from experiments.files import write_text
from padim import ShrinkageChoice


def write_shrinkage(choice: ShrinkageChoice, folder: Path) -> None:
    """Write shrinkage.csv and shrinkage.png: the likelihood at every coefficient tried."""
    curve = pd.Series(choice.curve, name="nll").rename_axis("shrinkage")
    write_text(folder / "shrinkage.csv", curve.to_csv())
    figure = Figure(figsize=(5, 3.2), layout="constrained")
    axes = figure.subplots()
    axes.plot(curve.index, curve, marker="o", markersize=4, linewidth=1.2, color="tab:blue")
    axes.axvline(
        choice.coefficient, color="tab:red", linewidth=1, label=f"chosen: {choice.coefficient:.3f}"
    )
    low, without = curve.min(), curve[0.0]
    axes.axhline(low + 1, color="gray", linewidth=0.8, linestyle=":", label="1 nat above the least")
    high = max(curve.drop(0.0).max(), low + 1)
    if without > 2 * high - low:  # it would flatten all else
        axes.set_ylim(low - 0.1 * (high - low), high + 0.3 * (high - low))
        axes.annotate(f"{without:.0f} at 0", (0.02, 0.93), xycoords="axes fraction", va="top")
    axes.set(xlabel="shrinkage", ylabel="leave-one-out NLL, nats a patch", xlim=(-0.02, 1.02))
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    figure.savefig(folder / "shrinkage.png", dpi=110)
