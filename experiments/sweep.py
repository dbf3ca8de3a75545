"""The table of a multirun."""

import logging
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from experiments.batch import show_results
from experiments.results import read_results

log = logging.getLogger(__name__)


class SweepTable(Callback):
    """Writes and prints one table of all jobs when a multirun ends."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        show_results(list(read_results(folder)), folder, config.table)
        log.info("Written to %s", folder.absolute())
