"""padim paper: the tables of the paper that data and weights at hand allow, on one page."""

import logging
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from hydra.core.config_loader import ConfigLoader
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import InstantiationException
from hydra.experimental.callback import Callback
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from datamodules import DataError
from experiments import report
from experiments.app import launch
from experiments.categories import chosen_categories, show_results
from experiments.cli import quote
from experiments.fit import run
from experiments.sweeps.grid import product
from experiments.sweeps.table import write_rows
from experiments.tables.results import by_title, read_results
from experiments.values import check

__all__ = ["PaperTables", "list_jobs", "run"]

log = logging.getLogger(__name__)


def list_jobs(
    loader: ConfigLoader, config: DictConfig, overrides: Sequence[Override]
) -> tuple[list[list[str]], list[str]]:
    """The overrides of each job of `config.tables`, and notes: what is not as in the paper.

    Args:
        loader: Hydra's.
        config: of the command.
        overrides: of the command line.

    Raises:
        ValueError: no table can be made, or a value is not of its kind.
    """
    settings = OmegaConf.create({key: config[key] for key in ("tables", "stc")})
    check(settings, "paper")
    parser = OverridesParser.create(config_loader=loader)
    other = any(override.key_or_group in ("backbone", "backbone.name") for override in overrides)
    jobs: list[list[str]] = []
    reasons: dict[str, list[str]] = {}
    for table in settings.tables:
        own = [str(override.input_line) for override in overrides]
        if table == "table4":
            own = [one for one in own if not one.startswith("data.")]
            own.append(f"data.root={quote(settings.stc.root)}")
        own.append(f"experiment=paper/{table}")
        preset = loader.load_configuration("paper", own, RunMode.MULTIRUN)
        data, backbone = (OmegaConf.to_yaml(preset[group]) for group in ("data", "backbone"))
        if reason := _no_data(data) or _no_weights(backbone):
            reasons.setdefault(reason, []).append(table)
            continue
        name = preset.backbone.name
        if other:  # every table and file is to say so
            own.append(f"table.title={quote(f'{preset.table.title}; by {name} instead')}")
        swept = [f"{key}={value}" for key, value in (preset.hydra.sweeper.params or {}).items()]
        batch = product(parser.parse_overrides([*swept, *own]), ())
        for i, job in enumerate(batch):
            folder = table if len(batch) == 1 else f"{table}_{i:02}"
            jobs.append([*job, f"hydra.sweep.subdir={folder}"])
    notes = [f"Left out: {', '.join(names)}. {reason}" for reason, names in reasons.items()]
    if not jobs:
        raise ValueError("\n".join(["none of the tables can be made.", *notes]))
    if other:
        notes.insert(0, f"All figures are of {name}, which is not the paper's backbone.")
    for note in notes:
        log.warning(note)
    return jobs, notes


@cache
def _no_data(data: str) -> str | None:
    """Why there are no images for a group `data`, as YAML; None if there are some."""
    group: Any = OmegaConf.create(data)
    try:
        chosen_categories(group)
    except DataError as error:
        return str(error)
    return None


@cache  # a hub that is out of reach takes a minute to say so
def _no_weights(backbone: str) -> str | None:
    """The same of the weights for a group `backbone`."""
    try:
        instantiate(OmegaConf.create(backbone))
    except InstantiationException as error:
        return str(error.__cause__)
    return None


class PaperTables(Callback):
    """Writes and prints the tables when all jobs are done, and makes the page."""

    def on_multirun_end(self, config: DictConfig, **_: Any) -> None:
        folder = Path(config.hydra.sweep.dir)
        if not (results := list(read_results(folder))):
            return
        write_rows(results, folder)
        for group in by_title(results):
            assert group[0].folder
            table = OmegaConf.load(group[0].folder / "config.yaml").table
            name = group[0].folder.relative_to(folder).parts[0].partition("_")[0]
            show_results(group, folder / name, table)
        page: Any = {"paths": [folder], "title": "Tables of the paper", "details": 16}
        try:
            report.run(OmegaConf.create({**page, "out": None, "table": {}}))
        except ValueError as error:  # Hydra makes a warning of what callbacks raise
            log.error("%s. The tables are in %s; padim report %s", error, folder, folder)


if __name__ == "__main__":
    launch("paper")
