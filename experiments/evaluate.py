"""padim evaluate: measure fitted models on test images."""

import logging
import os
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from experiments.app import launch
from experiments.build import category_of, has_test, measure, new_data, new_trainer
from experiments.categories import run_each, show_results
from experiments.files import write_text
from experiments.folders import clear
from experiments.loggers import open_loggers
from experiments.model_files import asks_for_data, require_fitted_size, saved_data
from experiments.tables.results import Result
from padim import CheckpointError, load_checkpoint

log = logging.getLogger(__name__)


def run(config: DictConfig) -> dict[str, float]:
    """Load, evaluate; return the metrics, or the means over the categories of one variant."""
    folder = Path(HydraConfig.get().runtime.output_dir)
    files = [file for path in config.checkpoints for file in find_checkpoints(Path(path))]
    if len(files) == 1:
        metrics = show_results([evaluate(config, files[0], folder)], folder, config.table)
    else:
        if config.overwrite:
            clear(folder)
        runs = {name: partial(evaluate, config, file) for name, file in _names(files).items()}
        metrics = run_each(runs, folder, config.table)
    log.info("Written to %s", folder)
    return metrics


def evaluate(config: DictConfig, checkpoint: Path, folder: Path) -> Result:
    """One model: its metrics, predictions and pictures into a folder."""
    config = config.copy()
    config.checkpoints = str(checkpoint)
    module = load_checkpoint(checkpoint)
    overrides = list(HydraConfig.get().overrides.task)
    config.data = saved_data(module, config, overrides)
    described: Any = OmegaConf.to_container(config, resolve=True)
    for group in ("preprocessing", "loading"):  # as used; those composed may be others
        described[group] = described["data"].get(group)
    described |= module.hparams["model"]
    whole = OmegaConf.create(described)
    write_text(folder / "config.yaml", OmegaConf.to_yaml(whole))
    data = new_data(config.data, prepare=asks_for_data(overrides), stage="test")
    require_fitted_size(module, data)
    if not has_test(data):
        raise ValueError(f"{getattr(data, 'folder', category_of(data))} has no test images")
    with open_loggers(whole, folder) as loggers:
        callbacks = [instantiate(settings) for settings in config.callbacks.values()]
        trainer = new_trainer(config, folder, callbacks, loggers)
        if config.overwrite:
            clear(folder)
        metrics = measure(config, trainer, module, data)
    home = _home(checkpoint)
    described["run"] = home.parent if home.name == category_of(data) else home
    return Result.of(category_of(data), described, metrics)


def find_checkpoints(path: Path) -> list[Path]:
    """The file itself, a run folder's `model.ckpt`, or those of all runs below a folder.

    Raises:
        CheckpointError: there is none.
    """
    if not path.is_dir() or (path / "model.ckpt").exists():
        return [path]
    found = sorted(path.rglob("model.ckpt"))
    if not found:
        raise CheckpointError(f"there is no model.ckpt in {path}, nor below it")
    return found


def _names(files: list[Path]) -> dict[str, Path]:
    """Each checkpoint by the part of its path that distinguishes it from the others."""
    homes = [_home(file).absolute() for file in files]
    common = os.path.commonpath([home.parent for home in homes])
    return {os.path.relpath(h, common): file for h, file in zip(homes, files, strict=True)}


def _home(checkpoint: Path) -> Path:
    """What a checkpoint is known by: its run folder, or its own name without the suffix."""
    return checkpoint.parent if checkpoint.name == "model.ckpt" else checkpoint.with_suffix("")


if __name__ == "__main__":
    launch("evaluate")
