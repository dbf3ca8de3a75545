"""What a run prints at its end."""

import logging

from rich.console import Console
from rich.table import Table

from padim import LitPaDiM

log = logging.getLogger(__name__)

COLUMNS = {
    "image/auroc": "image AUROC",
    "image/ap": "AP",
    "image/f1_max": "F1",
    "pixel/auroc": "pixel AUROC",
    "pixel/ap": "AP",
    "pixel/f1_max": "F1",
    "pixel/pro": "PRO",
}


def print_metrics(name: str, metrics: dict[str, float]) -> None:
    """One row of percentages, as the field prints them."""
    shown = {key: title for key, title in COLUMNS.items() if key in metrics}
    if not shown:
        return
    table = Table("", *shown.values())
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row(name, *(f"{100 * metrics[key]:.1f}" for key in shown))
    Console().print(table)


def print_fit(module: LitPaDiM) -> None:
    """Where the time of the fit went, and what the model weighs."""
    seconds = module.seconds
    n = int(module.model.statistics.count)
    outside = seconds["decode"] + seconds["backbone"]
    inside = seconds["statistics"] + seconds["covariances"]
    log.info(
        "Fitted on %d images in %.1f s: %.1f s waiting for images, %.1f backbone, %.2f statistics,"
        " %.2f covariances (%.1f %% on top of images and backbone); state %.1f MB",
        *(n, outside + inside, seconds["decode"], seconds["backbone"], seconds["statistics"]),
        *(seconds["covariances"], 100 * inside / outside, module.model.statistics.nbytes / 1e6),
    )
