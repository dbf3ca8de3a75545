"""padim fit: statistics of the normal images, then metrics where there are test images."""

import logging
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from hydra.utils import get_class
from omegaconf import DictConfig, ListConfig, OmegaConf

from experiments.app import launch
from experiments.build import settle
from experiments.callbacks.recorder import Pool
from experiments.categories import chosen_categories, replaced, run_each, show_results
from experiments.files import write_text
from experiments.fitting import fit
from experiments.folders import clear
from experiments.sweeps.one_pass import Job, run_shared
from experiments.sweeps.passes import pass_key
from experiments.tables.results import Result

log = logging.getLogger(__name__)


def run(
    config: DictConfig, found: Mapping[str, Result | Exception] | None = None
) -> dict[str, float] | float | tuple[float, ...]:
    """Fit, save, evaluate; return the metrics, or their means over several categories.

    Where there is an objective, its value is returned in their place, for a sweeper that searches.

    Args:
        config: of the command.
        found: of a job whose sweep has done it already together with others: its results by
            category, or "" where there is but one.
    """
    folder = Path(HydraConfig.get().runtime.output_dir)
    sweep = HydraConfig.get().mode == RunMode.MULTIRUN  # which has one table, at its end
    settle(config, sweep)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(config, resolve=True))
    if config.sweep.cache and found is None and pass_key(config):
        found = run_shared([Job(0, config, folder)])[0]
    one = partial(fit, found=found or {})
    several = chosen_categories(config.data)
    if several is None:
        metrics = show_results([one(config, folder)], folder, config.table, quiet=sweep)
    else:
        key, categories = several
        if config.overwrite and not config.resume:
            clear(folder)
        rate = config.metrics.false_alarm_rate
        pool = Pool(rate) if getattr(get_class(config.data._target_), "pooled", False) else None
        runs = {
            name: partial(one, replaced(config, key, name), category=name, pool=pool)
            for name in categories
        }
        metrics = run_each(runs, folder, config.table, pool, quiet=sweep)
    if not sweep:
        log.info("Written to %s", folder)
    return metrics if config.objective is None else _objective(metrics, config.objective)


def _objective(metrics: Mapping[str, float], wanted: str | ListConfig) -> float | tuple[float, ...]:
    names = [wanted] if isinstance(wanted, str) else list(wanted)
    if missing := [name for name in names if name not in metrics]:
        raise ValueError(
            f"objective={missing[0]}: the run has no such metric; it has {', '.join(metrics)}"
        )
    values = tuple(metrics[name] for name in names)
    return values[0] if isinstance(wanted, str) else values


if __name__ == "__main__":
    launch("fit")
