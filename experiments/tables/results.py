"""Results of runs: metrics, and the configuration that gave them."""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from datamodules import normal_folder
from experiments.files import write_text
from experiments.trust import DATA_MODULES

ALL = "all"
"""The `data.category`, or `data.scene`, that stands for every one under `data.root`."""

POOLED = "pooled"
"""The category of a result that measures the images of all categories at once."""

CATEGORY_KEYS = ("data.category", "data.scene", "data.name")
"""Keys that say which part of a data set a run is about."""

OTHER_KEYS = (
    *("checkpoints", "data.root", "data.batch_size", "data.num_workers", "data.loading", "loading"),
    *("preprocessing._target_", "trainer", "callbacks", "logger", "table", "threshold"),
    *("pictures", "save_model", "sweep", "overwrite", "objective", "resume", "checkpoint_every"),
    *("metrics.bootstrap", "select"),
)
"""Keys, or beginnings of keys, that do not make a variant: they leave the metrics as they are."""


@dataclass(frozen=True)
class Result:
    """Metrics of one model on one category.

    Args:
        category: name of the category.
        config: the resolved configuration, flat: "reduction.d" -> 100.
        metrics: by name: "image/auroc", ...
        folder: of the run, where it was read from one.
    """

    category: str
    config: dict[str, Any]
    metrics: dict[str, float]
    folder: Path | None = None

    @classmethod
    def of(cls, category: str, config: Any, metrics: dict[str, float]) -> "Result":
        """From a configuration as composed, or as plain values."""
        if OmegaConf.is_config(config):
            config = OmegaConf.to_container(config, resolve=True)
        return cls(category, flatten(config), metrics)

    def write(self, folder: Path) -> None:
        """Write what `read_results` reads."""
        write_text(folder / "metrics.json", json.dumps(self.metrics, indent=2) + "\n")
        config = OmegaConf.create()
        for key, value in self.config.items():
            OmegaConf.update(config, key, self.category if key in CATEGORY_KEYS else value)
        write_text(folder / "config.yaml", OmegaConf.to_yaml(config))

    @property
    def variant(self) -> str:
        """The name under which a reference's figures are found, if there is one."""
        return str(self.config.get("table.variant") or "")

    @property
    def seeds(self) -> dict[str, Any]:
        """The seeds: results that differ in nothing else are replicates of one variant.

        The seed of the run determines nothing itself but random weights; reductions and the like
        have seeds of their own, such as `reduction.seed`.
        """
        idle = {"seed"} if self.config.get("backbone.weights") != "random" else set()
        return {k: v for k, v in self.all_seeds.items() if k not in idle}

    @property
    def all_seeds(self) -> dict[str, Any]:
        """The seeds, also one without any effect."""
        return {key: value for key, value in self._current.items() if is_seed(key)}

    @property
    def settings(self) -> dict[str, Any]:
        """What makes a variant: all but category, seeds and what has no bearing on metrics."""
        return {
            key: value
            for key, value in self._current.items()
            if not (is_seed(key) or key in CATEGORY_KEYS or key.startswith(OTHER_KEYS))
        }

    @property
    def _current(self) -> dict[str, Any]:
        """The configuration without nulls, and without copies of what `data` refers to."""
        known = self.config
        keys = {key: key.removeprefix("data.") for key in known if "preprocessing." in key}
        return {keys.get(key, key): known[key] for key in known if known[key] is not None}


def flatten(config: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings as one: {"reduction": {"d": 100}} -> {"reduction.d": 100}."""
    flat: dict[str, Any] = {}
    for key, value in config.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def read_results(folder: Path) -> Iterator[Result]:
    """The results of all runs below a folder, in the order of their names."""
    for path in sorted(folder.rglob("metrics.json"), key=_natural):
        if path.with_name("config.yaml").is_file() and (result := read_result(path.parent)):
            yield result


def by_title(results: Sequence[Result]) -> list[list[Result]]:
    """The results of each table that `table.title` names; all as one if any is of no such table."""
    titled: dict[Any, list[Result]] = {}
    for result in results:
        titled.setdefault(result.config.get("table.title"), []).append(result)
    return [[*results]] if None in titled else [*titled.values()]


def read_result(run: Path) -> Result | None:
    """The result in a run folder; None if it is of several categories, so holds means."""
    flat = flatten(OmegaConf.to_container(OmegaConf.load(run / "config.yaml")))
    if any(flat.get(key) == ALL or isinstance(flat.get(key), list) for key in CATEGORY_KEYS):
        return None
    metrics = json.loads((run / "metrics.json").read_text(encoding="utf-8"))
    return Result(category_name(flat), flat, metrics, run)


def category_name(config: Mapping[str, Any]) -> str:
    """The name that the data module of a flat configuration gives itself.

    Of a class of the user's own it is that of the class.
    """
    for key in CATEGORY_KEYS:
        if config.get(key) is not None:
            return str(config[key]).zfill(2 * (key == "data.scene"))
    target = str(config.get("data._target_", ""))
    if target and target not in DATA_MODULES:
        return target.rpartition(".")[2]
    folder = config.get("data.root") or normal_folder(config.get("data.normal"))
    return os.path.basename(os.path.abspath(folder))


def is_seed(key: str) -> bool:
    """Whether a key is a seed."""
    return key.rpartition(".")[2].endswith("seed")


def _natural(path: Path) -> list[tuple[int, str]]:
    """Folders named by numbers in the order of the numbers."""
    return [(int(part), "") if part.isdigit() else (-1, part) for part in path.parts]
