"""What a multirun leaves behind: a table, a row for each job, pictures."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from experiments.categories import show_results
from experiments.files import write_csv
from experiments.sweeps.pictures import write_pictures
from experiments.sweeps.upload import upload_sweep
from experiments.tables.results import Result, read_results
from experiments.tables.variants import what_varies

log = logging.getLogger(__name__)


class SweepTable(Callback):
    """Writes and prints one table of all jobs when a multirun ends, draws and uploads them."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        results = list(read_results(folder))
        table = config.table
        if results:
            write_rows(results, folder)
            write_pictures(results, table.metrics, folder / "pictures", table.pictures)
        try:
            show_results(results, folder, table)
        except ValueError as error:  # Hydra makes a warning of what callbacks raise
            show_results(results, folder, {**table, "by": None, "baseline": None})
            log.error("%s. The table is without it; padim report %s takes another.", error, folder)
        if results:
            upload_sweep(config, results, folder)
        log.info("Written to %s", folder.absolute())


def write_rows(results: Sequence[Result], folder: Path) -> None:
    """Write what varies and all metrics of each job and category: a row each, or one a metric.

    The former is sweep.csv. The latter is results.csv, whose metrics are those that are defined.

    Args:
        results: read from below the folder; at least one.
        folder: of the sweep.
    """
    where = {
        "run": [str(result.folder.relative_to(folder)) for result in results if result.folder],
        "category": [result.category for result in results],
    }
    metrics = pd.DataFrame([result.metrics for result in results])
    settings = pd.concat([pd.DataFrame(where), what_varies(results, seeds=True)], axis=1)
    rows = pd.concat([settings, metrics], axis=1)
    write_csv(rows, folder / "sweep.csv")
    long = rows.melt(list(settings), var_name="metric").dropna(subset="value")
    write_csv(long, folder / "results.csv")
