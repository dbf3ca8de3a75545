"""Several runs under one command, and the table of them."""

import json
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from hydra.utils import get_class

from datamodules import DataError
from experiments.errors import MENDABLE
from experiments.results import Result
from experiments.tables import Layout, ResultTable

log = logging.getLogger(__name__)

ALL = "all"
"""The `data.category` that stands for every category under `data.root`."""


def chosen_categories(data: Mapping[str, Any]) -> list[str] | None:
    """The categories that `data.category` gives as a list or as "all"; None if it names one.

    Raises:
        DataError: there is no category.
    """
    category = data.get("category")
    if category is None or (isinstance(category, str) and category != ALL):
        return None
    if category != ALL:
        return list(map(str, category))
    target: Any = get_class(data["_target_"])
    present = target.present_categories(data["root"])
    if data.get("download"):
        present = sorted({*present, *target.known_categories})
    if not present:
        raise DataError(
            f"{Path(data['root']).absolute()}: no category of {target.__name__} is there;"
            f" it has {', '.join(target.known_categories)}"
        )
    missing = [name for name in target.known_categories if name not in present]
    if missing:
        log.info("Of %s, %s are not under %s", target.__name__, ", ".join(missing), data["root"])
    return present


def run_batch(
    runs: Mapping[str, Callable[[Path], Result]], folder: Path, table: Mapping[str, Any]
) -> dict[str, float]:
    """Do the runs one after the other, each in a folder of its name; write and print one table.

    A run that fails is named and left out, and the others are finished.

    Args:
        runs: by name, a function of the run's folder.
        folder: of all runs.
        table: the group `table` of the configuration.

    Returns:
        The means over the runs of the metrics that all have, if they are of one variant.

    Raises:
        DataError: a run failed; raised when all else is written.
    """
    results: list[Result] = []
    failed: list[str] = []
    for i, (name, run) in enumerate(runs.items(), start=1):
        log.info("%s (%d of %d)", name, i, len(runs))
        (folder / name).mkdir(parents=True, exist_ok=True)
        try:
            results.append(run(folder / name))
        except MENDABLE as error:
            log.error("%s failed: %s", name, error)
            failed.append(name)
    means = show_results(results, folder, table)
    if means:
        (folder / "metrics.json").write_text(json.dumps(means, indent=2) + "\n")
    if failed:
        raise DataError(f"{len(failed)} of {len(runs)} failed, see above: {', '.join(failed)}")
    return means


def show_results(results: list[Result], folder: Path, table: Mapping[str, Any]) -> dict[str, float]:
    """Write and print the table of some results; return their means if they are of one variant."""
    measured = [result for result in results if result.metrics.keys() & set(table["metrics"])]
    if not measured:
        return {}
    shown = ResultTable(measured, Layout.of(table, measured[0].config["data._target_"]))
    shown.write(folder)
    shown.text().print()
    if shown.several:
        return {}
    shared = set.intersection(*(set(result.metrics) for result in measured))
    return {
        name: sum(result.metrics[name] for result in measured) / len(measured)
        for name in measured[0].metrics
        if name in shared
    }
