"""Several runs under one command, and the table of them."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from hydra.utils import get_class
from omegaconf import DictConfig

from datamodules import DataError, LabelledData
from experiments.callbacks.recorder import Pool
from experiments.errors import MENDABLE
from experiments.files import write_text
from experiments.tables.result_table import Layout, ResultTable
from experiments.tables.results import ALL, POOLED, Result

log = logging.getLogger(__name__)


def chosen_categories(data: Mapping[str, Any]) -> tuple[str, list[str]] | None:
    """The categories that `data.category` gives as a list or as "all"; None if it names one.

    Returns:
        The key, which some data sets call otherwise, and the categories.

    Raises:
        DataError: there is no category.
    """
    target: type[LabelledData] = get_class(data["_target_"])
    key = getattr(target, "category_key", "")  # a user's own data module has one category
    chosen = data.get(key)
    if chosen is None or isinstance(chosen, int) or (isinstance(chosen, str) and chosen != ALL):
        return None
    if chosen != ALL:
        return key, list(map(str, chosen))
    root = Path(data["root"]).expanduser()
    present, missing = target.present_categories(root), []
    if data.get("download"):
        present = sorted({*present, *target.known_categories})
    else:
        missing = target.missing_categories(root)
    if not present:
        raise DataError(
            f"{root.absolute()}: no {key} of {target.__name__} is there;"
            f" it has {', '.join(target.known_categories)}"
        )
    if missing:
        log.info("Of %s, %s are not under %s", target.__name__, ", ".join(missing), data["root"])
    return key, present


def replaced(config: DictConfig, key: str, category: str) -> DictConfig:
    """The configuration of one of several categories."""
    one = config.copy()
    one.data[key] = category
    return one


def run_each(
    runs: Mapping[str, Callable[[Path], Result]],
    folder: Path,
    table: Mapping[str, Any],
    pool: Pool | None = None,
    quiet: bool = False,
) -> dict[str, float]:
    """Do the runs one after the other, each in a folder of its name; write and print one table.

    A run that fails is named and left out, and the others are finished.

    Args:
        runs: by name, a function of the run's folder.
        folder: of all runs.
        table: the group `table` of the configuration.
        pool: has all test images of the runs; its metrics get a row of their own.
        quiet: print neither the table nor which run is next.

    Returns:
        The means over the runs of the metrics that all have, if they are of one variant.

    Raises:
        DataError: a run failed; raised when all else is written.
    """
    results: list[Result] = []
    failed: list[str] = []
    for i, (name, run) in enumerate(runs.items(), start=1):
        if not quiet:
            log.info("%s (%d of %d)", name, i, len(runs))
        (folder / name).mkdir(parents=True, exist_ok=True)
        try:
            results.append(replace(run(folder / name), folder=folder / name))
        except MENDABLE as error:
            log.error("%s failed: %s", name, error)
            failed.append(name)
    if pool and len(results) > 1:
        results.append(Result(POOLED, results[0].config, pool.compute()))
        results[-1].write(folder / POOLED)
    means = show_results(results, folder, table, quiet)
    if means:
        write_text(folder / "metrics.json", json.dumps(means, indent=2) + "\n")
    if failed:
        raise DataError(f"{len(failed)} of {len(runs)} failed, see above: {', '.join(failed)}")
    return means


def show_results(
    results: list[Result], folder: Path, table: Mapping[str, Any], quiet: bool = False
) -> dict[str, float]:
    """Write and print the table of some results; return their means if they are of one variant.

    Args:
        results: nothing is done if none of them has a metric of the table.
        folder: where table.md, table.tex and table.csv go.
        table: the group `table` of the configuration.
        quiet: do not print.

    Raises:
        ValueError: as of `ResultTable`.
    """
    measured = [result for result in results if result.metrics.keys() & set(table["metrics"])]
    if not measured:
        return {}
    data = get_class(measured[0].config["data._target_"])  # the runs were made of it just now
    shown = ResultTable(measured, Layout.of(table, data))
    shown.write(folder)
    if not quiet:
        shown.text().print()
    if shown.several:
        return {}
    parts = [result.metrics for result in measured if result.category != POOLED]
    shared = [name for name in parts[0] if all(name in metrics for metrics in parts)]
    # No interval is the mean of intervals.
    shared = [name for name in shared if len(parts) == 1 or "_ci_" not in name]
    return {name: sum(metrics[name] for metrics in parts) / len(parts) for name in shared}
